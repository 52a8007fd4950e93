//! Faults from outside of the binary: as many, as long and as hard as one likes. Every choice comes from a seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who try to break it"
)]

mod clock;
mod cluster;
mod load;
mod log;
mod net;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Plays faults on a whole network and checks that nothing is lost, torn or wrongly called complete.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A log that drops, doubles, reorders, delays, cuts and stalls; that is wiped; that goes back in time
    Log(log::Args),
    /// Three servers that hold the log: the leader is killed, again and again; one is lost for good
    Cluster(cluster::Args),
    /// Clocks that are minutes or a day wrong
    Clock(clock::Args),
    /// A mirror, or the auditor, that does not reach the others; needs root
    Net(net::Args),
}

fn main() -> ExitCode {
    let rows = match Args::parse().what {
        What::Log(args) => log::run(&args),
        What::Cluster(args) => cluster::run(&args),
        What::Clock(args) => clock::run(&args),
        What::Net(args) => net::run(&args),
    };
    load::conclude(&rows)
}
