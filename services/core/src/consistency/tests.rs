//! Each invariant is a function; random input sequences go through all of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::id::Lane;
use crate::layout::Layout;
use crate::statement::{Order, OrderKind, Presence, ReportedBuild, VerdictState};
use crate::time::Timestamp;
use crate::view::View;

mod scenarios;
mod world;

use world::{Key, Oracle, World};

const MIRRORS: [&str; 4] = ["nz1", "nz2", "nz3", "au1"];
const ENTRIES: u64 = 10;

pub(super) fn mirror(name: &str) -> MirrorId {
    MirrorId::new(name).unwrap()
}

pub(super) fn channel() -> ChannelId {
    ChannelId::new("noble").unwrap()
}

fn pool_of(name: &str) -> PoolId {
    PoolId::new(&name[..2]).unwrap()
}

pub(super) fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

fn root(number: u64) -> Digest {
    Digest::of(&number.to_be_bytes())
}

fn path() -> EntryPath {
    EntryPath::new(b"pool/a.deb").unwrap()
}

pub(super) fn rules() -> Rules {
    Rules {
        round_ms: 10_000,
        retry_ms: 1_000,
        stale_after_ms: 60_000,
        unreachable_failures: 3,
        laggard_after_ms: 300_000,
    }
}

pub(super) fn fresh() -> Consistency {
    let member = |name: &&str| Member {
        mirror: mirror(name),
        pool: pool_of(name),
        audience: Audience::Public,
        channels: Vec::new(),
    };
    Consistency::new(rules(), MIRRORS.iter().map(member))
}

pub(super) fn snapshot(number: u64) -> Input {
    Input::Snapshot(Snapshot {
        channel: channel(),
        build: build(number),
        base: None,
        root: root(number),
        previous: None,
        created: Timestamp::from_seconds(1_000),
        entries: ENTRIES,
        bytes: 1,
        lane: Lane::Bulk,
        mount: Mount::new("/ubuntu").unwrap(),
        layout: Layout::Debian,
        precedence: 0,
        notices: Vec::new(),
    })
}

