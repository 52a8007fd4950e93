//! Whether a mirror answers: a state machine over probes.
//!
//! ```text
//!         ok                 silent twice in a row            ok
//!  New ---------> Up <------------------------------> Down --------> Returning
//!   |              ^                                   ^   <--------     |
//!   +--silent------|------------- (Down) --------------+    silent       |
//!                  +-------- enough in a row, each with content ---------+
//! ```
//!
//! After a first silence the mirror is asked again at once, so a dead one is out within two intervals
//! even when it does not refuse but hangs: an interval and two time-outs, each at most a third of one. A probe
//! is one whole: the bytes of a nonce, then signed snapshots of builds that the mirror is offered for; one that
//! begins to answer and does not end is silent.

use std::collections::BTreeMap;

use super::LOOKS_MAX;
use crate::id::{Build, ChannelId};
use crate::time::Timestamp;

/// How often, and how patiently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRules {
    /// Between two probes of a mirror, in milliseconds.
    pub every_ms: i64,
}

impl ProbeRules {
    /// Longest that a probe may take, in milliseconds: two of them and the interval before are two intervals.
    pub const fn timeout_ms(&self) -> i64 {
        let third = self.every_ms / 3;
        if third > TIMEOUT_MAX_MS {
            TIMEOUT_MAX_MS
        } else {
            third
        }
    }

    /// Pause between the probes of a mirror that is coming back, in milliseconds.
    const fn again_ms(&self) -> i64 {
        self.every_ms / 4
    }
}

/// No mirror is waited for longer than this.
const TIMEOUT_MAX_MS: i64 = 10_000;
/// Probes in a row that bring a mirror back.
const RETURN_PROBES: u32 = 2;
/// As many more for each time that it fell lately, at most.
const RETURN_PROBES_MAX: u32 = 8;
/// A mirror that stood this long, in milliseconds, is forgiven its falls.
const FORGIVEN_MS: i64 = 60 * 60 * 1000;
/// Share of a new latency in the mean.
const LATENCY_SHARE: f64 = 0.2;

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Probed {
    /// It answered with the bytes that were asked for, after so many milliseconds.
    Answered {
        /// Time to the last byte.
        latency_ms: f64,
    },
    /// Nothing came.
    Silent,
    /// Something else came: a cache, another server, a page about maintenance.
    Wrong,
}

/// Whether a mirror may be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not probed yet.
    New,
    /// Answers; `silent` probes in a row did not, fewer than two.
    Up {
        /// 0 or 1.
        silent: u32,
    },
    /// Does not answer.
    Down {
        /// Since when.
        since: Timestamp,
        /// True when something answers, with other bytes.
        wrong: bool,
    },
    /// Answers again, and is being checked.
    Returning {
        /// Down since.
        since: Timestamp,
        /// Good probes so far.
        passed: u32,
        /// Good probes in a row that are needed.
        needed: u32,
    },
}

/// What probes know of one mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Whether it may be offered.
    pub standing: Standing,
    /// When `standing` last changed between offered and not.
    pub changed: Timestamp,
    /// When it was last probed.
    pub checked: Option<Timestamp>,
    /// Probes so far.
    pub probes: u64,
    /// Mean time to answer, in milliseconds, newer ones counting more; `None` before the first.
    pub latency_ms: Option<f64>,
    /// Standard deviation of the same, in milliseconds.
    pub deviation_ms: f64,
    /// Builds that did not answer where the verdict says that they are served.
    unserved: BTreeMap<ChannelId, Build>,
    falls: u32,
    due: Timestamp,
    running: bool,
    turn: usize,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            standing: Standing::New,
            changed: Timestamp::EPOCH,
            checked: None,
            probes: 0,
            latency_ms: None,
            deviation_ms: 0.0,
            unserved: BTreeMap::new(),
            falls: 0,
            due: Timestamp::EPOCH,
            running: false,
            turn: 0,
        }
    }
}

impl Health {
    /// True when clients may be sent to it.
    pub fn is_up(&self) -> bool {
        matches!(self.standing, Standing::Up { .. })
    }

    /// The build of `channel` that did not answer, if one did not.
    pub fn unserved(&self, channel: &ChannelId) -> Option<Build> {
        self.unserved.get(channel).copied()
    }

