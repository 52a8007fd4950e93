//! Faults of the log: a proxy in front of nats-server drops, doubles, reorders, delays and cuts; the log is wiped, and
//! set back to an older copy of itself.

mod faults;
mod protocol;
mod proxy;

use std::time::{Duration, Instant};

use e2e::{Network, Setup};
use runtime::boot::HeldPort;

use crate::load::{Chance, Load, Row, Server, seed_or_new};
use faults::{Fault, Odds};
use proxy::Proxy;

/// Time in which what happened is noticed, at most, before the next wipe.
const APART_MS: (u64, u64) = (1_000, 5_000);
const POLL: Duration = Duration::from_millis(50);

/// What is played, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Repeats a run's choices
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of each fault
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// A fault ends before its time once it was played so often
    #[arg(long)]
    faults: Option<u64>,
    /// These only
    #[arg(long, value_delimiter = ',')]
    only: Vec<Fault>,
}

const EACH: [Fault; 9] = [
    Fault::Drop,
    Fault::Double,
    Fault::Reorder,
    Fault::Delay,
    Fault::Cut,
    Fault::Stall,
    Fault::All,
    Fault::Wipe,
    Fault::Rollback,
];

pub(crate) fn run(args: &Args) -> Vec<Row> {
    let seed = seed_or_new(args.seed);
    eprintln!("chaos log --seed {seed}");
    let chosen: &[Fault] = if args.only.is_empty() {
        &EACH
    } else {
        &args.only
    };
    chosen
        .iter()
        .map(|fault| play(*fault, seed, args))
        .collect()
}

fn play(fault: Fault, seed: u64, args: &Args) -> Row {
    let begun = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path().join("nats"), HeldPort::draw().unwrap(), "");
    let proxy = Proxy::start(server.port(), seed);
    let network = Network::start(&Setup::mirrors(2).nats(&proxy.url()));
    let load = Load::of(&network, seed);
    let mut injected = 0;
    load.during(|| {
        let end = Instant::now() + Duration::from_secs(args.seconds);
        let goes_on =
            |played: u64| Instant::now() < end && args.faults.is_none_or(|most| played < most);
        let mut chance = Chance::of(seed, "log", 0);
        match fault {
            Fault::Wipe => injected = wipe(&mut server, &mut chance, goes_on),
            Fault::Rollback => injected = set_back(&mut server, &mut chance, goes_on),
            Fault::Drop
            | Fault::Double
            | Fault::Reorder
            | Fault::Delay
            | Fault::Cut
            | Fault::Stall
            | Fault::All => {
                proxy.play(Odds::of(fault));
                while goes_on(proxy.played().all()) {
                    std::thread::sleep(POLL);
                }
                proxy.heal();
                injected = proxy.played().all();
            }
        }
    });
    eprintln!("{fault:?}: {injected} played: {}", proxy.played());
    load.ends_well();
    if [Fault::Wipe, Fault::Rollback].contains(&fault) {
        // Once more, and nothing is published afterwards: what was said before has to be said again.
        server.kill();
        if fault == Fault::Wipe {
            server.wipe();
        } else {
            server.set_back();
        }
        server.again();
        injected += 1;
        load.directory_offers_all("after the log forgot all of it");
    }
    let word = format!("{fault:?}").to_lowercase();
    let limit = args
        .faults
        .map_or_else(String::new, |most| format!(" --faults {most}"));
    Row {
        how: fault.how(),
        injected,
        builds: load.builds(),
        checks: load.findings.checks(),
        failures: load.findings.failures(),
        seconds: begun.elapsed().as_secs_f64(),
        again: format!(
            "chaos log --only {word} --seed {seed} --seconds {}{limit}",
            args.seconds
        ),
        fault: format!("log {word}"),
    }
}

/// Kills the log and lets it begin empty, again and again.
fn wipe(server: &mut Server, chance: &mut Chance, goes_on: impl Fn(u64) -> bool) -> u64 {
    let mut played = 0;
    while goes_on(played) {
        chance.pause(APART_MS.0, APART_MS.1);
        server.kill();
        server.wipe();
        chance.pause(0, 300);
        server.again();
        played += 1;
    }
    played
}

/// Kills the log and lets it begin where it was a while ago: what it acked since is gone, and its floors go back.
fn set_back(server: &mut Server, chance: &mut Chance, goes_on: impl Fn(u64) -> bool) -> u64 {
    let mut played = 0;
    while goes_on(played) {
        chance.pause(APART_MS.0, APART_MS.1);
        server.stop();
        server.save();
        server.again();
        // The same copy comes back more than once.
        for _ in 0..=chance.below(2) {
            chance.pause(APART_MS.0, APART_MS.1);
            server.kill();
            server.set_back();
            server.again();
            played += 1;
        }
    }
    played
}
