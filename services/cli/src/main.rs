//! `mirrorlog`: the one binary. Thin: it parses, calls, prints.
#![allow(clippy::print_stdout, reason = "a command prints")]

mod args;
mod command;
mod failure;
mod local;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;

fn main() -> ExitCode {
    let called_by_apt = command::apt_method::is_called(std::env::args_os());
    let args = if called_by_apt {
        Args::apt_method()
    } else {
        Args::parse()
    };
    let output = output::Output::new(&args);
    if let args::Command::AptMethod = args.command {
        return exit(command::apt_method::run(), &output);
    }
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.clamp(2, 8))
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(command::run(args, &output)),
        Err(error) => Err(failure::Failure::new(74, error.into())),
    };
    exit(ended, &output)
}

fn exit(ended: Result<u8, failure::Failure>, output: &output::Output) -> ExitCode {
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}
