//! What a restart changes, and what it does not.
#![allow(clippy::unwrap_used)]

use mirrorlog_core::directory::health::{ProbeRules, Probed};
use mirrorlog_core::directory::member::Profile;
use mirrorlog_core::directory::offer::Question;
use mirrorlog_core::directory::place::{Continent, Country, Place};
use mirrorlog_core::id::{Build, ChannelId, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{Head, RevokeReason, VerdictState};
use wire::causes;

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_795_305_030);
const CHANNELS: [&str; 2] = ["noble", "openbsd"];
const MIRRORS: [(&str, &str); 5] = [
    ("au1", "au"),
    ("de1", "de"),
    ("nz1", "nz"),
    ("nz2", "nz"),
    ("nz3", "nz"),
];

fn channel(text: &str) -> ChannelId {
    ChannelId::new(text).unwrap()
}

fn mirror(text: &str) -> MirrorId {
    MirrorId::new(text).unwrap()
}

fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

fn root(number: u64) -> Digest {
    Digest::of(&number.to_be_bytes())
}

/// Knows these mirrors and nothing else.
fn fresh(mirrors: &[(&str, &str)]) -> Directory {
    let profile = |(id, pool): &(&str, &str)| {
        let pool = PoolId::new(pool).unwrap();
        Profile::new(mirror(id), pool)
    };
    let rules = ProbeRules { every_ms: 30_000 };
    Directory::new(rules, mirrors.iter().map(profile).collect())
}

fn published(name: &str, number: u64) -> Input {
    let shapes = [("/ubuntu", Layout::Debian), ("/pub", Layout::OpenBsd)];
    let (mount, layout) = shapes[usize::from(name == CHANNELS[1])];
    Input::Snapshot(Snapshot {
        channel: channel(name),
        build: build(number),
        base: Build::new(number - 1),
        root: root(number),
        previous: Build::new(number - 1).map(|_| root(number - 1)),
        created: NOW.plus_ms(-1_000_000),
        entries: number,
        bytes: 1000 * number,
        lane: Lane::Priority,
        mount: Mount::new(mount).unwrap(),
        layout,
        precedence: 3,
        notices: Vec::new(),
    })
}

fn said(id: &str, name: &str, number: u64, state: VerdictState) -> Input {
    Input::Verdict(Verdict {
        mirror: mirror(id),
        pool: PoolId::new(&id[..2]).unwrap(),
        channel: channel(name),
        build: build(number),
        root: root(number),
        view: mirrorlog_core::view::View::All,
        state,
        issued: NOW.plus_ms(-500_000),
        lease_revision: 4,
        audited_files: 50,
        new_files: 60,
    })
}

fn wanted(name: &str, pool: &str, number: u64) -> Input {
    Input::Wanted {
        channel: channel(name),
        pool: PoolId::new(pool).unwrap(),
        build: Some(build(number)),
    }
}

