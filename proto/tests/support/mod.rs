//! Strategies for everything that can be said, and keys to sign it with.
//!
//! Each test file uses a part of them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub(crate) mod directory;
pub(crate) mod messages;
pub(crate) mod roots;
pub(crate) mod said;

use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::{Entry, FileEntry, Mode};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::sign::{KeyNumber, SecretKey, TrustedKeys};
use mirrorlog_core::statement::{
    Change, Delta, Head, Notice, Order, OrderKind, OrderOutcome, Presence, ReplayFrom, Report,
    ReportedBuild, Retraction, RevokeReason, Snapshot, Statement, Verdict, VerdictState,
};
use mirrorlog_core::time::{Mtime, Timestamp};
use mirrorlog_core::view::{Part, View};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use roaring::RoaringBitmap;

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(KeyNumber([seed; 8]), &[seed; 32])
}

pub(crate) fn trusted(keys: &[&SecretKey]) -> TrustedKeys {
    TrustedKeys::new(keys.iter().map(|key| key.public()))
}

pub(crate) fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

pub(crate) fn digest(fill: u8) -> Digest {
    Digest::from_bytes([fill; 32])
}

pub(crate) fn path(text: &str) -> EntryPath {
    EntryPath::new(text.as_bytes()).unwrap()
}

pub(crate) fn statements() -> impl Strategy<Value = Statement> {
    prop_oneof![
        snapshots().prop_map(Statement::Snapshot),
        heads().prop_map(Statement::Head),
        retractions().prop_map(Statement::Retraction),
        reports().prop_map(Statement::Report),
        verdicts().prop_map(Statement::Verdict),
        orders().prop_map(Statement::Order),
        roots::roots().prop_map(Statement::Root),
    ]
}

pub(crate) fn snapshots() -> impl Strategy<Value = Snapshot> {
    let place = (
        channels(),
        2..=u64::MAX,
        any::<u64>(),
        digests(),
        option::of(digests()),
    );
    let counts = (
        times(),
        0..=u64::from(u32::MAX),
        any::<u64>(),
        lanes(),
        any::<u32>(),
    );
    let shape = (mounts(), layouts(), vec(notices(), 0..4));
    (place, counts, shape).prop_map(|(place, counts, shape)| {
        let (channel, number, base, root, previous) = place;
        let (created, entries, bytes, lane, precedence) = counts;
        let (mount, layout, notices) = shape;
        let base = Build::new(base % number);
        let build = build(number);
        Snapshot {
            channel,
            build,
            base,
            root,
            previous,
            created,
            entries,
            bytes,
            lane,
            mount,
            layout,
            precedence,
            notices,
        }
    })
}

pub(crate) fn heads() -> impl Strategy<Value = Head> {
    let digests = (digests(), digests());
    (channels(), builds(), digests, times(), times()).prop_map(|(channel, build, digests, a, b)| {
        let (root, retractions) = digests;
        Head {
            channel,
            build,
            root,
            retractions,
            issued: a.min(b),
            expires: a.max(b),
        }
    })
}

pub(crate) fn retractions() -> impl Strategy<Value = Retraction> {
    let parts = (
        channels(),
        1..=4096_u64,
        builds(),
        builds(),
        texts(),
        any::<bool>(),
        times(),
    );
    parts.prop_map(|(channel, sequence, a, b, reason, replaced, created)| {
        let (first, last) = (a.min(b), a.max(b));
        let replacement = (replaced && last.next() > last).then(|| last.next());
        Retraction {
            channel,
            sequence,
            first,
            last,
            reason,
            replacement,
            created,
        }
    })
}

