//! Partitions: a mirror without the others, in both directions or one; without the centre only; the auditor without the
//! mirrors, which is the one that is cut off then. Longer than what makes a mirror stale. Root is needed.

mod namespaces;
mod world;

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::Network;

use crate::load::{CHANNEL, Load, Row, seed_or_new};
use namespaces::{Drops, Names, Namespaces};

const POLL: Duration = Duration::from_millis(500);
/// Names of namespaces begin so; given to this program when it runs in the centre.
const NAMES: &str = "CHAOS_NET";
const CUT_OFF: &str = "nz1";
const MIRRORS: [&str; 2] = ["nz1", "nz2"];

/// What is played, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Repeats a run's choices
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of each partition; a mirror of `local up` is stale after 30
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// These only
    #[arg(long, value_delimiter = ',')]
    only: Vec<Fault>,
    /// In the centre already
    #[arg(long, hide = true)]
    inside: bool,
}

/// Who is apart from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fault {
    /// The link of a mirror is down
    Link,
    /// Nothing comes to a mirror
    Deaf,
    /// Nothing comes from a mirror
    Mute,
    /// A mirror has no archive and no log, and is read and audited all the same
    Centre,
    /// The consistency service reaches no mirror
    Auditor,
    /// The link of the consistency service is down
    Alone,
}

const EACH: [Fault; 6] = [
    Fault::Link,
    Fault::Deaf,
    Fault::Mute,
    Fault::Centre,
    Fault::Auditor,
    Fault::Alone,
];

impl Fault {
    fn how(self) -> &'static str {
        match self {
            Self::Link => "link of nz1 down",
            Self::Deaf => "packets to nz1 dropped",
            Self::Mute => "packets from nz1 dropped",
            Self::Centre => "packets between nz1 and archive and NATS dropped",
            Self::Auditor => "packets between consistency and both mirrors dropped",
            Self::Alone => "link of consistency down",
        }
    }

    fn play(self, names: &Names, drops: Drops) {
        let others = namespaces::PLACES.map(|(place, _)| place);
        let others = others.iter().filter(|place| **place != CUT_OFF);
        let link = match drops {
            Drops::Begin => "down",
            Drops::End => "up",
        };
        match self {
            Self::Link => names.link(CUT_OFF, link),
            Self::Alone => names.link("consistency", link),
            Self::Deaf => others.for_each(|from| names.drop_packets(drops, from, Some(CUT_OFF))),
            Self::Mute => names.drop_packets(drops, CUT_OFF, None),
            Self::Centre => both_ways(names, drops, CUT_OFF, "centre"),
            Self::Auditor => {
                for mirror in MIRRORS {
                    both_ways(names, drops, mirror, "consistency");
                }
            }
        }
    }
}

fn both_ways(names: &Names, drops: Drops, one: &str, other: &str) {
    names.drop_packets(drops, one, Some(other));
    names.drop_packets(drops, other, Some(one));
}

pub(crate) fn run(args: &Args) -> Vec<Row> {
    if args.inside {
        let names = Names(std::env::var(NAMES).unwrap());
        let seed = seed_or_new(args.seed);
        eprintln!("chaos net --seed {seed}");
        let chosen: &[Fault] = if args.only.is_empty() {
            &EACH
        } else {
            &args.only
        };
        return chosen
            .iter()
            .map(|fault| play(*fault, seed, &names, args))
            .collect();
    }
    // Again, in the centre: sockets belong to the namespace in which they are made.
    let namespaces = Namespaces::new();
    let program = std::env::current_exe().unwrap();
    let mut again: Command = namespaces.0.command("centre", &program);
    again.args(std::env::args().skip(1)).arg("--inside");
    let ended = again.env(NAMES, &namespaces.0.0).status().unwrap();
    drop(namespaces);
    std::process::exit(ended.code().unwrap_or(1));
}

fn play(fault: Fault, seed: u64, names: &Names, args: &Args) -> Row {
    let begun = Instant::now();
    let (network, urls) = world::spread(names);
    let cut_off_url = urls[0].1.clone();
    let load = Load::new(&network, urls, seed);
    load.during(|| {
        fault.play(names, Drops::Begin);
        let end = Instant::now() + Duration::from_secs(args.seconds);
        let apart_since = load.newest();
        while Instant::now() < end {
            while_apart(fault, &load, &network);
            std::thread::sleep(POLL);
        }
        match fault {
            Fault::Link | Fault::Deaf | Fault::Mute | Fault::Centre => {
                is_left_out(&load, apart_since);
                serves_by_itself(&load, names, &cut_off_url);
                load.goes_on("nz2", "while nz1 is apart", |_| false);
            }
            Fault::Auditor | Fault::Alone => {}
        }
        fault.play(names, Drops::End);
    });
    load.ends_well();
    let word = format!("{fault:?}").to_lowercase();
    Row {
        fault: format!("net {word}"),
        how: format!("{}, {} s", fault.how(), args.seconds),
        injected: 1,
        builds: load.builds(),
        checks: load.findings.checks(),
        failures: load.findings.failures(),
        seconds: begun.elapsed().as_secs_f64(),
        again: format!(
            "chaos net --only {word} --seed {seed} --seconds {}",
            args.seconds
        ),
    }
}

/// An auditor that reaches nobody revokes nobody.
fn while_apart(fault: Fault, load: &Load<'_>, network: &Network) {
    if fault != Fault::Auditor {
        return;
    }
    for mirror in MIRRORS {
        let standing = network.standing(mirror, CHANNEL);
        // A retraction revokes, whoever is cut off.
        let revoked = standing["state"] == "revoked" && standing["reason"] != "retracted";
        load.findings.check(!revoked, || {
            format!("{mirror} is revoked by an auditor that is cut off: {standing}")
        });
    }
}

/// `status` says why a mirror that is apart is behind, and does not call it complete at what it cannot have.
fn is_left_out(load: &Load<'_>, apart_since: Option<u64>) {
    load.holds_soon("status says why nz1 is left out", || {
        load.network.standing(CUT_OFF, CHANNEL)["reason"].is_string()
    });
    let standing = load.network.standing(CUT_OFF, CHANNEL);
    eprintln!("nz1 apart: {} {}", standing["state"], standing["reason"]);
    // One build may have been on its way.
    let has = standing["live"].as_u64() <= apart_since.map(|build| build + 3);
    load.findings
        .check(has || standing["state"] != "complete", || {
            format!("nz1 was apart since build {apart_since:?}, and is called complete: {standing}")
        });
}

/// Who is beside the mirror reads it as ever, and it says that it is cut off.
fn serves_by_itself(load: &Load<'_>, names: &Names, url: &str) {
    let (status, text) = world::ask_beside(names, CUT_OFF, &format!("{url}/{CHANNEL}/a"));
    load.findings.check(status == 200, || {
        format!("it does not serve: {status} {text}")
    });
    load.holds_soon("nz1 says that it is degraded", || {
        let (status, text) = world::ask_beside(names, CUT_OFF, &format!("{url}/readyz"));
        status == 200 && text.contains("degraded")
    });
}
