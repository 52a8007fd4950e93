//! A pool of fresh mirrors that one build is published to: how many copies of it the archive sends, and how long it takes
//! until all are live; beside it the same with mirrors that do not feed each other. Then once more while one of them stalls,
//! one is killed, and one gives wrong bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::{Network, Setup, Tree, binary, noise, until_within};

/// Measures mirrors that feed each other.
#[derive(Debug, Parser)]
struct Args {
    /// Mirrors of the pool, 4 at least
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(4..=100))]
    mirrors: u16,
    /// Bytes of the build, in MiB: half in files of 12 KiB, half in files of 10 MiB
    #[arg(long, default_value_t = 477)]
    mib: usize,
    /// Runs of each kind
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Another binary than target/debug/mirrorlog
    #[arg(long)]
    binary: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long)]
    release: bool,
}

const SMALL_BYTES: usize = 12 * 1024;
const LARGE_BYTES: usize = 10 << 20;
const LIMIT: Duration = Duration::from_secs(600);

/// What is done to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Alone,
    Peers,
    Faults,
}

impl Kind {
    const fn text(self) -> &'static str {
        match self {
            Self::Alone => "each by itself",
            Self::Peers => "peers",
            Self::Faults => "peers; one stalls, one is killed, one has rotten files",
        }
    }
}

fn main() {
    let args = Args::parse();
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(2).unwrap().to_owned();
    if args.release {
        e2e::use_binary(target.join("release/mirrorlog"));
    }
    if let Some(binary) = &args.binary {
        e2e::use_binary(binary.clone());
    }
    println!("binary   {}", binary().display());
    let tree = Tree::new();
    let payload = fill(&tree, args.mib << 20);
    println!(
        "build    {} files, {:.1} MB; {} mirrors in one pool, all on this machine\n",
        tree.files().len(),
        payload as f64 / 1e6,
        args.mirrors
    );
    println!("| pool | copies sent by the archive | live on all that run, s after publish |");
    println!("| --- | --- | --- |");
    for kind in [Kind::Alone, Kind::Peers, Kind::Faults] {
        for _ in 0..args.rounds {
            let (copies, seconds) = run(&args, kind, &tree, payload);
            println!("| {} | {copies:.2} | {seconds:.1} |", kind.text());
        }
    }
}

/// Returns how many bytes the files have.
fn fill(tree: &Tree, bytes: usize) -> usize {
    let (small, large) = (bytes / 2 / SMALL_BYTES, bytes / 2 / LARGE_BYTES);
    for number in 0..small {
        let path = format!("small/{:03}/{number}", number / 200);
        tree.write(&path, noise(number as u64, SMALL_BYTES));
    }
    for number in 0..large {
        let seed = 1_000_000 + number as u64;
        tree.write(&format!("large/{number}"), noise(seed, LARGE_BYTES));
    }
    small * SMALL_BYTES + large * LARGE_BYTES
}

/// What mirrors have received from the archive.
fn from_archive(network: &Network, mirrors: &[&str]) -> u64 {
    let of = |mirror: &&str| -> u64 {
        let metrics = network.get(mirror, "/metrics").text();
        let lines = metrics.lines().filter(|line| {
            line.starts_with("mirrorlog_fetch_bytes_total") && line.contains("\"archive\"")
        });
        let values = lines.map(|line| line.rsplit(' ').next().unwrap());
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    };
    mirrors.iter().map(of).sum()
}

fn run(args: &Args, kind: Kind, tree: &Tree, payload: usize) -> (f64, f64) {
    let network = Network::start(&Setup::mirrors(args.mirrors));
    let mirrors = network.mirrors();
    if kind == Kind::Alone {
        for mirror in &mirrors {
            network.kill(mirror);
            network.configure(mirror, |config| {
                let peers = config["peers"].as_table_mut().unwrap();
                peers.insert("enabled".to_owned(), false.into());
            });
            network.spawn(mirror);
        }
        for mirror in &mirrors {
            until_within(LIMIT, "the mirror is ready", || network.is_ready(mirror));
        }
    }
    let [stalls, dies, lies, good @ ..] = &mirrors[..] else {
        panic!("four mirrors at least");
    };
    network.publish("c", tree.path(), &[]).ok();
    let begun = Instant::now();
    let counted = match kind {
        Kind::Alone | Kind::Peers => &mirrors[..],
        Kind::Faults => good,
    };
    if kind == Kind::Faults {
        // In the middle of it, as far as one can tell: when some files are there.
        until_within(LIMIT, "the one that lies has something", || {
            rot(&network, lies) > 0
        });
        network.pause(stalls);
        network.kill(dies);
    }
    until_within(LIMIT, "the build is live", || {
        if kind == Kind::Faults {
            rot(&network, lies);
        }
        let live = |mirror: &&str| network.live(mirror, "c") == Some(1);
        counted.iter().all(live)
    });
    let seconds = begun.elapsed().as_secs_f64();
    // A sync counts when it ends; what the others got of theirs is not known.
    let copies = from_archive(&network, counted) as f64 / payload as f64;
    if kind == Kind::Faults {
        network.resume(stalls);
    }
    network.stop();
    (copies, seconds)
}

/// Changes a byte of every file that a mirror has stored; returns how many it has.
fn rot(network: &Network, mirror: &str) -> usize {
    let store = network.mirror_dir(mirror).join("store");
    let mut files = 0;
    let folders = std::fs::read_dir(store).into_iter().flatten().flatten();
    let folders = folders.filter(|folder| folder.file_name().len() == 2);
    for folder in folders {
        for file in std::fs::read_dir(folder.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let open = std::fs::File::options().write(true).open(file.path());
            let Ok(open) = open else { continue };
            let length = open.metadata().map_or(0, |metadata| metadata.len());
            // Files of this length are content, not pages.
            if length >= SMALL_BYTES as u64 {
                open.write_at(b"rot", length / 2).unwrap();
                files += 1;
            }
        }
    }
    files
}