/// Two channels. au1 is down, nz2 was revoked, nz3 is not yet complete; one build was taken back, and one
/// channel's head has expired.
fn story() -> Directory {
    let mut fold = fresh(&MIRRORS);
    let mut feed = |input| drop(fold.step(input, NOW.plus_ms(-400_000)));
    for name in CHANNELS {
        for number in 1..=3 {
            feed(published(name, number));
            for (id, _) in MIRRORS {
                feed(said(id, name, number, VerdictState::Complete));
            }
        }
        for (pool, number) in [("nz", 2), ("au", 2), ("de", 1)] {
            feed(wanted(name, pool, number));
        }
        let left_ms = if name == CHANNELS[0] { 500_000 } else { -1 };
        feed(Input::Head(Head {
            channel: channel(name),
            build: build(3),
            root: root(3),
            retractions: root(0),
            issued: NOW.plus_ms(-600_000),
            expires: NOW.plus_ms(left_ms),
        }));
    }
    feed(Input::Retraction(Retraction {
        channel: channel("noble"),
        sequence: 7,
        first: build(3),
        last: build(3),
        reason: "bad libc".to_owned(),
        replacement: Some(build(4)),
        created: NOW.plus_ms(-300_000),
    }));
    let path = EntryPath::new(b"pool/a.deb").unwrap();
    let mismatch = VerdictState::Revoked(RevokeReason::DigestMismatch { path });
    feed(said("nz2", "noble", 2, mismatch));
    feed(said("nz3", "noble", 2, VerdictState::Verified));
    feed(said("nz3", "noble", 1, VerdictState::Pending));
    let answered = Probed::Answered { latency_ms: 20.0 };
    let silent = ["au1", "au1"].map(|id| (id, Probed::Silent));
    let probes = MIRRORS.map(|(id, _)| (id, answered)).into_iter();
    for (id, probed) in probes.chain(silent) {
        let mirror = fold.view().find(&mirror(id)).unwrap();
        let looked = Vec::new();
        let input = Input::Probed {
            mirror,
            probed,
            looked,
        };
        fold.step(input, NOW.plus_ms(-200_000));
    }
    fold
}

/// What is offered, to whom, and why the others are not.
fn answers(view: &View) -> Vec<String> {
    let in_country = |code: &str| {
        let country: Country = code.parse().unwrap();
        Place {
            country: Some(country),
            continent: Continent::of(country),
            ..Place::default()
        }
    };
    let places = [
        Place::default(),
        in_country("NZ"),
        in_country("DE"),
        in_country("AU"),
    ];
    let mut answers = Vec::new();
    for channel in CHANNELS.map(channel) {
        for place in &places {
            for build in (0..=4).map(Build::new) {
                let question = Question {
                    needs: Default::default(),
                    channel: &channel,
                    build,
                    place,
                    now: NOW,
                };
                let (offer, excluded) = (view.offer(&question), view.excluded(&question));
                answers.push(format!("{question:?}: {offer:?}, not {excluded:?}"));
            }
        }
    }
    answers
}

/// What a process that starts anew makes of what `fold` knows.
fn restarted(fold: &Directory, mirrors: &[(&str, &str)]) -> Directory {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), fold.view(), NOW).unwrap();
    let state = load(dir.path()).unwrap().unwrap();
    assert_eq!(state.saved, NOW);
    let mut resumed = fresh(mirrors);
    resume(&mut resumed, state, NOW);
    resumed
}

#[test]
fn a_restart_changes_no_answer() {
    let before = story();
    let after = restarted(&before, &MIRRORS);
    let (before, after) = (before.view(), after.view());
    let told = answers(before);
    for (before, after) in told.iter().zip(answers(after)) {
        assert_eq!(*before, after);
    }
    let all = told.join("\n");
    for part in [
        "tier: Country",
        "tier: World",
        "Retracted",
        "Unreachable",
        "Expired",
        "Verified",
        "DigestMismatch",
    ] {
        assert!(all.contains(part), "the story has no {part}");
    }
    // Beyond what is asked: verdicts, retractions, heads, wanted builds, all of it.
    assert!(before.channels().eq(after.channels()));
    for (mirror, _) in before.mirrors() {
        let (before, after) = (before.health(mirror), after.health(mirror));
        let known = (before.is_up(), before.changed);
        assert_eq!((after.is_up(), after.changed), known);
    }
    assert_eq!(roots(after), roots(before));
}

#[test]
fn a_fork_and_what_did_not_answer_are_remembered() {
    let mut before = story();
    let (noble, forked) = (channel("noble"), build(1));
    let mut other = published("noble", 1);
    if let Input::Snapshot(snapshot) = &mut other {
        snapshot.root = root(99);
    }
    before.step(other, NOW);
    let mirror = before.view().find(&mirror(MIRRORS[0].0)).unwrap();
    let looked = vec![(noble.clone(), build(2), false)];
    let probed = Probed::Answered { latency_ms: 1.0 };
    before.step(
        Input::Probed {
            mirror,
            probed,
            looked,
        },
        NOW,
    );
    let after = restarted(&before, &MIRRORS);
    let view = after.view();
    assert_eq!(view.channel(&noble).unwrap().channel.fork, Some(forked));
    assert_eq!(view.health(mirror).unserved(&noble), Some(build(2)));
}

