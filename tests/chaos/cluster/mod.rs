//! The log on three servers: the one that leads it is killed in the middle of publications, again and again; one is lost
//! for good, and an empty one takes its place.

mod nodes;

use std::time::{Duration, Instant};

use e2e::{Network, Setup};

use crate::load::{Chance, Load, Row, seed_or_new};
use nodes::Nodes;

const STREAM: &str = "MIRRORLOG";
/// A node that was away catches up within this time.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(60);

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

/// What happens to the node that leads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fault {
    /// Killed, and back after a while; the next one once it has caught up
    Leader,
    /// Killed, and back after a while; the next one at once: there may be no majority for a while
    Majority,
    /// Lost with its folder, replaced by an empty one
    Lost,
}

impl Fault {
    fn how(self) -> &'static str {
        match self {
            Self::Leader => {
                "leader of MIRRORLOG killed, back within 4 s, caught up before the next"
            }
            Self::Majority => "leader of MIRRORLOG killed, back within 4 s, the next one at once",
            Self::Lost => {
                "leader of MIRRORLOG killed, its folder removed, an empty one in its place"
            }
        }
    }
}

pub(crate) fn run(args: &Args) -> Vec<Row> {
    let seed = seed_or_new(args.seed);
    eprintln!("chaos cluster --seed {seed}");
    let each = [Fault::Leader, Fault::Majority, Fault::Lost];
    let chosen: &[Fault] = if args.only.is_empty() {
        &each
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
    let mut nodes = Nodes::start(dir.path());
    let setup = Setup::mirrors(2)
        .nats(&nodes.first_url())
        .env("MIRRORLOG_NATS_URL", &nodes.urls())
        .env("MIRRORLOG_NATS_REPLICAS", "3");
    let network = Network::start(&setup);
    let load = Load::of(&network, seed);
    let mut killed = [0; 3];
    load.during(|| {
        let end = Instant::now() + Duration::from_secs(args.seconds);
        let mut chance = Chance::of(seed, "cluster", 0);
        let mut played: u64 = 0;
        while Instant::now() < end && args.faults.is_none_or(|most| played < most) {
            chance.pause(200, 2000);
            let Some(leader) = nodes.leader_of(STREAM) else {
                continue;
            };
            nodes.kill(leader);
            killed[leader] += 1;
            if fault == Fault::Lost {
                nodes.wipe(leader);
            }
            chance.pause(0, 4000);
            nodes.again(leader);
            played += 1;
            if fault != Fault::Majority {
                let well = nodes.become_healthy(CATCHES_UP_WITHIN);
                load.findings
                    .check(well, || "a node did not catch up".to_owned());
            }
        }
    });
    eprintln!("{fault:?}: kills by node {killed:?}");
    load.ends_well();
    let word = format!("{fault:?}").to_lowercase();
    let limit = args
        .faults
        .map_or_else(String::new, |most| format!(" --faults {most}"));
    Row {
        how: fault.how().to_owned(),
        injected: killed.iter().sum(),
        builds: load.builds(),
        checks: load.findings.checks(),
        failures: load.findings.failures(),
        seconds: begun.elapsed().as_secs_f64(),
        again: format!(
            "chaos cluster --only {word} --seed {seed} --seconds {}{limit}",
            args.seconds
        ),
        fault: format!("cluster {word}"),
    }
}