    /// Takes up what an earlier process knew: offered at once, and probed at once.
    pub fn resume(
        &mut self,
        up: bool,
        changed: Timestamp,
        unserved: impl IntoIterator<Item = (ChannelId, Build)>,
    ) {
        self.unserved = unserved.into_iter().collect();
        self.standing = if up {
            Standing::Up { silent: 0 }
        } else {
            Standing::Down {
                since: changed,
                wrong: false,
            }
        };
        self.changed = changed;
    }

    /// Asks for a probe before its time: somebody said that something is wrong.
    pub(super) fn hurry(&mut self, rules: &ProbeRules, now: Timestamp) {
        let soonest = self
            .checked
            .map_or(now, |checked| checked.plus_ms(rules.again_ms()));
        self.due = self.due.min(soonest.max(now));
    }

    /// Builds that did not answer.
    pub fn all_unserved(&self) -> impl Iterator<Item = (&ChannelId, Build)> {
        self.unserved
            .iter()
            .map(|(channel, build)| (channel, *build))
    }

    /// True when a probe is to start.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        !self.running && self.due <= now
    }

    /// True once when a probe is to start.
    pub(super) fn start(&mut self, now: Timestamp) -> bool {
        let due = self.is_due(now);
        self.running |= due;
        due
    }

    /// Which of `count` things this probe looks at: one in turn, or as many as a probe may while the mirror is
    /// not offered.
    pub(super) fn turn(&mut self, count: usize) -> std::ops::Range<usize> {
        if !self.is_up() {
            return 0..count.min(LOOKS_MAX);
        }
        self.turn = self.turn.wrapping_add(1);
        match count {
            0 => 0..0,
            count => (self.turn % count)..(self.turn % count + 1),
        }
    }

    /// Takes a probe's end in, with the builds that were looked at. True when what is offered changed.
    pub(super) fn probed(
        &mut self,
        probed: Probed,
        looked: impl IntoIterator<Item = (ChannelId, Build, bool)>,
        rules: &ProbeRules,
        now: Timestamp,
    ) -> bool {
        let before = (self.is_up(), self.unserved.clone());
        self.running = false;
        self.checked = Some(now);
        self.probes += 1;
        let mut served = true;
        for (channel, build, serves) in looked {
            served &= serves;
            if serves {
                self.unserved.remove(&channel);
            } else {
                self.unserved.insert(channel, build);
            }
        }
        match probed {
            Probed::Answered { latency_ms } => self.answered(latency_ms, served, rules, now),
            Probed::Silent => self.silent(false, rules, now),
            Probed::Wrong => self.silent(true, rules, now),
        }
        if before.0 != self.is_up() {
            self.changed = now;
        }
        before != (self.is_up(), self.unserved.clone())
    }

    fn answered(&mut self, latency_ms: f64, served: bool, rules: &ProbeRules, now: Timestamp) {
        let mean = self.latency_ms.unwrap_or(latency_ms);
        let off = latency_ms - mean;
        self.latency_ms = Some(mean + LATENCY_SHARE * off);
        let variance = self.deviation_ms * self.deviation_ms;
        self.deviation_ms = ((1.0 - LATENCY_SHARE) * (variance + LATENCY_SHARE * off * off)).sqrt();
        self.due = now.plus_ms(rules.every_ms);
        self.standing = match self.standing {
            Standing::New => Standing::Up { silent: 0 },
            Standing::Up { .. } => {
                if now.ms_since(self.changed) > FORGIVEN_MS {
                    self.falls = 0;
                }
                Standing::Up { silent: 0 }
            }
            Standing::Down { since, .. } => {
                self.due = now.plus_ms(rules.again_ms());
                let more = self.falls.saturating_sub(1) * 2;
                let needed = (RETURN_PROBES + more).min(RETURN_PROBES_MAX);
                let passed = u32::from(served);
                Standing::Returning {
                    since,
                    passed,
                    needed,
                }
            }
            Standing::Returning {
                since,
                passed,
                needed,
            } => {
                self.due = now.plus_ms(rules.again_ms());
                // What does not serve the build that it should has passed nothing.
                let passed = if served { passed + 1 } else { 0 };
                if passed >= needed {
                    self.due = now.plus_ms(rules.every_ms);
                    Standing::Up { silent: 0 }
                } else {
                    Standing::Returning {
                        since,
                        passed,
                        needed,
                    }
                }
            }
        };
    }

    fn silent(&mut self, wrong: bool, rules: &ProbeRules, now: Timestamp) {
        self.due = now.plus_ms(rules.every_ms);
        self.standing = match self.standing {
            Standing::Up { silent: 0 } => {
                self.due = now;
                Standing::Up { silent: 1 }
            }
            Standing::Up { .. } => {
                self.falls = self.falls.saturating_add(1);
                Standing::Down { since: now, wrong }
            }
            Standing::New => Standing::Down { since: now, wrong },
            Standing::Down { since, .. } | Standing::Returning { since, .. } => {
                Standing::Down { since, wrong }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: ProbeRules = ProbeRules { every_ms: 30_000 };
    const OK: Probed = Probed::Answered { latency_ms: 20.0 };

    /// Runs probes as they fall due, each with its own duration, until `until_ms`. Says when it was offered last.
    fn run(health: &mut Health, from_ms: i64, until_ms: i64, answer: (Probed, i64)) -> Option<i64> {
        let mut last_up = None;
        let mut now = from_ms;
        while now < until_ms {
            if health.start(Timestamp::from_ms(now)) {
                now += answer.1;
                health.probed(answer.0, [], &RULES, Timestamp::from_ms(now));
            } else {
                now += 100;
            }
            if health.is_up() {
                last_up = Some(now);
            }
        }
        last_up
    }

    #[test]
    fn a_dead_mirror_is_out_within_two_intervals() {
        for took_ms in [0, 1, RULES.timeout_ms()] {
            let mut health = Health::default();
            health.start(Timestamp::EPOCH);
            // It dies right after it answered.
            health.probed(OK, [], &RULES, Timestamp::EPOCH);
            let last_up = run(&mut health, 0, 200_000, (Probed::Silent, took_ms));
            assert!(
                last_up < Some(2 * RULES.every_ms),
                "{took_ms}: offered until {last_up:?}"
            );
            assert!(!health.is_up());
        }
    }

    #[test]
    fn a_returned_mirror_is_checked_before_it_is_back() {
        let mut health = Health::default();
        let at = Timestamp::from_ms;
        health.probed(OK, [], &RULES, at(0));
        health.probed(Probed::Silent, [], &RULES, at(1));
        assert!(health.is_up(), "once may be bad luck");
        assert!(health.probed(Probed::Wrong, [], &RULES, at(2)));
        assert_eq!(
            health.standing,
            Standing::Down {
                since: at(2),
                wrong: true
            }
        );
        let noble = || ChannelId::new("noble").ok();
        let looked = |serves| noble().map(|channel| (channel, Build::FIRST, serves));
        health.probed(OK, looked(false), &RULES, at(3));
        health.probed(OK, looked(false), &RULES, at(4));
        health.probed(OK, looked(true), &RULES, at(5));
        assert!(!health.is_up(), "once is not enough");
        assert!(health.probed(OK, looked(true), &RULES, at(6)));
        assert!(health.is_up());
        assert_eq!(noble().and_then(|channel| health.unserved(&channel)), None);
    }

    #[test]
    fn one_that_falls_again_and_again_needs_longer() {
        let mut health = Health::default();
        let mut needed = Vec::new();
        let mut now = 0;
        let mut tell = |health: &mut Health, probed| {
            now += 1;
            health.probed(probed, [], &RULES, Timestamp::from_ms(now));
        };
        tell(&mut health, OK);
        for _ in 0..6 {
            tell(&mut health, Probed::Silent);
            tell(&mut health, Probed::Silent);
            let mut count = 0;
            while !health.is_up() {
                tell(&mut health, OK);
                count += 1;
            }
            needed.push(count);
        }
        assert_eq!(needed, [2, 4, 6, 8, 8, 8]);
    }

    #[test]
    fn complaints_make_no_flood_of_probes() {
        let mut health = Health::default();
        health.start(Timestamp::EPOCH);
        health.probed(OK, [], &RULES, Timestamp::EPOCH);
        let mut probes = 0;
        for ms in 0..RULES.every_ms {
            let now = Timestamp::from_ms(ms);
            health.hurry(&RULES, now);
            if health.start(now) {
                health.probed(OK, [], &RULES, now);
                probes += 1;
            }
        }
        assert!((3..=4).contains(&probes), "{probes}");
    }
}
