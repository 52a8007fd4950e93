//! The steps of the fold.

use std::collections::BTreeMap;

use crate::drain::Drains;
use crate::id::{ChannelId, MirrorId};
use crate::mix::{STEP, finish};
use crate::statement::{Order, Report, Retraction, Snapshot, Verdict};
use crate::time::Timestamp;

use super::carried::Context;
use super::watched::Watched;
use super::{Consistency, Effect, Input, Leadership, Member, Refusal, Rules, wanted};
use crate::channel::CHANNELS_MAX;
use crate::channel::{Channel, Taken};

impl Consistency {
    /// Knows these mirrors and nothing else yet; follows until the lease is won.
    pub fn new(rules: Rules, members: impl IntoIterator<Item = Member>) -> Self {
        let watched = |member: Member| (member.mirror.clone(), Watched::new(member));
        Self {
            rules,
            mirrors: members.into_iter().map(watched).collect(),
            channels: BTreeMap::new(),
            drains: Drains::default(),
            arrived: wanted::Arrived::default(),
            leadership: Leadership::Follower,
            fence: 0,
            audits: 0,
        }
    }

    /// The newest lease revision that any verdict carried. A new lease must be above it.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Whether this replica audits and publishes.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// Takes one input in and returns what is to be done, in order.
    pub fn step(&mut self, input: Input, now: Timestamp) -> Vec<Effect> {
        let mut out = Vec::new();
        let done = match input {
            Input::Snapshot(snapshot) => self.snapshot(&snapshot, now, &mut out),
            Input::Head(head) => self
                .channel(&head.channel.clone())
                .map(|channel| channel.head(head)),
            Input::Retraction(retraction) => self.retraction(&retraction, now, &mut out),
            Input::Report(report) => self.report(report, now, &mut out),
            Input::Audited(audited) => {
                self.audited(audited, now, &mut out);
                Ok(())
            }
            Input::Probed { mirror, reach } => {
                self.reached(&mirror, reach, now, &mut out);
                Ok(())
            }
            Input::Verdict(verdict) => self.adopt(verdict),
            Input::Unsaid {
                mirror,
                channel,
                build,
            } => {
                self.unsay(&mirror, &channel, build);
                self.settle(&mirror, &channel, now, &mut out);
                Ok(())
            }
            Input::Wanted {
                channel,
                pool,
                build,
            } => match self.leadership {
                Leadership::Leader { .. } => Ok(()),
                Leadership::Follower => self.channel(&channel).map(|known| {
                    match build {
                        Some(build) => known.wanted.insert(pool, build),
                        None => known.wanted.remove(&pool),
                    };
                }),
            },
            Input::Order(order) => self.order(order, now, &mut out),
            Input::Lease(leadership) => {
                self.lease(leadership, now, &mut out);
                Ok(())
            }
            Input::Tick { random } => {
                self.tick(random, now, &mut out);
                Ok(())
            }
        };
        if let Err(refusal) = done {
            out.push(Effect::Refused(refusal));
        }
        out
    }

    fn channel(&mut self, id: &ChannelId) -> Result<&mut Channel, Refusal> {
        if !self.channels.contains_key(id) && self.channels.len() >= CHANNELS_MAX {
            return Err(Refusal::TooManyChannels(id.clone()));
        }
        Ok(self.channels.entry(id.clone()).or_default())
    }

    fn snapshot(
        &mut self,
        snapshot: &Snapshot,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let id = &snapshot.channel;
        match self.channel(id)?.snapshot(snapshot) {
            Taken::Known => {}
            Taken::New => self.settle_channel(id, now, out),
            Taken::Fork => out.push(Effect::Fork {
                channel: id.clone(),
                build: snapshot.build,
            }),
        }
        Ok(())
    }

    fn retraction(
        &mut self,
        retraction: &Retraction,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let id = &retraction.channel;
        if self.channel(id)?.retract(retraction) {
            self.settle_channel(id, now, out);
            self.advance(id, now, out);
        }
        Ok(())
    }

    fn report(
        &mut self,
        report: Report,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let (mirror, channel) = (report.mirror.clone(), report.channel.clone());
        let watched = self.mirrors.get_mut(&mirror);
        let watched = watched.ok_or_else(|| Refusal::UnknownMirror(mirror.clone()))?;
        let (heard, pinned) = (
            watched.is_fresh(&self.rules, now),
            self.channels.get(&channel),
        );
        watched.report(report, pinned, now)?;
        let changed = self.settle(&mirror, &channel, now, out);
        if changed || !heard {
            self.advance(&channel, now, out);
        }
        Ok(())
    }

