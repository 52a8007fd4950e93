//! The steps of the fold.

use std::sync::Arc;

use super::health::{Health, ProbeRules};
use super::member::{MirrorIndex, Profile};
use super::speed::{Ledger, Outcome, Sample};
use super::view::{Carried, View, Word};
use super::{Directory, Effect, Input, LOOKS_MAX, Look, Refusal, WORDS_MAX};
use crate::channel::{CHANNELS_MAX, Taken};
use crate::id::{Build, ChannelId};
use crate::statement::{Head, RevokeReason, Verdict, VerdictState};
use crate::time::Timestamp;
use crate::view::Prepared;

/// Pause between two makings of the figures, in milliseconds.
const SETTLE_MS: i64 = 2_000;
/// A lease that has said nothing for this long, in milliseconds, fences nobody off any more: a leader that was
/// replaced stops within seconds, and a log that was made anew counts its leases from 1 again.
const FENCE_MS: i64 = 60_000;

impl Directory {
    /// Knows these mirrors and nothing else yet.
    pub fn new(rules: ProbeRules, profiles: Vec<Profile>) -> Self {
        Self {
            rules,
            view: View::new(profiles),
            ledger: Ledger::default(),
            fence: (0, Timestamp::EPOCH),
            settled: Timestamp::EPOCH,
        }
    }

    /// This moment.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What an earlier process knew of a mirror's health.
    pub fn resume(
        &mut self,
        mirror: MirrorIndex,
        up: bool,
        changed: Timestamp,
        unserved: impl IntoIterator<Item = (ChannelId, Build)>,
    ) {
        if let Some(health) = Arc::make_mut(&mut self.view.health).get_mut(mirror.get()) {
            health.resume(up, changed, unserved);
        }
    }

    /// What an earlier process knew of a fork: the log may have forgotten the second root.
    pub fn resume_fork(&mut self, channel: &ChannelId, build: Build) -> Result<(), Refusal> {
        self.carried(channel, |carried| carried.channel.fork = Some(build))
    }

    /// Takes one input in and returns what is to be done, in order.
    pub fn step(&mut self, input: Input, now: Timestamp) -> Vec<Effect> {
        let mut out = Vec::new();
        let done = match input {
            Input::Snapshot(snapshot) => {
                let (id, build) = (snapshot.channel.clone(), snapshot.build);
                self.carried(&id, |carried| carried.channel.snapshot(&snapshot))
                    .map(|taken| match taken {
                        Taken::Known => false,
                        Taken::New => true,
                        Taken::Fork => {
                            let channel = id.clone();
                            out.push(Effect::Fork { channel, build });
                            true
                        }
                    })
            }
            Input::Head(head) => {
                let id = head.channel.clone();
                self.carried(&id, |carried| {
                    // A renewal changes no answer, except after an expiry.
                    let counted = |head: &Head| head.expires >= now;
                    let before = carried.channel.head.as_ref().is_some_and(counted);
                    carried.channel.head(head);
                    before != carried.channel.head.as_ref().is_some_and(counted)
                })
            }
            Input::Retraction(retraction) => self.carried(&retraction.channel, |carried| {
                carried.channel.retract(&retraction)
            }),
            Input::Verdict(verdict) => self.verdict(verdict, now),
            Input::Wanted {
                channel,
                pool,
                build,
            } => self.carried(&channel, |carried| {
                let wanted = &mut carried.channel.wanted;
                match build {
                    Some(build) => wanted.insert(pool, build) != Some(build),
                    None => wanted.remove(&pool).is_some(),
                }
            }),
            Input::Order(order) => match self.view.find(&order.mirror) {
                Some(_) => Ok(Arc::make_mut(&mut self.view.drains).take(order)),
                None => Err(Refusal::UnknownMirror(order.mirror)),
            },
            Input::Probed {
                mirror,
                probed,
                looked,
            } => {
                let rules = self.rules;
                Ok(self.health(mirror, |health| health.probed(probed, looked, &rules, now)))
            }
            Input::Sample(sample) => {
                self.sample(sample, now);
                Ok(false)
            }
            Input::Tick => {
                self.probe(now, &mut out);
                self.settle(now);
                Ok(false)
            }
        };
        match done {
            Ok(true) => {
                self.view.revision += 1;
                self.view.membership += 1;
                self.view.changed = now;
            }
            Ok(false) => {}
            Err(refusal) => out.push(Effect::Refused(refusal)),
        }
        out
    }