pub(crate) fn reports() -> impl Strategy<Value = Report> {
    let who = (
        mirrors(),
        channels(),
        any::<u64>(),
        any::<u64>(),
        times(),
        times(),
    );
    let builds = btree_map(1..=u64::MAX, reported(), 0..5);
    let held = (
        option::of(self::builds()),
        builds,
        option::of(self::builds()),
    );
    let state = (
        any::<u64>(),
        any::<u64>(),
        option::of(texts()),
        vec(outcomes(), 0..3),
    );
    (who, held, state).prop_map(|(who, held, state)| {
        let (mirror, channel, boot, sequence, issued, booted) = who;
        let (live, builds, target) = held;
        let (fetch_bytes_per_s, disk_free_bytes, halted, orders) = state;
        let numbered = |(number, reported)| ReportedBuild {
            build: build(number),
            ..reported
        };
        let builds = builds.into_iter().map(numbered).collect();
        Report {
            mirror,
            channel,
            boot,
            sequence,
            issued,
            booted,
            live,
            builds,
            target,
            fetch_bytes_per_s,
            disk_free_bytes,
            halted,
            orders,
        }
    })
}

fn reported() -> impl Strategy<Value = ReportedBuild> {
    (digests(), presences(), any::<u64>(), any::<u64>(), views()).prop_map(
        |(root, presence, missing_files, missing_bytes, view)| ReportedBuild {
            build: Build::FIRST,
            root,
            view,
            presence,
            missing_files,
            missing_bytes,
        },
    )
}

/// Everything, and parts.
pub(crate) fn views() -> impl Strategy<Value = View> {
    let names = || proptest::collection::btree_set("[a-z0-9]{1,9}", 0..4);
    let globs = || proptest::collection::btree_set("[a-z*/]{1,9}", 0..4);
    let part = (names(), names(), globs(), globs());
    part.prop_map(|(architectures, components, include, exclude)| {
        let part = Part {
            architectures,
            components,
            include,
            exclude,
        };
        View::new(part).unwrap_or_default()
    })
}

/// Sparse, dense and run-length ones.
fn presences() -> impl Strategy<Value = Presence> {
    let sparse = vec(any::<u32>(), 0..40).prop_map(RoaringBitmap::from_iter);
    let dense = (0..50_u32, 1..20_000_u32)
        .prop_map(|(from, count)| RoaringBitmap::from_iter((0..count).map(|i| from + 2 * i)));
    let runs = vec((any::<u32>(), 1..70_000_u32), 1..6).prop_map(|runs| {
        let mut bitmap = RoaringBitmap::new();
        for (from, count) in runs {
            bitmap.insert_range(from..from.saturating_add(count));
        }
        bitmap.optimize();
        bitmap
    });
    prop_oneof![
        Just(Presence::All),
        prop_oneof![sparse, dense, runs].prop_map(Presence::Some),
    ]
}

fn outcomes() -> impl Strategy<Value = OrderOutcome> {
    (any::<u64>(), any::<bool>(), texts()).prop_map(|(id, ok, text)| OrderOutcome { id, ok, text })
}

pub(crate) fn verdicts() -> impl Strategy<Value = Verdict> {
    let whom = (mirrors(), pools(), channels(), builds(), digests());
    let counts = (any::<u64>(), any::<u64>(), any::<u64>());
    let word = (states(), times(), counts, views());
    (whom, word).prop_map(|(whom, word)| {
        let (mirror, pool, channel, build, root) = whom;
        let (state, issued, (lease_revision, audited_files, new_files), view) = word;
        Verdict {
            mirror,
            pool,
            channel,
            build,
            root,
            view,
            state,
            issued,
            lease_revision,
            audited_files,
            new_files,
        }
    })
}

fn states() -> impl Strategy<Value = VerdictState> {
    let reasons = prop_oneof![
        paths().prop_map(|path| RevokeReason::DigestMismatch { path }),
        paths().prop_map(|path| RevokeReason::Missing { path }),
        any::<u64>().prop_map(|files| RevokeReason::ReportedLoss { files }),
        Just(RevokeReason::Unreachable),
        Just(RevokeReason::Retracted),
        Just(RevokeReason::Dropped),
        Just(RevokeReason::WrongBuild),
    ];
    prop_oneof![
        Just(VerdictState::Pending),
        Just(VerdictState::Verified),
        Just(VerdictState::Complete),
        reasons.prop_map(VerdictState::Revoked),
    ]
}

