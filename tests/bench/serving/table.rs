//! The table, in Markdown.

use e2e::{Measured, median};

use crate::{Case, MIB, PEERS, Peer, Turn};

pub(crate) fn head() {
    println!(
        "| what | server | requests/s | MiB/s | p99 | CPU a request | CPU a GiB | peak memory | \
         against nginx | against nginx, open_file_cache |"
    );
    println!("| --- | --- | --: | --: | --: | --: | --: | --: | --- | --- |");
}

/// The rows of one case. Ratios are of each round, and then their median: the machine is faster in some than in others.
pub(crate) fn rows(case: Case, peers: &[Peer; PEERS], rounds: &[[Turn; PEERS]]) {
    for (at, peer) in peers.iter().enumerate() {
        let all = || rounds.iter().map(|round| round[at]);
        let measured = Measured::median(all().map(|turn| turn.measured));
        let a_request = |turn: Turn| turn.cpu_s / (turn.measured.per_s * turn.measured.seconds);
        let a_gib = |turn: Turn| {
            let bytes = turn.measured.bytes_per_s * turn.measured.seconds;
            turn.cpu_s / (bytes / MIB / 1024.0)
        };
        let peak_mib = all().map(|turn| turn.peak_mib).fold(0.0, f64::max);
        let failed = match measured.failed {
            0 => String::new(),
            failed => format!(" {failed} FAILED"),
        };
        println!(
            "| {} | {} | {:.0}{failed} | {:.0} | {:.1} ms | {:.1} µs | {:.0} ms | {peak_mib:.0} MiB | {} | {} |",
            case.name(),
            peer.name,
            measured.per_s,
            measured.bytes_per_s / MIB,
            measured.p99_ms,
            median(all().map(a_request)) * 1e6,
            median(all().map(a_gib)) * 1e3,
            ratio(case, rounds, at, 0),
            ratio(case, rounds, at, 1),
        );
    }
}

/// Median, least and most of the rounds' ratios: of requests, or of bytes where few requests are answered.
fn ratio(case: Case, rounds: &[[Turn; PEERS]], at: usize, to: usize) -> String {
    if at == to {
        return "1".to_owned();
    }
    let rate = |turn: &Turn| match case {
        Case::Small | Case::Unchanged => turn.measured.per_s,
        Case::Range | Case::Large => turn.measured.bytes_per_s,
    };
    let mut ratios: Vec<f64> = rounds
        .iter()
        .map(|round| rate(&round[at]) / rate(&round[to]))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    format!("{:.2} ({least:.2}-{most:.2})", median(ratios.clone()))
}