    fn carried<T>(
        &mut self,
        id: &ChannelId,
        change: impl FnOnce(&mut Carried) -> T,
    ) -> Result<T, Refusal> {
        let channels = &mut self.view.channels;
        if !channels.contains_key(id) && channels.len() >= CHANNELS_MAX {
            return Err(Refusal::TooManyChannels(id.clone()));
        }
        let carried = channels.entry(id.clone()).or_default();
        Ok(change(Arc::make_mut(carried)))
    }

    fn health(&mut self, mirror: MirrorIndex, change: impl FnOnce(&mut Health) -> bool) -> bool {
        let health = Arc::make_mut(&mut self.view.health);
        health.get_mut(mirror.get()).is_some_and(change)
    }

    fn verdict(&mut self, verdict: Verdict, now: Timestamp) -> Result<bool, Refusal> {
        let found = verdict.lease_revision;
        let (current, spoke) = self.fence;
        if found < current && verdict.issued.ms_since(spoke) < FENCE_MS {
            return Err(Refusal::Fenced { found, current });
        }
        // What is dated ahead of our clock must not keep the next leader out for longer.
        let mut speaks = verdict.issued.min(now);
        if found == current {
            // Nor may one that is delivered again let a replaced leader in.
            speaks = speaks.max(spoke);
        }
        self.fence = (found, speaks);
        let Some(mirror) = self.view.find(&verdict.mirror) else {
            return Err(Refusal::UnknownMirror(verdict.mirror));
        };
        self.carried(&verdict.channel, |carried| {
            let words = carried.words.entry(mirror).or_default();
            if verdict.state == VerdictState::Revoked(RevokeReason::Dropped) {
                return words.remove(&verdict.build).is_some();
            }
            // A mirror's builds are of one view: its globs are made ready once.
            let mut parts = words.values().map(|word| &word.part);
            let part = parts.find(|part| *part.view() == verdict.view).cloned();
            let word = Word {
                state: verdict.state,
                root: verdict.root,
                part: part.unwrap_or_else(|| Prepared::new(verdict.view)),
                issued: verdict.issued,
            };
            let told = |word: &Word| (word.state.clone(), word.root, word.part.clone());
            let same = |old: &Word| told(old) == told(&word);
            let known = words.get(&verdict.build).is_some_and(same);
            words.insert(verdict.build, word);
            while words.len() > WORDS_MAX {
                words.pop_first();
            }
            !known
        })
    }

    fn sample(&mut self, sample: Sample, now: Timestamp) {
        if sample.mirror.get() >= self.view.profiles.len() {
            return;
        }
        let complaint = matches!(sample.outcome, Outcome::Failed(_));
        if self.ledger.take(sample, now) && complaint {
            let rules = self.rules;
            self.health(sample.mirror, |health| {
                health.hurry(&rules, now);
                false
            });
        }
    }

    /// Makes new figures of what clients saw: other orders, and no other set of mirrors.
    fn settle(&mut self, now: Timestamp) {
        if now.ms_since(self.settled) < SETTLE_MS {
            return;
        }
        self.settled = now;
        if let Some(speeds) = self.ledger.settle(now) {
            self.view.speeds = Arc::new(speeds);
            self.view.revision += 1;
            self.view.changed = now;
        }
    }

    /// Starts the probes that are due.
    fn probe(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if !self.view.health.iter().any(|health| health.is_due(now)) {
            return;
        }
        let mut health = Arc::clone(&self.view.health);
        for (mirror, one) in (0u32..).map(MirrorIndex).zip(Arc::make_mut(&mut health)) {
            if one.start(now) {
                let all = self.looks(mirror);
                let turn = one.turn(all.len());
                let bad = |look: &Look| one.unserved(&look.channel).is_some();
                let looks = all.iter().enumerate();
                // What did not answer is looked at each time, until it does.
                let looks = looks.filter(|(at, look)| turn.contains(at) || bad(look));
                let looks = looks.map(|(_, look)| look.clone()).take(LOOKS_MAX);
                out.push(Effect::Probe {
                    mirror,
                    looks: looks.collect(),
                });
            }
        }
        self.view.health = health;
    }

    /// What a mirror is offered for: one build a channel, the newest that it is complete at.
    fn looks(&self, mirror: MirrorIndex) -> Vec<Look> {
        let looks = self.view.channels.iter().filter_map(|(id, carried)| {
            let build = carried.newest_complete(mirror)?;
            let root = carried.channel.builds.get(&build)?.root;
            Some(Look {
                channel: id.clone(),
                build,
                root,
            })
        });
        looks.collect()
    }
}