pub(crate) fn orders() -> impl Strategy<Value = Order> {
    (any::<u64>(), mirrors(), times(), order_kinds()).prop_map(|(id, mirror, issued, kind)| Order {
        id,
        mirror,
        issued,
        kind,
    })
}

pub(crate) fn order_kinds() -> impl Strategy<Value = OrderKind> {
    let from = prop_oneof![
        builds().prop_map(ReplayFrom::Build),
        times().prop_map(ReplayFrom::Time),
        Just(ReplayFrom::LastAck),
    ];
    prop_oneof![
        (option::of(channels()), option::of(lanes()), from).prop_map(|(channel, lane, from)| {
            OrderKind::Replay {
                channel,
                lane,
                from,
            }
        }),
        (option::of(channels()), option::of(builds()))
            .prop_map(|(channel, build)| OrderKind::Verify { channel, build }),
        (channels(), builds(), builds()).prop_map(|(channel, one, other)| OrderKind::Backfill {
            channel,
            first: one.min(other),
            last: one.max(other),
        }),
        "[a-z ]{0,40}".prop_map(|reason| OrderKind::Drain { reason }),
        Just(OrderKind::Resume),
    ]
}

/// In byte order of path, as deltas are.
pub(crate) fn deltas() -> impl Strategy<Value = Delta> {
    btree_map(paths(), option::of(entries()), 0..12).prop_map(|changes| {
        changes
            .into_iter()
            .map(|(path, new)| Change { path, new })
            .collect()
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    let modes = prop_oneof![Just(Mode::Plain), Just(Mode::Executable)];
    let files = (0..=i64::MAX.cast_unsigned(), digests(), modes, any::<i64>());
    let files = files.prop_map(|(size_bytes, digest, mode, mtime)| {
        Entry::File(FileEntry {
            size_bytes,
            digest,
            mode,
            mtime: Mtime::from_seconds(mtime),
        })
    });
    let links = "[a-z]{1,8}(/[a-z.]{3,5})?".prop_map(|target| Entry::Symlink {
        target: target.into_bytes().into(),
    });
    prop_oneof![3 => files, 1 => links]
}

pub(crate) fn paths() -> impl Strategy<Value = EntryPath> {
    let component = vec(any::<u8>(), 1..12);
    vec(component, 1..4).prop_filter_map("not a path", |components| {
        EntryPath::new(&components.join(&b'/')).ok()
    })
}

pub(crate) fn channels() -> impl Strategy<Value = ChannelId> {
    "[a-z0-9][a-z0-9-]{0,62}".prop_map(|text| ChannelId::new(&text).unwrap())
}

pub(crate) fn mirrors() -> impl Strategy<Value = MirrorId> {
    "[a-z0-9][a-z0-9-]{0,62}".prop_map(|text| MirrorId::new(&text).unwrap())
}

pub(crate) fn pools() -> impl Strategy<Value = PoolId> {
    "[a-z]{2}(-[a-z]{1,8})?".prop_map(|text| PoolId::new(&text).unwrap())
}

fn mounts() -> impl Strategy<Value = Mount> {
    "(/[a-zA-Z0-9_+~-]{1,9}){1,3}".prop_filter_map("reserved", |text| Mount::new(&text).ok())
}

pub(crate) fn builds() -> impl Strategy<Value = Build> {
    prop_oneof![1..100_u64, 1..=u64::MAX].prop_map(build)
}

fn digests() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

pub(crate) fn times() -> impl Strategy<Value = Timestamp> {
    (0..=253_402_300_799_999_i64).prop_map(Timestamp::from_ms)
}

fn lanes() -> impl Strategy<Value = Lane> {
    prop_oneof![Just(Lane::Bulk), Just(Lane::Priority)]
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![
        Just(Layout::Plain),
        Just(Layout::Debian),
        Just(Layout::OpenBsd)
    ]
}

fn notices() -> impl Strategy<Value = Notice> {
    ("[a-z][a-z0-9.+-]{0,20}", texts()).prop_map(|(package, text)| Notice { package, text })
}

/// What a text may be: any characters but control ones.
pub(crate) fn texts() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}