pub(super) fn retraction(sequence: u64, first: u64, last: u64) -> Input {
    Input::Retraction(Retraction {
        channel: channel(),
        sequence,
        first: build(first),
        last: build(last),
        reason: "bad".into(),
        replacement: None,
        created: Timestamp::EPOCH,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Has {
    All,
    EveryOrdinal,
    Loss,
    OtherRoot,
}

pub(super) fn report(
    name: &str,
    boot: u64,
    sequence: u64,
    live: u64,
    builds: &[(u64, Has)],
) -> Report {
    let reported = |(number, has): &(u64, Has)| ReportedBuild {
        build: build(*number),
        root: if *has == Has::OtherRoot {
            root(999)
        } else {
            root(*number)
        },
        view: View::All,
        presence: match has {
            Has::All | Has::OtherRoot => Presence::All,
            Has::EveryOrdinal => Presence::Some((0..10).collect()),
            Has::Loss => Presence::Some((1..10).collect()),
        },
        missing_files: u64::from(*has == Has::Loss),
        missing_bytes: 0,
    };
    Report {
        mirror: mirror(name),
        channel: channel(),
        boot,
        sequence,
        issued: Timestamp::EPOCH,
        booted: Timestamp::from_seconds(i64::try_from(boot).unwrap()),
        live: Build::new(live),
        builds: builds.iter().map(reported).collect(),
        target: None,
        fetch_bytes_per_s: 0,
        disk_free_bytes: 0,
        halted: None,
        orders: Vec::new(),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Snapshot(u64),
    Retract(u64, u64),
    Report {
        mirror: usize,
        reboot: bool,
        live: u64,
        builds: Vec<(u64, Has)>,
    },
    OldReport {
        mirror: usize,
    },
    Audit {
        pick: usize,
        outcome: usize,
    },
    LateMismatch {
        pick: usize,
    },
    Probe {
        mirror: usize,
        reach: Reach,
    },
    Tick {
        ms: i64,
        random: u64,
    },
    Lead,
    Follow,
}

fn has() -> impl Strategy<Value = Has> {
    prop_oneof![5 => Just(Has::All), 1 => Just(Has::EveryOrdinal), 1 => Just(Has::Loss), 1 => Just(Has::OtherRoot)]
}

fn op() -> impl Strategy<Value = Op> {
    let mirror = 0..MIRRORS.len();
    let builds = prop::collection::btree_map(1..6_u64, has(), 0..4);
    prop_oneof![
        3 => (1..6_u64).prop_map(Op::Snapshot),
        1 => (1..6_u64, 0..2_u64).prop_map(|(first, more)| Op::Retract(first, first + more)),
        6 => (mirror.clone(), prop::bool::weighted(0.1), 0..6_u64, builds).prop_map(
            |(mirror, reboot, live, builds)| Op::Report { mirror, reboot, live, builds: builds.into_iter().collect() }
        ),
        1 => mirror.clone().prop_map(|mirror| Op::OldReport { mirror }),
        12 => (0..100_usize, 0..13_usize).prop_map(|(pick, outcome)| Op::Audit { pick, outcome }),
        1 => (0..100_usize).prop_map(|pick| Op::LateMismatch { pick }),
        2 => (mirror, prop_oneof![Just(Reach::Answered), Just(Reach::Silent)])
            .prop_map(|(mirror, reach)| Op::Probe { mirror, reach }),
        4 => (1..3_000_i64, any::<u64>()).prop_map(|(ms, random)| Op::Tick { ms, random }),
        2 => Just(Op::Lead),
        1 => Just(Op::Follow),
    ]
}

fn invariant_only_the_leader_acts(fold: &Consistency, effect: &Effect) {
    let acts = !matches!(effect, Effect::Fork { .. } | Effect::Refused(_));
    assert!(
        !acts || fold.leadership() != Leadership::Follower,
        "a follower did {effect:?}"
    );
}

fn invariant_complete_implies_all_present_and_audited(
    oracle: &Oracle,
    key: &Key,
    state: &VerdictState,
) {
    let good = matches!(state, VerdictState::Verified | VerdictState::Complete);
    if good {
        assert!(
            oracle.signed.contains(&key.1),
            "{key:?} is {state:?} but was never signed"
        );
        assert!(
            oracle.whole.contains(key),
            "{key:?} is {state:?} but not reported whole"
        );
        assert!(
            oracle.pinned.contains(key),
            "{key:?} is {state:?} but no pinned audit passed"
        );
    }
    if *state == VerdictState::Complete {
        let live = oracle.live.get(&key.0);
        let at_it = live == Some(&key.1) && oracle.live_ok.contains(key);
        assert!(
            at_it || live > Some(&key.1),
            "{key:?} is complete but live is {live:?}"
        );
    }
}

fn invariant_retracted_is_never_good(oracle: &Oracle, key: &Key, state: &VerdictState) {
    let retracted = oracle.retracted.contains(&key.1);
    assert!(
        !retracted || matches!(state, VerdictState::Revoked(_)),
        "{key:?} was retracted and is {state:?}"
    );
}

fn invariant_mass_silence_revokes_nobody(fold: &Consistency, state: &VerdictState) {
    let silent = *state == VerdictState::Revoked(RevokeReason::Unreachable);
    assert!(
        !silent || !fold.is_cut_off(),
        "unreachable while the auditor may be cut off"
    );
}

fn invariant_wanted_never_goes_back_without_retraction(
    oracle: &Oracle,
    pool: &PoolId,
    next: Option<Build>,
) {
    let current = oracle.wanted.get(pool).copied();
    if let Some(current) = current.filter(|current| !oracle.retracted.contains(current)) {
        assert!(
            next > Some(current),
            "wanted of {pool} went from {current} to {next:?}"
        );
    }
}

fn invariant_wanted_is_complete_on_a_strict_majority(
    oracle: &Oracle,
    pool: &PoolId,
    next: Option<Build>,
) {
    let Some(next) = next else { return };
    assert!(
        !oracle.retracted.contains(&next),
        "wanted {next} was retracted"
    );
    let in_pool = MIRRORS.iter().filter(|name| pool_of(name) == *pool);
    let complete =
        |name: &&&str| oracle.said.get(&(mirror(name), next)) == Some(&VerdictState::Complete);
    assert!(
        in_pool.filter(complete).count() >= 1,
        "wanted {next} is complete nowhere in {pool}"
    );
}

fn invariant_old_boot_or_sequence_changes_nothing(
    fold: &Consistency,
    old: &Report,
    now: Timestamp,
) {
    let refused = [Effect::Refused(Refusal::Stale(
        old.mirror.clone(),
        old.channel.clone(),
    ))];
    let mut older_boot = old.clone();
    older_boot.booted = old.booted.plus_ms(-1);
    (older_boot.boot, older_boot.sequence) = (77, u64::MAX);
    for report in [old.clone(), older_boot] {
        let mut after = fold.clone();
        assert_eq!(after.step(Input::Report(report), now), refused);
        assert_eq!(after, *fold);
    }
}

fn invariant_digest_mismatch_always_revokes(fold: &Consistency, audit: &Audit) {
    if fold.leadership() == Leadership::Follower {
        return;
    }
    let verdict = fold.verdict(&audit.mirror, &audit.channel, audit.build);
    let revoked = matches!(
        verdict,
        None | Some(VerdictState::Pending | VerdictState::Revoked(_))
    );
    assert!(revoked, "{verdict:?} after a digest mismatch");
}

fn invariant_memory_is_bounded(fold: &Consistency) {
    for carried in fold
        .mirrors
        .values()
        .flat_map(|mirror| mirror.channels.values())
    {
        assert!(carried.builds.len() <= HELD_MAX);
    }
}

/// A follower that saw only the verdicts says the same as the leader that made them.
fn invariant_state_is_rebuilt_from_verdicts(world: &World) {
    let mut copy = fresh();
    for ((mirror, build), state) in &world.oracle.said {
        let verdict = Verdict {
            mirror: mirror.clone(),
            pool: pool_of(mirror.as_str()),
            channel: channel(),
            build: *build,
            root: root(build.get()),
            view: View::All,
            state: state.clone(),
            issued: world.now,
            lease_revision: 1,
            audited_files: 0,
            new_files: 0,
        };
        copy.step(Input::Verdict(verdict), world.now);
        let expected = (*state != VerdictState::Revoked(RevokeReason::Dropped)).then_some(state);
        assert_eq!(copy.verdict(mirror, &channel(), *build), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_over_random_sequences(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        world.apply(Op::Lead);
        for op in ops {
            world.apply(op);
        }
        invariant_state_is_rebuilt_from_verdicts(&world);
    }
}
