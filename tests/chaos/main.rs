//! Faults from outside, on real processes: what they promise must hold whatever their machine does to them.
//!
//! Each subcommand is one kind of fault. Each says what failed, with the command that repeats it, and a table of what was
//! tried; it ends with 1 when anything failed. Every choice comes from a seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who try to break it"
)]

mod clock;
mod cluster;
mod disk;
mod kill;
mod load;
mod log;
mod net;

use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

/// Plays faults on whole networks and checks that nothing is lost, torn or wrongly called complete.
///
/// Without a subcommand it plays a little of several: what CI does.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

/// A little, for CI: a minute or two in all.
const SHORT: [&str; 5] = [
    "kill --kills 20",
    "disk --fault strict --stride 60",
    "disk --workload sync --fault enospc --from 20 --to 20",
    "log --seconds 4 --only wipe",
    "cluster --seconds 4 --only leader",
];

#[derive(Debug, Subcommand)]
enum What {
    /// kill -9 of any process at random moments of publish, fetch, flip, export and gc
    Kill(kill::Args),
    /// A disk that runs full, fails, and forgets what was not synced when the power goes; needs root
    Disk(disk::Args),
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
    if let Some(what) = Args::parse().what {
        return play(what);
    }
    let mut failed = false;
    for line in SHORT {
        println!("\nchaos {line}\n");
        if let Some(why) = cannot_be_played(line) {
            println!("not played: {why}");
            continue;
        }
        // Each in a process of its own: the disk's is in a mount namespace.
        let mut one = Command::new(std::env::current_exe().unwrap());
        failed |= !one.args(line.split(' ')).status().unwrap().success();
    }
    ExitCode::from(u8::from(failed))
}

/// Why this machine cannot play a fault, if so.
fn cannot_be_played(line: &str) -> Option<String> {
    if !line.starts_with("disk") {
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !std::path::Path::new(device).exists() {
            return Some(format!("there is no {device}"));
        }
    }
    let mut apart = Command::new("unshare");
    let apart = apart.args(["--mount", "true"]).status();
    if !apart.is_ok_and(|ended| ended.success()) {
        return Some("this system lets nobody have mounts of their own".to_owned());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|one| one.parse().ok());
    let kernel: (u32, u32) = (numbers.next()?, numbers.next()?);
    (kernel < (6, 18)).then(|| {
        let release = release.trim();
        format!("Linux {release} tells no file system in user space of a syncfs; 6.18 does")
    })
}

fn play(what: What) -> ExitCode {
    let rows = match what {
        What::Kill(args) => kill::run(&args),
        What::Disk(args) => return disk::run(&args),
        What::Log(args) => log::run(&args),
        What::Cluster(args) => cluster::run(&args),
        What::Clock(args) => clock::run(&args),
        What::Net(args) => net::run(&args),
    };
    load::conclude(&rows)
}
