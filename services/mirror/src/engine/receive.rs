//! What the log, the heads and the journal bring, turned into inputs of the core.

use std::collections::BTreeSet;

use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::mirror::{Input, Retracted, Target};
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{
    Head, RevokeReason, Snapshot, Verdict, VerdictState, retractions_digest,
};
use runtime::log::StreamIdentity;
use runtime::state::Write;
use wire::Signed;
use wire::event::Opened;
use wire::state::Cursor;

use super::Engine;
use super::slot::Slot;
use crate::inbox::Arrived;
use crate::journal::Answer;
use crate::state::Key;
use crate::sync::Missing;

/// Pause before what is still signed by keys that count no more is asked for again: the archive may not have it.
const VOUCH_EVERY: std::time::Duration = std::time::Duration::from_secs(60);
/// A lease that has said nothing for this long, in milliseconds, fences nobody off any more: a log that was made anew
/// counts its leases from 1 again.
const FENCE_MS: i64 = 60_000;

impl Engine {
    pub(super) async fn on_event(&mut self, arrived: Arrived) {
        let Arrived {
            lane,
            position,
            opened,
            signed,
            head,
            delta,
            ack,
            span,
        } = arrived;
        let channel = match &opened {
            Opened::Snapshot(snapshot) => snapshot.channel.clone(),
            Opened::Retraction(retraction) => retraction.channel.clone(),
        };
        // The head first: it allows the build that comes with it to be adopted.
        if let Some((signed, head)) = head {
            self.on_head(signed, &head, vec![]).await;
        }
        // Only now: the cursor must not be written before what it passes has been stepped.
        self.take_position(lane, position);
        self.acks.insert((lane, position.sequence), ack);
        match opened {
            Opened::Snapshot(snapshot) => {
                span.in_scope(|| tracing::info!(build = %snapshot.build, "a build was announced"));
                let slot = self.slot(&channel);
                slot.deltas.insert(snapshot.build, delta);
                slot.spans.insert(snapshot.build, span);
                self.on_snapshot(signed, &snapshot, Some((lane, position.sequence)))
                    .await;
            }
            Opened::Retraction(retraction) => {
                let event = Some((lane, position.sequence));
                self.on_retraction(signed, &retraction, event).await;
            }
        }
    }

    pub(super) async fn on_snapshot(
        &mut self,
        signed: Signed,
        snapshot: &Snapshot,
        event: Option<(Lane, u64)>,
    ) {
        let channel = snapshot.channel.clone();
        let lane = event.map_or(snapshot.lane, |(lane, _)| lane);
        let target = target_of(snapshot);
        let writes = self.remember(signed, snapshot).await;
        let sequence = event.map(|(_, sequence)| sequence);
        self.step(
            &channel,
            Input::Snapshot {
                target,
                lane,
                sequence,
            },
            writes,
        )
        .await;
        if self.slot(&channel).is_crowded() {
            self.forget_old(&channel).await;
        }
    }

    /// Keeps a signed snapshot, but never in place of another one: that is a fork.
    pub(super) async fn remember(&mut self, signed: Signed, snapshot: &Snapshot) -> Vec<Write> {
        let slot = self.slot(&snapshot.channel);
        match slot.snapshots.get(&snapshot.build) {
            Some((_, known)) if known.root != snapshot.root => {
                let fork = Input::Fork {
                    build: snapshot.build,
                    first: known.root,
                    second: snapshot.root,
                };
                self.step(&snapshot.channel, fork, Vec::new()).await;
                Vec::new()
            }
            Some(_) => Vec::new(),
            None => {
                let key = Key::Snapshot(snapshot.channel.clone(), snapshot.build).encode();
                let mut writes = vec![Write::Put(key, signed.encode())];
                if slot.channel.held.is_empty() {
                    let key = Key::View(snapshot.channel.clone()).encode();
                    writes.push(Write::Put(key, wire::state::encode_view(slot.view.view())));
                }
                slot.snapshots
                    .insert(snapshot.build, (signed, snapshot.clone()));
                writes
            }
        }
    }

    /// The consistency service's word on a build here.
    pub(super) async fn on_word(&mut self, verdict: &Verdict) {
        let (current, spoke) = self.fence;
        let found = verdict.lease_revision;
        if found < current && verdict.issued.ms_since(spoke) < FENCE_MS {
            return;
        }
        let mut speaks = verdict.issued.min(runtime::boot::now());
        if found >= current {
            // One that comes late must not let a replaced leader in.
            speaks = speaks.max(spoke);
        }
        self.fence = (found, speaks);
        let good = match &verdict.state {
            VerdictState::Verified | VerdictState::Complete => true,
            // Who is not reached, or not looked at yet, has not lost anything.
            VerdictState::Pending | VerdictState::Revoked(RevokeReason::Unreachable) => return,
            VerdictState::Revoked(_) => false,
        };
        if self.slots.contains_key(&verdict.channel) {
            let word = Input::Word {
                build: verdict.build,
                root: verdict.root,
                good,
            };
            self.step(&verdict.channel, word, Vec::new()).await;
        }
    }