#[test]
fn a_mirror_that_was_never_probed_is_new_again() {
    let before = fresh(&MIRRORS);
    let after = restarted(&before, &MIRRORS);
    for (mirror, _) in after.view().mirrors() {
        assert_eq!(after.view().health(mirror).standing, Standing::New);
    }
}

#[test]
fn a_second_restart_loses_nothing_more() {
    let once = restarted(&story(), &MIRRORS);
    let twice = restarted(&once, &MIRRORS);
    assert_eq!(state_of(twice.view(), NOW), state_of(story().view(), NOW));
}

/// The next leader's words count, whatever lease the saved ones had.
#[test]
fn verdicts_go_on_after_a_restart() {
    let mut fold = restarted(&story(), &MIRRORS);
    let effects = fold.step(said("nz3", "noble", 2, VerdictState::Complete), NOW);
    assert_eq!(effects, []);
    let (noble, nz3) = (channel("noble"), fold.view().find(&mirror("nz3")).unwrap());
    let carried = fold.view().channel(&noble).unwrap();
    assert!(carried.is_complete(nz3, build(2)));
}

#[test]
fn mirrors_that_are_no_longer_configured_are_passed_over() {
    let left = [MIRRORS[2], ("zz1", "zz")];
    let fold = restarted(&story(), &left);
    let view = fold.view();
    let up = view.mirrors().map(|(mirror, profile)| {
        let up = view.health(mirror).is_up();
        (profile.mirror.as_str(), up)
    });
    assert_eq!(up.collect::<Vec<_>>(), [("nz1", true), ("zz1", false)]);
    let (_, carried) = view.channels().next().unwrap();
    let words = |mirror| carried.words_on(mirror).count();
    let words = view.mirrors().map(|(mirror, _)| words(mirror));
    assert_eq!(words.collect::<Vec<_>>(), [3, 0]);
}

#[test]
fn the_last_save_counts() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), story().view(), NOW).unwrap();
    // What a process left that was killed while it wrote.
    std::fs::write(dir.path().join("directory.state.new"), "half").unwrap();
    let later = NOW.plus_ms(2_000);
    save(dir.path(), fresh(&[]).view(), later).unwrap();
    let expected = DirectoryState {
        saved: later,
        ..DirectoryState::default()
    };
    assert_eq!(load(dir.path()).unwrap(), Some(expected));
    let files = std::fs::read_dir(dir.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), [NAME]);
}

#[test]
fn nothing_saved_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(dir.path()).unwrap(), None);
    assert_eq!(load(&dir.path().join("absent")).unwrap(), None);
    std::fs::write(dir.path().join("directory.state.new"), "half").unwrap();
    assert_eq!(load(dir.path()).unwrap(), None, "never finished");
}

#[test]
fn a_damaged_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    save(dir.path(), story().view(), NOW).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let half = &whole[..whole.len() / 2];
    for (bytes, cause) in [
        (&b""[..], "schema 0 is not known here"),
        (b"\xff\xff", "bytes are no directory state"),
        (b"\x08\x02", "schema 2 is not known here"),
        (half, "bytes are no directory state"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = load(dir.path()).unwrap_err();
        assert!(matches!(error, SavedError::Decode { .. }), "{error:?}");
        let expected = format!("{} is not usable: {cause}", path.display());
        assert!(causes(&error).starts_with(&expected), "{}", causes(&error));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_not_absent() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(NAME)).unwrap();
    let error = load(dir.path()).unwrap_err();
    assert!(matches!(error, SavedError::Read { .. }), "{error:?}");
    save(dir.path(), story().view(), NOW).unwrap_err();
}
