//! A directory of a thousand mirrors against nginx's `return 302`: requests a second on the same cores, turn by turn.
//!
//! The network is real but for its size: one mirror answers at a thousand addresses, and the verdicts on the thousand
//! are signed here with the consistency service's key. wrk asks as clients of a few hundred networks would.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

mod fleet;
mod load;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use e2e::{Group, Measured, Network, Nginx, Setup, Tree, binary, median, until_within};
use fleet::Fleet;
use load::Load;

/// Measures redirects and lists of a large directory.
#[derive(Debug, Parser)]
struct Args {
    /// Mirrors
    #[arg(long, default_value_t = 1000)]
    mirrors: usize,
    /// Files of the tree
    #[arg(long, default_value_t = 20_000)]
    files: usize,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Folder with usr/bin/wrk and usr/sbin/nginx; target/tools/bench when left out
    #[arg(long)]
    tools: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long)]
    release: bool,
}

const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let args = Args::parse();
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(2).unwrap().to_owned();
    if args.release {
        e2e::use_binary(target.join("release/mirrorlog"));
    }
    let tools = args.tools.clone().unwrap_or(target.join("tools/bench"));
    println!("binary   {}", binary().display());
    println!(
        "fleet    {} mirrors, {} files, {} connections",
        args.mirrors, args.files, args.connections
    );
    let tree = Tree::new();
    let paths: Vec<String> = (0..args.files).map(path).collect();
    for path in &paths {
        tree.write(path, path);
    }
    let network = Network::start(&Setup::mirrors(1));
    network.publish_everywhere("bench", tree.path());
    let fleet = Fleet::muster(&network, args.mirrors);
    until_within(PATIENCE, "all mirrors are offered", || {
        let answer = network.ask_directory("/v1/mirrors?channel=bench&limit=1");
        answer.json()["offered"].as_u64() == Some(args.mirrors as u64)
    });
    println!("memory   {} with all offered", memory(&network));

    let nginx = Nginx::start(
        &tools,
        &format!("return 302 {}$request_uri;", fleet.example),
    );
    let load = Load::new(&tools, &paths, args.connections, args.seconds);
    let directory = network.directory().to_owned();
    let mut rounds: Vec<[Measured; 4]> = Vec::new();
    println!(
        "\n{:>6} {:>22} {:>30} {:>30} {:>30}",
        "round", "nginx 302", "redirect", "list (20 mirrors)", "JSON (20 mirrors)"
    );
    for round in 1..=args.rounds {
        let results = [
            load.run(&nginx.url, "redirect"),
            load.run(&directory, "redirect"),
            load.run(&directory, "list"),
            load.run(&directory, "json"),
        ];
        let ratios = results.each_ref().map(|one| one.per_s / results[0].per_s);
        print_round(&round.to_string(), &results, ratios);
        rounds.push(results);
    }
    let middle = |at: usize| Measured::median(rounds.iter().map(|round| round[at]));
    // Of ratios, not a ratio of medians: the machine is faster in some rounds than in others.
    let ratio = |at: usize| median(rounds.iter().map(|round| round[at].per_s / round[0].per_s));
    print_round("median", &[0, 1, 2, 3].map(middle), [0, 1, 2, 3].map(ratio));
    println!("memory   {} at the end", memory(&network));
}

fn path(number: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap());
    format!(
        "pool/main/{letter}/{letter}pkg{}/{letter}pkg_{number}_amd64.deb",
        number / 100
    )
}

fn print_round(name: &str, results: &[Measured; 4], ratios: [f64; 4]) {
    let [nginx, rest @ ..] = results;
    print!("{name:>6} {:>10.0}/s {:>6.1} ms", nginx.per_s, nginx.p99_ms);
    for (one, ratio) in rest.iter().zip(&ratios[1..]) {
        let failed = if one.failed > 0 {
            format!(" {} FAILED", one.failed)
        } else {
            String::new()
        };
        print!(
            " {:>10.0}/s {:>5.2}x {:>6.1} ms{failed}",
            one.per_s, ratio, one.p99_ms
        );
    }
    println!("  (p99)");
}

/// The most that the directory ever had resident.
fn memory(network: &Network) -> String {
    let peak = Group::of(network.pid("directory")).peak_mib();
    format!("peak {peak:.0} MiB")
}