    pub(super) async fn on_lacks(&mut self, id: &ChannelId, build: Build, missing: Missing) {
        let slot = self.slot(id);
        let lanes = Lane::ALL.into_iter().filter(|lane| {
            let sync = slot.channel.lane(*lane).sync;
            sync.is_some_and(|sync| sync.target.build == build)
        });
        let lanes: Vec<Lane> = lanes.collect();
        let missing_bytes = missing.bytes;
        slot.missing.insert(build, missing);
        for lane in lanes {
            let planned = Input::Planned {
                lane,
                build,
                missing_bytes,
            };
            self.step(id, planned, Vec::new()).await;
        }
        self.report(id);
    }

    pub(super) async fn on_retraction(
        &mut self,
        signed: Signed,
        retraction: &mirrorlog_core::statement::Retraction,
        event: Option<(Lane, u64)>,
    ) {
        let channel = retraction.channel.clone();
        let key = Key::Retraction(channel.clone(), retraction.sequence).encode();
        let write = Write::Put(key, signed.encode());
        self.slot(&channel)
            .retractions
            .insert(retraction.sequence, signed.digest());
        let input = Input::Retraction {
            number: retraction.sequence,
            retracted: Retracted {
                first: retraction.first,
                last: retraction.last,
                reason: retraction.reason.clone(),
            },
            created: retraction.created,
            event,
        };
        self.step(&channel, input, vec![write]).await;
    }

    pub(super) async fn on_head(&mut self, signed: Signed, head: &Head, mut writes: Vec<Write>) {
        let channel = head.channel.clone();
        let slot = self.slot(&channel);
        if slot
            .channel
            .head
            .is_some_and(|seen| head.issued <= seen.issued)
        {
            return;
        }
        writes.push(Write::Put(
            Key::Head(channel.clone()).encode(),
            signed.encode(),
        ));
        slot.head = Some(signed);
        let seen = mirrorlog_core::mirror::HeadSeen {
            build: head.build,
            root: head.root,
            retractions: head.retractions,
            issued: head.issued,
            expires: head.expires,
        };
        self.step(&channel, Input::Head(seen), writes).await;
        self.serve(&channel);
        self.ask_for_retractions(&channel);
    }

    /// Asks the journal when the head counts retractions that are not known here.
    pub(super) fn ask_for_retractions(&mut self, channel: &ChannelId) {
        let slot = self.slot(channel);
        let Some(head) = slot.channel.head else {
            return;
        };
        if retractions_digest(slot.retractions.values().copied()) != head.retractions {
            self.ask_journal(channel, head.build);
        }
    }

    pub(super) async fn on_journal(&mut self, channel: &ChannelId, answer: Option<Box<Answer>>) {
        if let Some(slot) = self.slots.get_mut(channel) {
            slot.asking = None;
            slot.asked = Some(tokio::time::Instant::now());
        }
        let Some(answer) = answer else { return };
        for (signed, retraction) in answer.retractions {
            if !self
                .slot(channel)
                .retractions
                .contains_key(&retraction.sequence)
            {
                self.on_retraction(signed, &retraction, None).await;
            }
        }
        if let Some((signed, head)) = answer.head {
            self.on_head(signed, &head, Vec::new()).await;
        }
        // The newest first: a mirror any number of builds behind goes straight to its target, and passes
        // over what is older. Known ones too: a passed-over build counts again when a newer is taken back.
        for (signed, snapshot) in answer.snapshots.into_iter().rev() {
            if self.slot(channel).unvouched {
                self.keep_signature(channel, snapshot.build, &signed).await;
            }
            let target = target_of(&snapshot);
            let slot = self.slot(channel);
            let known = slot.snapshots.get(&snapshot.build);
            let forked = known.is_some_and(|(_, known)| known.root != snapshot.root);
            if forked || !slot.channel.is_settled(snapshot.lane, &target) {
                self.on_snapshot(signed, &snapshot, None).await;
            }
        }
    }

    /// Another root document: what was said by keys that count no more is as if it had not been said, and asked for again,
    /// as the archive signs it now.
    pub(super) async fn on_trusted(&mut self) {
        let counts = self.parts.trust.archive().now();
        if counts.is_empty() {
            // It has expired: nothing new is believed, and nothing is taken away.
            return;
        }
        let ids: Vec<ChannelId> = self.slots.keys().cloned().collect();
        for id in ids {
            self.disown(&id, &counts).await;
            // Whatever was parked because its key was not known may count now.
            let slot = self.slot(&id);
            (slot.ask_again, slot.asked) = (true, None);
            self.ask_journal(&id, Build::FIRST);
        }
    }

