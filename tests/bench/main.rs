//! A small change to a large tree: `publish --changed LIST --wait all` against `rsync -a --delete`, turn by turn.
//!
//! One mirror, content on this machine, rsync from a daemon on loopback. Both sides apply the same change in each round;
//! the ratio is of medians.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

mod rsync;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use e2e::{Ended, Network, Tree, binary, noise};
use rsync::Rsync;

/// Publishes small changes to a large tree and compares with rsync.
#[derive(Debug, Parser)]
struct Args {
    /// Files of the tree
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// Files that change in each round
    #[arg(long, default_value_t = 50)]
    changed: usize,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes of each file, about
    #[arg(long, default_value_t = 600)]
    bytes: usize,
    /// Another binary than the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long, conflicts_with = "binary")]
    release: bool,
}

/// Seconds of one round, by phase.
struct Round {
    rsync: f64,
    command: f64,
    scan: f64,
    ingest: f64,
    publish: f64,
    complete: f64,
}

fn main() {
    let args = Args::parse();
    let chosen = args.binary.clone().or_else(|| args.release.then(release));
    if let Some(chosen) = chosen {
        assert!(
            chosen.is_file(),
            "{} is not there: build it first",
            chosen.display()
        );
        e2e::use_binary(chosen);
    }
    println!("binary   {}", binary().display());
    println!(
        "tree     {} files of about {} bytes, {} change",
        args.files, args.bytes, args.changed
    );
    let tree = Tree::new();
    let paths: Vec<String> = (0..args.files).map(path).collect();
    for (number, path) in paths.iter().enumerate() {
        tree.write(path, content(number, 0, args.bytes));
    }
    let network = Network::up(1);
    let rsync = Rsync::start(tree.path());
    let (begun, copied) = (Instant::now(), rsync.copy());
    println!("first    rsync {copied:.2} s");
    let first = network
        .publish(
            "bench",
            tree.path(),
            &["--wait", "all", "--timeout", "3600"],
        )
        .ok();
    println!(
        "         mirrorlog {:.2} s ({})",
        first.seconds,
        phases(&first)
    );
    println!("         {:.2} s in all", begun.elapsed().as_secs_f64());
    print_memory(&network);

    let mut rounds = Vec::new();
    println!(
        "\n{:>6} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "round", "rsync", "publish", "ratio", "scan", "ingest", "commit", "complete"
    );
    for round in 1..=args.rounds {
        let list = change(&network, &tree, &paths, round, &args);
        // The order changes, so that neither always finds the caches warm.
        let (rsync, ended) = if round % 2 == 0 {
            let rsync = rsync.copy();
            (rsync, publish(&network, &tree, &list))
        } else {
            let ended = publish(&network, &tree, &list);
            (rsync.copy(), ended)
        };
        let one = measured(rsync, &ended);
        print_round(&round.to_string(), &one);
        rounds.push(one);
    }
    let median = |of: fn(&Round) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let medians = Round {
        rsync: median(|one| one.rsync),
        command: median(|one| one.command),
        scan: median(|one| one.scan),
        ingest: median(|one| one.ingest),
        publish: median(|one| one.publish),
        complete: median(|one| one.complete),
    };
    print_round("median", &medians);
    rsync.compare();
    print_memory(&network);
}

fn release() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    target.ancestors().nth(2).unwrap().join("release/mirrorlog")
}

/// A Debian-like path: some files a folder, some hundred folders a letter.
fn path(number: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap());
    let package = number / 26 / 6;
    format!("pool/main/{letter}/{letter}pkg{package}/{letter}pkg{package}_{number}_amd64.deb")
}

fn content(number: usize, round: usize, bytes: usize) -> Vec<u8> {
    let seed = (number * 1_000 + round) as u64;
    noise(seed, bytes / 2 + number % bytes.max(1))
}

/// Changes files that lie far apart. Returns the list for `--changed`.
fn change(network: &Network, tree: &Tree, paths: &[String], round: usize, args: &Args) -> PathBuf {
    let step = (paths.len() / args.changed.max(1)).max(1);
    let mut list = String::new();
    for number in (round..paths.len()).step_by(step).take(args.changed) {
        tree.write(&paths[number], content(number, round, args.bytes));
        list.push_str(&paths[number]);
        list.push('\n');
    }
    let file = network.scratch().join("changed");
    std::fs::write(&file, list).unwrap();
    file
}

fn publish(network: &Network, tree: &Tree, list: &std::path::Path) -> Ended {
    let list = list.to_str().unwrap();
    network
        .publish(
            "bench",
            tree.path(),
            &["--changed", list, "--wait", "all", "--timeout", "60"],
        )
        .ok()
}

fn measured(rsync: f64, ended: &Ended) -> Round {
    let seconds = |name: &str| ended.json["seconds"][name].as_f64().unwrap();
    Round {
        rsync,
        command: ended.seconds,
        scan: seconds("scan"),
        ingest: seconds("ingest"),
        publish: seconds("publish"),
        complete: ended.json["complete"][0]["seconds"].as_f64().unwrap(),
    }
}

fn phases(ended: &Ended) -> String {
    let seconds = ended.json["seconds"].as_object().unwrap().iter();
    let phases = seconds.map(|(name, seconds)| format!("{name} {:.2}", seconds.as_f64().unwrap()));
    phases.collect::<Vec<_>>().join(", ")
}

fn print_round(name: &str, round: &Round) {
    let Round {
        rsync,
        command,
        scan,
        ingest,
        publish,
        complete,
    } = round;
    let ratio = rsync / command;
    println!(
        "{name:>6} {rsync:>8.3}s {command:>8.3}s {ratio:>6.1}x {scan:>8.3}s {ingest:>8.3}s {publish:>8.3}s {complete:>8.3}s"
    );
}

/// The most that the processes ever had resident.
fn print_memory(network: &Network) {
    let peak = |name: &str| {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", network.pid(name))).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        format!("{name} {:.0} MiB", kib / 1024.0)
    };
    println!(
        "peak memory: {}",
        ["archive", "nz1", "consistency", "nats"]
            .map(peak)
            .join(", ")
    );
}
