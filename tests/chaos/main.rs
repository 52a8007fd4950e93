//! Faults from outside, on real processes: what they promise must hold whatever their machine does to them.
//!
//! Each subcommand is one kind of fault. Each says what failed, with the command that repeats it, and a table of what was
//! tried; it ends with 1 when anything failed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who test"
)]

mod disk;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Breaks things below mirrorlog, and looks whether it keeps its promises.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// A disk that runs full, fails, and forgets what was not synced when the power goes
    Disk(disk::Args),
}

fn main() -> ExitCode {
    match Args::parse().kind {
        Kind::Disk(args) => disk::run(&args),
    }
}