    async fn disown(&mut self, id: &ChannelId, counts: &TrustedKeys) {
        let retractions = self.disowned_retractions(id, counts);
        let slot = self.slot(id);
        let theirs = |signed: &Signed| signed.open(counts).is_err();
        let head = slot.head.as_ref().is_some_and(&theirs);
        let held: BTreeSet<Build> = slot.channel.held.keys().copied().collect();
        let targets: BTreeSet<Build> = slot.targets().map(|target| target.build).collect();
        let unheld = slot.snapshots.iter().filter(|(build, (signed, _))| {
            theirs(signed) && !held.contains(build) && !targets.contains(build)
        });
        let unheld: Vec<Build> = unheld.map(|(build, _)| *build).collect();
        slot.unvouched = slot.snapshots.values().any(|(signed, _)| theirs(signed));
        slot.vouched_at = None;
        // A fork may have been made of what they said; one that was not is found again.
        let halted = slot.channel.halt.is_some();
        if !head && !halted && retractions.is_empty() && unheld.is_empty() && !slot.unvouched {
            return;
        }
        tracing::warn!(channel = %id, head, retractions = retractions.len(), builds = unheld.len(), "keys were taken away: what they said counts no more");
        let mut writes = Vec::new();
        for build in unheld {
            slot.snapshots.remove(&build);
            writes.push(Write::Delete(Key::Snapshot(id.clone(), build).encode()));
        }
        for number in &retractions {
            slot.retractions.remove(number);
            writes.push(Write::Delete(Key::Retraction(id.clone(), *number).encode()));
        }
        if head {
            slot.head = None;
            writes.push(Write::Delete(Key::Head(id.clone()).encode()));
        }
        let input = Input::Disowned { head, retractions };
        self.step(id, input, writes).await;
        self.serve(id);
    }

    fn disowned_retractions(&self, id: &ChannelId, counts: &TrustedKeys) -> BTreeSet<u64> {
        let Some(slot) = self.slots.get(id) else {
            return BTreeSet::new();
        };
        let theirs = |number: &&u64| {
            let key = Key::Retraction(id.clone(), **number).encode();
            let stored = self.parts.control.get(&key).ok().flatten();
            let signed = stored.and_then(|bytes| Signed::decode(&bytes).ok());
            signed.is_some_and(|signed| signed.open(counts).is_err())
        };
        slot.retractions.keys().filter(theirs).copied().collect()
    }

    /// Asks where something is still signed by keys that count no more.
    pub(super) fn ask_for_signatures(&mut self) {
        let due = |slot: &Slot| {
            let asked = slot.vouched_at;
            slot.unvouched && asked.is_none_or(|asked| asked.elapsed() >= VOUCH_EVERY)
        };
        let slots = self.slots.iter().filter(|(_, slot)| due(slot));
        for channel in slots.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.slot(&channel).vouched_at = Some(tokio::time::Instant::now());
            self.slot(&channel).ask_again = true;
            self.ask_journal(&channel, Build::FIRST);
        }
    }

    /// Keeps a snapshot's present signature in the place of one that counts no more.
    async fn keep_signature(&mut self, channel: &ChannelId, build: Build, signed: &Signed) {
        let counts = self.parts.trust.archive().now();
        let slot = self.slot(channel);
        let Some((kept, _)) = slot.snapshots.get_mut(&build) else {
            return;
        };
        if kept.statement != signed.statement || kept.open(&counts).is_ok() {
            return;
        }
        *kept = signed.clone();
        let mut all = slot.snapshots.values().map(|(signed, _)| signed);
        slot.unvouched = all.any(|signed| signed.open(&counts).is_err());
        let key = Key::Snapshot(channel.clone(), build).encode();
        self.commit(vec![Write::Put(key, signed.encode())]).await;
        self.serve(channel);
    }

    pub(super) async fn on_stream_changed(&mut self, lane: Lane, stream: StreamIdentity) {
        tracing::warn!(%lane, "the log was made anew; replaying it from its start");
        self.reset_cursor(lane, stream);
        self.persist_cursors().await;
    }

    pub(super) fn reset_cursor(&mut self, lane: Lane, stream: StreamIdentity) {
        let stream_created_ns = i64::try_from(stream.0).unwrap_or(i64::MAX);
        self.cursors.insert(
            lane,
            Cursor {
                stream_created_ns,
                delivered: 0,
            },
        );
        self.acks.retain(|(of, _), _| *of != lane);
        for slot in self.slots.values_mut() {
            slot.channel.forget_open(lane);
        }
    }

    pub(super) fn take_position(&mut self, lane: Lane, position: runtime::log::Position) {
        let stream_created_ns = i64::try_from(position.stream.0).unwrap_or(i64::MAX);
        let known = self
            .cursors
            .get(&lane)
            .map(|cursor| cursor.stream_created_ns);
        if known.is_some_and(|known| known != stream_created_ns) {
            self.reset_cursor(lane, position.stream);
        }
        let cursor = self.cursors.entry(lane).or_default();
        cursor.stream_created_ns = stream_created_ns;
        cursor.delivered = cursor.delivered.max(position.sequence);
    }
}

pub(super) fn target_of(snapshot: &Snapshot) -> Target {
    Target {
        build: snapshot.build,
        base: snapshot.base,
        root: snapshot.root,
        created: snapshot.created,
    }
}
