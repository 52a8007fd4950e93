//! One module a group of commands.

mod adopt;
pub(crate) mod apt_method;
mod ask;
mod backfill;
mod change;
mod client;
mod directory;
mod drain;
mod enroll;
mod get;
mod init;
mod inspect;
mod key;
mod line;
pub(crate) mod nats_config;
mod nginx;
mod order;
mod progress;
mod publish;
mod remote;
mod retract;
mod select;
mod serve;
mod status;
mod token;
mod upkeep;
mod wait;

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use runtime::boot::TelemetryConfig;

use crate::args::{Args, Command, DirectoryCommand, LocalCommand, MirrorCommand, ServeCommand};
use crate::failure::{CONFIG, Failure, IO, OrExit as _};
use crate::local;
use crate::output::Output;

pub(crate) use init::write_key;

/// Runs a command; returns its exit code.
pub(crate) async fn run(args: Args, output: &Output) -> Result<u8, Failure> {
    let Args {
        config,
        log,
        command,
        ..
    } = args;
    let service = matches!(
        command,
        Command::Archive(_)
            | Command::Mirror(MirrorCommand::Serve)
            | Command::Consistency(_)
            | Command::Directory(DirectoryCommand::Serve)
    );
    // Services set up telemetry from their configuration; commands only warn unless told otherwise.
    let level = log.as_deref().or(Some("warn"));
    let traced = matches!(command, Command::Publish(_) | Command::Retract(_));
    let exports = config
        .as_deref()
        .filter(|_| traced)
        .map(exports)
        .unwrap_or_default();
    let _telemetry = (!service).then(|| runtime::boot::telemetry("cli", &exports, level));
    match command {
        Command::Local(LocalCommand::Up(up)) => local::up(&up, output).await,
        Command::Local(LocalCommand::Demo(demo)) => local::demo(&demo, output).await,
        Command::Init(init) => init::run(&init, output),
        Command::NatsConfig(nats) => nats_config::run(&nats, output),
        Command::Archive(ServeCommand::Serve) => {
            serve::archive(&need(config)?, log.as_deref()).await
        }
        Command::Mirror(MirrorCommand::Serve) => {
            serve::mirror(&need(config)?, log.as_deref()).await
        }
        Command::Mirror(MirrorCommand::Adopt(adopt)) => {
            adopt::run(&need(config)?, adopt, output).await
        }
        Command::Mirror(MirrorCommand::NginxSnippet) => nginx::snippet(&need(config)?, output),
        Command::Mirror(MirrorCommand::Invite(invite)) => {
            enroll::invite(&need(config)?, &invite, output).await
        }
        Command::Mirror(MirrorCommand::Uninvite { mirror }) => {
            enroll::uninvite(&need(config)?, &mirror, output).await
        }
        Command::Mirror(MirrorCommand::Enroll(enroll)) => enroll::enroll(&enroll, output).await,
        Command::Mirror(MirrorCommand::Drain(drain)) => {
            drain::drain(&need(config)?, drain, output).await
        }
        Command::Mirror(MirrorCommand::Resume(resume)) => {
            drain::resume(&need(config)?, &resume, output).await
        }
        Command::Consistency(ServeCommand::Serve) => {
            serve::consistency(&need(config)?, log.as_deref()).await
        }
        Command::Directory(DirectoryCommand::Serve) => {
            serve::directory(&need(config)?, log.as_deref()).await
        }
        Command::Directory(DirectoryCommand::Export { dir }) => {
            directory::export(&need(config)?, &dir, output)
        }
        Command::Why(why) => directory::why(config.as_deref(), &why, output).await,
        // It gives up rights before threads are started, so `main` has seen to it.
        Command::AptMethod => Ok(0),
        Command::Get(get) => get::run(get, output).await,
        Command::Select(select) => select::run(select, output).await,
        Command::Publish(publish) => publish::run(config, publish, output).await,
        Command::Retract(retract) => retract::run(config, retract, output).await,
        Command::Log(log) => change::log(&need(config)?, &log, output).await,
        Command::Diff(diff) => change::diff(&need(config)?, &diff, output).await,
        Command::Show(show) => inspect::show(&need(config)?, &show, output).await,
        Command::Ls(ls) => inspect::ls(&need(config)?, &ls, output).await,
        Command::Status(status) => status::run(&need(config)?, &status, output).await,
        Command::Replay(replay) => order::replay(&need(config)?, replay, output).await,
        Command::Verify(verify) => order::verify(config.as_deref(), verify, output).await,
        Command::Backfill(backfill) => backfill::run(&need(config)?, &backfill, output).await,
        Command::LogRepair(repair) => upkeep::log_repair(&need(config)?, &repair, output).await,
        Command::Gc(gc) => upkeep::gc(&need(config)?, &gc, output).await,
        Command::Token(command) => token::run(&need(config)?, command, output).await,
        Command::Key(command) => key::run(config, &command, output).await,
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Args::command(),
                "mirrorlog",
                &mut std::io::stdout(),
            );
            Ok(0)
        }
        Command::Man => {
            clap_mangen::Man::new(Args::command())
                .render(&mut std::io::stdout())
                .or_exit(IO)?;
            Ok(0)
        }
    }
}

/// Where the archive exports traces: what it publishes begins in the command. A bad file is the command's to refuse.
fn exports(config: &Path) -> TelemetryConfig {
    archive::config::Config::load(config)
        .map(|config| config.telemetry)
        .unwrap_or_default()
}

fn need(config: Option<PathBuf>) -> Result<PathBuf, Failure> {
    config.ok_or_else(|| {
        Failure::text(
            CONFIG,
            "no configuration given: use --config FILE or MIRRORLOG_CONFIG",
        )
    })
}
