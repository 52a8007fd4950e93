//! Clocks that are wrong: of the archive, of a mirror, of the consistency service. Within ten minutes all works; a day
//! off is visible, and neither tears a snapshot nor calls anything complete that is not; a clock that is right again is
//! all that it takes.

mod expired;
mod shift;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::{Network, Setup, unpacked_tools};

use crate::load::{Load, Row, seed_or_new};
use shift::Shift;

/// Shifts that are borne without a word, and those that are not.
const SHIFTS: [(&str, i64); 4] = [
    ("+9m", 9 * 60),
    ("-9m", -9 * 60),
    ("+1d", 24 * 60 * 60),
    ("-1d", -24 * 60 * 60),
];
/// Ten minutes by design.
const BORNE_S: i64 = 10 * 60;

/// What is played, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Repeats a run's choices
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of load with each wrong clock, before and after a restart
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Whose clock
    #[arg(long, value_delimiter = ',')]
    only: Vec<Victim>,
    /// How wrong: +9m, -9m, +1d, -1d
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    by: Vec<String>,
    /// Folder with usr/lib/…/faketime; target/tools/bench when left out
    #[arg(long)]
    tools: Option<PathBuf>,
}

/// Whose clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Victim {
    Archive,
    Mirror,
    Consistency,
    /// A mirror whose clock says that the head is over, while the archive is away
    Expired,
}

impl Victim {
    fn service(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Mirror | Self::Expired => "nz1",
            Self::Consistency => "consistency",
        }
    }
}

pub(crate) fn run(args: &Args) -> Vec<Row> {
    let seed = seed_or_new(args.seed);
    eprintln!("chaos clock --seed {seed}");
    let all = [
        Victim::Archive,
        Victim::Mirror,
        Victim::Consistency,
        Victim::Expired,
    ];
    let chosen = if args.only.is_empty() {
        &all[..]
    } else {
        &args.only
    };
    let mut rows = Vec::new();
    for victim in chosen {
        if *victim == Victim::Expired {
            rows.push(expired::play(seed, &tools(args)));
            continue;
        }
        for (by, seconds) in SHIFTS {
            if args.by.is_empty() || args.by.iter().any(|one| one == by) {
                rows.push(play(*victim, (by, seconds), seed, args));
            }
        }
    }
    rows
}

fn tools(args: &Args) -> PathBuf {
    args.tools.clone().unwrap_or_else(unpacked_tools)
}

fn play(victim: Victim, (by, seconds): (&str, i64), seed: u64, args: &Args) -> Row {
    let begun = Instant::now();
    let network = Network::start(&Setup::mirrors(2));
    let shift = Shift::new(&tools(args), network.scratch());
    let service = victim.service();
    network.kill(service);
    shift.restart(&network, service);
    let load = Load::of(&network, seed);
    let borne = seconds.abs() < BORNE_S;
    let lasts = Duration::from_secs(args.seconds);
    load.during(|| {
        shift.by_seconds(seconds);
        // How long the fault lasts: not a wait for anything.
        std::thread::sleep(lasts);
        all_are_well_or_say_why(&load, borne, &format!("{by} of a running {service}"));
        network.kill(service);
        shift.restart(&network, service);
        std::thread::sleep(lasts);
        all_are_well_or_say_why(&load, borne, &format!("{by} of a restarted {service}"));
        shift.by_seconds(0);
    });
    load.recovers(&format!(
        "with the clock of {service} right again after {by}"
    ));
    network.kill(service);
    shift.restart(&network, service);
    load.ends_well();
    let word = format!("{victim:?}").to_lowercase();
    Row {
        fault: format!("clock {service} {by}"),
        how: "libfaketime: set while it runs, restarted, set right while it runs, restarted"
            .to_owned(),
        injected: 3,
        builds: load.builds(),
        checks: load.findings.checks(),
        failures: load.findings.failures(),
        seconds: begun.elapsed().as_secs_f64(),
        again: format!(
            "chaos clock --only {word} --by={by} --seed {seed} --seconds {}",
            args.seconds
        ),
    }
}

/// Each mirror becomes complete at what is published now or later; where the clock is too wrong for that, it may
/// also say what is wrong.
fn all_are_well_or_say_why(load: &Load<'_>, borne: bool, when: &str) {
    for mirror in load.network.mirrors() {
        let mut reason = None;
        load.goes_on(mirror, when, |standing| {
            reason = standing["reason"].as_str().map(str::to_owned);
            !borne && reason.is_some()
        });
        let reason = reason.as_deref().unwrap_or("complete");
        eprintln!("{when}: {mirror}: {reason}");
    }
}
