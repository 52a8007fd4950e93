//! The mirror's own HTTP server against nginx on the same files, turn by turn: small files, conditional requests,
//! ranges and the whole of one large file; live URLs and pinned ones.
//!
//! The network is real. nginx serves the tree that was published, with `sendfile`, without and with its cache of open
//! files; the mirror serves its store. What all of them send is checked by digest before anything is measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

mod files;
mod slow;
mod table;

use std::path::PathBuf;

use clap::Parser;
use e2e::{Group, Measured, Network, Nginx, Setup, Wrk, binary};
use files::Files;

/// Measures how fast files are served.
#[derive(Debug, Parser)]
struct Args {
    /// Small files
    #[arg(long, default_value_t = 10_000)]
    files: usize,
    /// Size of the large file, in MiB
    #[arg(long, default_value_t = 256)]
    large_mib: usize,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Connections that ask for small files
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Connections that ask for the large file, or for ranges of it
    #[arg(long, default_value_t = 8)]
    large_connections: usize,
    /// Clients that ask for the large file and do not read it
    #[arg(long, default_value_t = 400)]
    slow: usize,
    /// What is asked for; all when left out
    #[arg(long, value_enum)]
    only: Vec<Case>,
    /// Folder with usr/bin/wrk and usr/sbin/nginx; target/tools/bench when left out
    #[arg(long)]
    tools: Option<PathBuf>,
    /// Another binary than the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long, conflicts_with = "binary")]
    release: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// Many small files, each whole
    Small,
    /// The same by clients that have them: If-Modified-Since, 304
    Unchanged,
    /// Ranges of the large file
    Range,
    /// The large file
    Large,
}

impl Case {
    const ALL: [Self; 4] = [Self::Small, Self::Unchanged, Self::Range, Self::Large];

    fn name(self) -> &'static str {
        match self {
            Self::Small => "small files",
            Self::Unchanged => "small files, 304",
            Self::Range => "ranges",
            Self::Large => "large file",
        }
    }
}

/// Who is asked.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// URL below which the files are.
    pub(crate) url: String,
    /// The part of it that is a path.
    pub(crate) prefix: String,
    processes: Group,
}

/// What one turn came to.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) measured: Measured,
    pub(crate) cpu_s: f64,
    pub(crate) peak_mib: f64,
}

/// How many peers there are; the first two are nginx.
pub(crate) const PEERS: usize = 4;

const CHANNEL: &str = "bench";
const MIRROR: &str = "nz1";

fn main() {
    let args = Args::parse();
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(2).unwrap().to_owned();
    let release = args.release.then(|| target.join("release/mirrorlog"));
    if let Some(chosen) = args.binary.clone().or(release) {
        e2e::use_binary(chosen);
    }
    let tools = args.tools.clone().unwrap_or(target.join("tools/bench"));
    eprintln!("binary {}", binary().display());
    let files = Files::write(args.files, args.large_mib << 20, CHANNEL);
    let network = Network::start(&Setup::mirrors(1));
    let build = network.publish_everywhere(CHANNEL, &files.tree());
    let root = format!(
        "root {}; sendfile on; tcp_nopush on;",
        files.root().display()
    );
    let cached = format!(
        "{root} open_file_cache max={} inactive=60s; open_file_cache_valid 60s;",
        args.files * 2
    );
    let servers = [root, cached].map(|does| Nginx::start(&tools, &does));
    let peers = peers(&network, &servers, build);
    let wrk = Wrk::new(&tools);
    let cases: Vec<Case> = Case::ALL
        .into_iter()
        .filter(|case| args.only.is_empty() || args.only.contains(case))
        .collect();
    for (at, peer) in peers.iter().enumerate() {
        let dates = files.check(network.http(), peer);
        for &case in &cases {
            let asks = files.asks(case, &peer.prefix, &dates);
            wrk.script(&script(case, at), asks);
        }
    }
    let (small, large) = files.sizes();
    println!(
        "{} small files, {:.1} MiB; one of {:.0} MiB; {} and {} connections; {} rounds of {} s by turns; medians\n",
        args.files,
        small as f64 / MIB,
        large as f64 / MIB,
        args.connections,
        args.large_connections,
        args.rounds,
        args.seconds
    );
    table::head();
    for case in cases {
        let rounds = (0..args.rounds).map(|round| turns(&args, case, round, &wrk, &peers));
        table::rows(case, &peers, &rounds.collect::<Vec<_>>());
    }
    println!(
        "\npeak memory with {} clients that ask for the large file and do not read it:",
        args.slow
    );
    for peer in &peers {
        let peak_mib = slow::peak_mib(peer, &files.large(&peer.prefix), args.slow);
        println!("{}: {peak_mib:.0} MiB", peer.name);
    }
    drop(servers);
    network.stop();
}

pub(crate) const MIB: f64 = 1024.0 * 1024.0;

fn peers(network: &Network, servers: &[Nginx; 2], build: u64) -> [Peer; PEERS] {
    let [plain, cached] = servers;
    let peer = |name, server: &str, prefix: String, pid| Peer {
        name,
        url: server.to_owned(),
        prefix,
        processes: Group::of(pid),
    };
    let mirror = network.url(MIRROR);
    let mount = network.channel(MIRROR, CHANNEL)["mount"]
        .as_str()
        .unwrap()
        .to_owned();
    let pid = network.pid(MIRROR);
    [
        peer("nginx", &plain.url, format!("/{CHANNEL}"), plain.pid()),
        peer(
            "nginx, open_file_cache",
            &cached.url,
            format!("/{CHANNEL}"),
            cached.pid(),
        ),
        peer(
            "mirror, live",
            mirror,
            mount.trim_end_matches('/').to_owned(),
            pid,
        ),
        peer(
            "mirror, pinned",
            mirror,
            format!("/@/{CHANNEL}/{build}"),
            pid,
        ),
    ]
}

fn script(case: Case, peer: usize) -> String {
    format!("{case:?}-{peer}")
}

/// One round; every other one goes backwards, so that nobody is always first.
fn turns(args: &Args, case: Case, round: usize, wrk: &Wrk, peers: &[Peer; PEERS]) -> [Turn; PEERS] {
    let (connections, seconds) = match case {
        Case::Small | Case::Unchanged => (args.connections, args.seconds),
        Case::Range | Case::Large => (args.large_connections, args.seconds),
    };
    let mut found: [Option<Turn>; PEERS] = [None; PEERS];
    let mut order: Vec<usize> = (0..PEERS).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    for at in order {
        let peer = &peers[at];
        peer.processes.reset_peak();
        let before = peer.processes.cpu_s();
        let measured = wrk.run(&peer.url, &script(case, at), connections, seconds);
        found[at] = Some(Turn {
            measured,
            cpu_s: peer.processes.cpu_s() - before,
            peak_mib: peer.processes.peak_mib(),
        });
    }
    found.map(Option::unwrap)
}
