//! kill -9 at random moments: of every service, of the log's server, and of the commands that publish and collect.
//!
//! A seed is one network with builds, readers and kills of its own; the points of a long run are seeds times kills, and a
//! range of seeds can be played apart from the others. Mirrors have export trees and let builds go after seconds, and
//! the archive is collected all the time, so that kills meet publications, fetches, flips, trees and sweeps.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use e2e::{Network, Setup};
use rustix::process::{Pid, Signal, kill_process};

use crate::load::{CHANNEL, Chance, Load, Row};

/// Who is killed. `publish` and `gc` are commands: the one that runs, if one does.
const VICTIMS: [&str; 8] = [
    "archive",
    "nz1",
    "nz2",
    "consistency",
    "directory",
    "nats",
    "publish",
    "gc",
];
const MIRRORS: [&str; 2] = ["nz1", "nz2"];
/// One kill in so many takes a second service with it.
const BOTH: u64 = 5;
/// Longest time to the next kill, and of a service that is down, in milliseconds.
const APART_MS: u64 = 250;
const DOWN_MS: u64 = 100;

/// How many, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Networks that are played, each by its seed: 1..501 are 500 of them
    #[arg(long, default_value = "1..2", value_parser = range)]
    seeds: Range<u64>,
    /// Kills in each
    #[arg(long, default_value_t = 20)]
    kills: u64,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} is no range of seeds: write 1..501");
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let (first, end) = (first.parse(), end.parse());
    match (first, end) {
        (Ok(first), Ok(end)) if first < end => Ok(first..end),
        _no_range => Err(wrong()),
    }
}

pub(crate) fn run(args: &Args) -> Vec<Row> {
    let mut all: Option<Row> = None;
    let mut failed = Vec::new();
    for seed in args.seeds.clone() {
        let row = play(seed, args.kills);
        eprintln!(
            "seed {seed}: {} kills, {} builds, {} checks, {} failures, {:.0} s",
            row.injected, row.builds, row.checks, row.failures, row.seconds
        );
        if row.failures > 0 {
            failed.push(row);
            continue;
        }
        all = Some(match all.take() {
            None => row,
            Some(sum) => Row {
                injected: sum.injected + row.injected,
                builds: sum.builds + row.builds,
                checks: sum.checks + row.checks,
                seconds: sum.seconds + row.seconds,
                ..sum
            },
        });
    }
    all.into_iter().chain(failed).collect()
}

fn play(seed: u64, kills: u64) -> Row {
    let begun = Instant::now();
    let network = Network::start(&Setup::mirrors(2).export());
    let_go_early(&network);
    let load = Load::of(&network, seed);
    let (killed, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    load.during(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| collect_until(&load, &stop));
            for mirror in MIRRORS {
                let (load, stop) = (&load, &stop);
                scope.spawn(move || read_tree_until(load, mirror, stop));
            }
            torture(&network, kills, Chance::of(seed, "kills", 0), &killed);
            stop.store(true, Ordering::Relaxed);
        });
    });
    load.ends_well();
    for args in [
        vec!["verify"],
        vec!["verify", "--mirror", "nz1"],
        vec!["verify", "--mirror", "nz2"],
    ] {
        let ended = network.run(&args);
        load.findings.check(ended.code == 0, || {
            format!("{args:?}: {} {}", ended.stderr, ended.stdout)
        });
    }
    Row {
        fault: "kill -9".to_owned(),
        how: format!("{} at random moments", VICTIMS.join(", ")),
        injected: killed.load(Ordering::Relaxed),
        builds: load.builds(),
        checks: load.findings.checks(),
        failures: load.findings.failures(),
        seconds: begun.elapsed().as_secs_f64(),
        again: format!("chaos kill --seeds {seed}..{} --kills {kills}", seed + 1),
    }
}

/// Builds go after seconds, so that collections have something to do.
fn let_go_early(network: &Network) {
    network.kill("archive");
    network.configure("archive", |config| {
        let gc: toml::Table = "keep_builds = 4\nkeep = \"0s\"".parse().unwrap();
        config.insert("gc".to_owned(), toml::Value::Table(gc));
    });
    network.restart("archive");
    for name in MIRRORS {
        network.kill(name);
        network.configure(name, |config| {
            let mirror = config["mirror"].as_table_mut().unwrap();
            mirror.insert("grace".to_owned(), toml::Value::String("2s".to_owned()));
        });
        network.restart(name);
    }
}

fn torture(network: &Network, kills: u64, mut chance: Chance, killed: &AtomicU64) {
    while killed.load(Ordering::Relaxed) < kills {
        // The random moment: not a wait for anything.
        chance.pause(0, APART_MS);
        let victim = choose(&mut chance);
        if ["publish", "gc"].contains(&victim) {
            killed.fetch_add(kill_command(network, victim), Ordering::Relaxed);
            continue;
        }
        let mut victims = vec![victim];
        let other = choose(&mut chance);
        if chance.one_in(BOTH) && other != victim && !["publish", "gc"].contains(&other) {
            victims.push(other);
        }
        for name in &victims {
            network.kill(name);
            killed.fetch_add(1, Ordering::Relaxed);
        }
        chance.pause(0, DOWN_MS);
        // Whoever needs another one waits for it.
        victims.iter().for_each(|name| network.spawn(name));
        for name in &victims {
            e2e::until_within(
                crate::load::RECOVERS_WITHIN,
                "a killed service is ready",
                || network.is_ready(name),
            );
        }
    }
}

fn choose(chance: &mut Chance) -> &'static str {
    VICTIMS[usize::try_from(chance.below(VICTIMS.len() as u64)).unwrap()]
}

/// Kills the operators' commands of this kind that run now; gives how many.
fn kill_command(network: &Network, kind: &str) -> u64 {
    let config = network.config("archive");
    let config = config.to_str().unwrap();
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let is = |word: &str| words.clone().any(|one| one == word.as_bytes());
        let ours = is(config) && is(kind);
        if ours && words.next().is_some() && kill_process(pid, Signal::KILL).is_ok() {
            killed += 1;
        }
    }
    killed
}

/// Collects the archive's store all the time.
fn collect_until(load: &Load<'_>, stop: &AtomicBool) {
    let mut chance = Chance::of(load.seed, "gc", 0);
    while !stop.load(Ordering::Relaxed) {
        load.done(&load.network.run(["gc"]));
        chance.pause(50, 400);
    }
}

/// Whoever has entered an export tree reads one build.
fn read_tree_until(load: &Load<'_>, mirror: &str, stop: &AtomicBool) {
    let mount = load.network.mirror_dir(mirror).join("export").join(CHANNEL);
    let mut chance = Chance::of(load.seed, "tree", 0);
    while !stop.load(Ordering::Relaxed) {
        if let Some((a, z)) = halves(&mount) {
            load.findings.check(a == z, || {
                format!("a tree of {mirror} has {a} in one half and {z} in the other")
            });
        }
        chance.pause(5, 60);
    }
}

/// Both halves of the tree that the mount leads to now; `None` when there is none, or it went.
fn halves(mount: &Path) -> Option<(String, String)> {
    let tree = std::fs::canonicalize(mount).ok()?;
    let half = |name: &str| std::fs::read_to_string(tree.join(name)).ok();
    Some((half("a")?, half("z")?))
}
