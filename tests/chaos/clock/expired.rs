//! The archive is away for longer than its head lives, by the clock of a mirror that is ahead.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Network, Setup};

use super::shift::Shift;
use crate::load::{CHANNEL, Load, Row};

const MIRROR: &str = "nz1";
/// The head's life, and a clock that is beyond it and what is borne.
const LIFE: &str = "1h";
const AHEAD_S: i64 = 2 * 60 * 60;
const WATCHED: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

pub(super) fn play(seed: u64, tools: &Path) -> Row {
    let begun = Instant::now();
    let network = Network::start(&Setup::mirrors(2));
    let shift = Shift::new(tools, network.scratch());
    network.kill("archive");
    network.configure("archive", |config| {
        config["heads"]["expire"] = LIFE.into();
    });
    network.restart("archive");
    let load = Load::of(&network, seed);
    let before = network.live(MIRROR, CHANNEL);
    // A build that this mirror could have from the log and its peer.
    network.kill(MIRROR);
    load.publishes_on(&["nz2"], "while nz1 is away");
    network.kill("archive");
    shift.by_seconds(AHEAD_S);
    shift.restart(&network, MIRROR);
    let findings = &load.findings;
    load.holds_soon("nz1 itself says that the head has expired", || {
        let ready = network.get(MIRROR, "/readyz");
        ready.status == 200 && ready.text().contains("expired")
    });
    // That it never adopts the build cannot be waited for: so long it has not.
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        let served = network.get(MIRROR, &format!("/{CHANNEL}/a"));
        findings.check(served.status == 200, || {
            format!("it serves no more: {}", served.text())
        });
        let live = network.live(MIRROR, CHANNEL);
        findings.check(live == before, || {
            format!("it went from {before:?} to {live:?} with an expired head")
        });
        std::thread::sleep(POLL);
    }
    // With the right time it does, by its peer: the archive is away all the while.
    shift.by_seconds(0);
    load.holds_soon("nz1 adopts the build once its clock is right", || {
        network.live(MIRROR, CHANNEL) > before
    });
    network.restart("archive");
    load.ends_well();
    Row {
        fault: "clock expired".to_owned(),
        how: format!("archive killed, clock of {MIRROR} {AHEAD_S} s ahead, heads live {LIFE}"),
        injected: 2,
        builds: load.builds(),
        checks: findings.checks(),
        failures: findings.failures(),
        seconds: begun.elapsed().as_secs_f64(),
        again: format!("chaos clock --only expired --seed {seed}"),
    }
}