    fn adopt(&mut self, verdict: Verdict) -> Result<(), Refusal> {
        let revision = verdict.lease_revision;
        if revision < self.fence {
            return Err(Refusal::Fenced {
                found: revision,
                current: self.fence,
            });
        }
        self.fence = revision;
        match self.leadership {
            // Our own word comes back, or a newer leader's that replaces us.
            Leadership::Leader { revision: own } if revision <= own => return Ok(()),
            Leadership::Leader { .. } => self.follow(),
            Leadership::Follower => {}
        }
        let watched = self.mirrors.get_mut(&verdict.mirror);
        let watched = watched.ok_or_else(|| Refusal::UnknownMirror(verdict.mirror.clone()))?;
        if !watched.channels.contains_key(&verdict.channel)
            && watched.channels.len() >= CHANNELS_MAX
        {
            return Err(Refusal::TooManyChannels(verdict.channel));
        }
        watched.adopt(verdict);
        Ok(())
    }

    fn order(
        &mut self,
        order: Order,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if !self.mirrors.contains_key(&order.mirror) {
            return Err(Refusal::UnknownMirror(order.mirror));
        }
        if self.drains.take(order) {
            let channels: Vec<ChannelId> = self.channels.keys().cloned().collect();
            for channel in &channels {
                self.advance(channel, now, out);
            }
        }
        Ok(())
    }

    fn follow(&mut self) {
        self.leadership = Leadership::Follower;
        self.mirrors.values_mut().for_each(Watched::forget_audits);
    }

    fn lease(&mut self, leadership: Leadership, now: Timestamp, out: &mut Vec<Effect>) {
        if leadership == self.leadership {
            return;
        }
        self.follow();
        let Leadership::Leader { revision } = leadership else {
            return;
        };
        if revision < self.fence {
            let refusal = Refusal::Fenced {
                found: revision,
                current: self.fence,
            };
            out.push(Effect::Refused(refusal));
            return;
        }
        self.fence = revision;
        self.leadership = leadership;
        self.settle_all(now, out);
    }

    fn tick(&mut self, random: u64, now: Timestamp, out: &mut Vec<Effect>) {
        if self.leadership == Leadership::Follower {
            return;
        }
        if !self.is_cut_off() {
            let unreachable = self.mirrors.values_mut();
            for watched in unreachable.filter(|watched| watched.is_unreachable(&self.rules)) {
                watched.revoke_unreachable();
            }
        }
        self.settle_all(now, out);
        let (channels, leadership) = (&self.channels, self.leadership);
        let mut cx = Context {
            rules: &self.rules,
            channels: &self.channels,
            leadership,
            audits: &mut self.audits,
            now,
            out,
        };
        for (salt, watched) in (0..).zip(self.mirrors.values_mut()) {
            watched.round(channels, mix(random, salt), &mut cx);
        }
    }

    fn settle_all(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let channels: Vec<ChannelId> = self.channels.keys().cloned().collect();
        for channel in &channels {
            self.settle_channel(channel, now, out);
            self.advance(channel, now, out);
        }
    }

    fn settle_channel(&mut self, channel: &ChannelId, now: Timestamp, out: &mut Vec<Effect>) {
        let mirrors: Vec<MirrorId> = self.mirrors.keys().cloned().collect();
        let mut changed = false;
        for mirror in &mirrors {
            changed |= self.settle(mirror, channel, now, out);
        }
        if changed {
            self.advance(channel, now, out);
        }
    }

    pub(super) fn settle_mirror(
        &mut self,
        mirror: &MirrorId,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let channels: Vec<ChannelId> = self.channels.keys().cloned().collect();
        for channel in &channels {
            self.settle(mirror, channel, now, out);
            self.advance(channel, now, out);
        }
    }

    pub(super) fn settle(
        &mut self,
        mirror: &MirrorId,
        id: &ChannelId,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some(watched) = self.mirrors.get_mut(mirror) else {
            return false;
        };
        let Some(channel) = self.channels.get(id) else {
            return false;
        };
        let leadership = self.leadership;
        let mut cx = Context {
            rules: &self.rules,
            channels: &self.channels,
            leadership,
            audits: &mut self.audits,
            now,
            out,
        };
        watched.settle(id, channel, &mut cx)
    }

    pub(super) fn advance(&mut self, id: &ChannelId, now: Timestamp, out: &mut Vec<Effect>) {
        if self.leadership == Leadership::Follower {
            return;
        }
        let cut_off = self.is_cut_off();
        let Some(channel) = self.channels.get_mut(id) else {
            return;
        };
        if channel.fork.is_some() {
            return;
        }
        let judging = wanted::Judging {
            mirrors: &self.mirrors,
            drains: &self.drains,
            rules: &self.rules,
            cut_off,
            now,
        };
        for (pool, build) in wanted::advance(id, channel, &mut self.arrived, &judging) {
            out.push(Effect::SetWanted {
                channel: id.clone(),
                pool,
                build,
            });
        }
    }
}

/// SplitMix64's finaliser: one random number for each mirror out of one for all.
fn mix(random: u64, salt: u64) -> u64 {
    finish(random ^ salt.wrapping_mul(STEP))
}
