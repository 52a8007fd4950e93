//! The journal by itself: what is read back, and what halts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use archive::journal::{Entry, Journal, JournalError};
use mirrorlog_core::archive::{HistoryError, Item};
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, Mount};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::sign::{KeyNumber, SecretKey, TrustedKeys};
use mirrorlog_core::statement::{Retraction, Snapshot, Statement};
use mirrorlog_core::time::Timestamp;
use wire::{EventBody, Signed};

fn channel() -> ChannelId {
    ChannelId::new("noble").unwrap()
}

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(KeyNumber([number; 8]), &[number; 32])
}

fn trusted(numbers: &[u8]) -> TrustedKeys {
    TrustedKeys::new(numbers.iter().map(|number| key(*number).public()))
}

/// The next snapshot on top of what the journal holds.
fn snapshot(journal: &Journal, key: &SecretKey, content: &str) -> Entry {
    let history = journal.history();
    let newest = history.newest();
    let snapshot = Snapshot {
        channel: channel(),
        build: newest.map_or(Build::FIRST, |newest| newest.build.next()),
        base: newest.map(|newest| newest.build),
        root: Digest::of(content.as_bytes()),
        previous: newest.map(|newest| newest.statement),
        created: history.newest_time().plus_ms(1),
        entries: 1,
        bytes: 1,
        lane: Lane::Bulk,
        mount: Mount::new("/ubuntu").unwrap(),
        layout: Layout::Plain,
        precedence: 0,
        notices: Vec::new(),
    };
    let body = EventBody::Snapshot(Signed::sign(key, &Statement::Snapshot(snapshot)));
    Entry::open(body, &channel(), &trusted(&[1, 2])).unwrap()
}

fn filled(root: &Path) -> Journal {
    let journal = Journal::open(root, &channel(), &trusted(&[1, 2])).unwrap();
    for content in ["a", "b", "c"] {
        journal
            .append(&[snapshot(&journal, &key(1), content)])
            .unwrap();
    }
    let retraction = Retraction {
        channel: channel(),
        sequence: 1,
        first: Build::new(2).unwrap(),
        last: Build::new(2).unwrap(),
        reason: "bad".to_owned(),
        replacement: None,
        created: Timestamp::from_ms(9),
    };
    let body = EventBody::Retraction(Signed::sign(&key(1), &Statement::Retraction(retraction)));
    journal
        .append(&[Entry::open(body, &channel(), &trusted(&[1])).unwrap()])
        .unwrap();
    journal
}

#[test]
fn what_is_appended_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    // A key that was rotated out still verifies what it signed.
    journal.append(&[snapshot(&journal, &key(2), "d")]).unwrap();
    let again = Journal::open(dir.path(), &channel(), &trusted(&[1, 2])).unwrap();
    assert_eq!(again.halted(), None);
    assert_eq!(again.history(), journal.history());
    let item = Item::Snapshot(Build::new(4).unwrap());
    assert_eq!(again.read(item).unwrap(), journal.read(item).unwrap());
    assert!(again.read(Item::Retraction(2)).is_err());
}

#[test]
fn a_statement_that_is_there_already_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    let body = journal.read(Item::Snapshot(Build::FIRST)).unwrap();
    let entry = Entry::open(body, &channel(), &trusted(&[1])).unwrap();
    journal.append(&[entry]).unwrap();
    assert_eq!(journal.history().newest().unwrap().build.get(), 3);
}

#[test]
fn a_fork_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &channel(), &trusted(&[1, 2])).unwrap();
    let (one, other) = (
        snapshot(&journal, &key(1), "a"),
        snapshot(&journal, &key(1), "b"),
    );
    journal.append(&[one]).unwrap();
    let error = journal.append(&[other]).unwrap_err();
    assert!(
        matches!(error, JournalError::History(HistoryError::Fork { .. })),
        "{error}"
    );
    assert_eq!(
        std::fs::read_dir(dir.path().join("noble")).unwrap().count(),
        1
    );
    assert_eq!(journal.halted(), None);
}

#[test]
fn what_does_not_fit_halts_the_channel() {
    type Spoil = fn(&Path);
    let spoils: [(Spoil, &str); 4] = [
        (
            |dir| std::fs::remove_file(dir.join("00000000000000000002.snapshot")).unwrap(),
            "follows something that is missing",
        ),
        (
            |dir| std::fs::write(dir.join("notes.txt"), "").unwrap(),
            "no file of the journal",
        ),
        (
            |dir| {
                let from = dir.join("00000000000000000003.snapshot");
                std::fs::rename(from, dir.join("00000000000000000004.snapshot")).unwrap();
            },
            "it is build 3",
        ),
        (
            |dir| std::fs::write(dir.join("r0000000001.retraction"), "").unwrap(),
            "r0000000001.retraction is not accepted",
        ),
    ];
    for (spoil, reason) in spoils {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        spoil(&dir.path().join("noble"));
        let journal = Journal::open(dir.path(), &channel(), &trusted(&[1, 2])).unwrap();
        let halted = journal.halted().unwrap();
        assert!(halted.contains(reason), "{halted}");
        let entry = snapshot(&journal, &key(1), "z");
        assert!(matches!(
            journal.append(&[entry]),
            Err(JournalError::Halted { .. })
        ));
    }
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let stranger = Journal::open(dir.path(), &channel(), &trusted(&[2])).unwrap();
    assert!(stranger.halted().unwrap().contains("not trusted here"));
}

/// As when the disk was full: the channel goes on by itself once it is not, and a statement that was named counts.
#[test]
fn a_failed_write_halts_until_the_journal_was_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    let blocked = dir.path().join("noble/.new-00000000000000000004.snapshot");
    std::fs::create_dir(&blocked).unwrap();
    let entry = snapshot(&journal, &key(1), "d");
    let failed = journal.append(std::slice::from_ref(&entry)).unwrap_err();
    assert!(matches!(failed, JournalError::Io { .. }), "{failed}");
    assert!(journal.recover().is_err() && journal.halted().is_some());
    assert!(matches!(
        journal.append(std::slice::from_ref(&entry)),
        Err(JournalError::Halted { .. })
    ));
    std::fs::remove_dir(&blocked).unwrap();
    assert!(journal.recover().unwrap() && !journal.recover().unwrap());
    assert_eq!(journal.halted(), None);
    assert_eq!(journal.history().newest().unwrap().build.get(), 3);
    journal.append(&[entry]).unwrap();
    // What the journal or the log says stays.
    journal.halt("fork");
    assert!(!journal.recover().unwrap() && journal.halted().is_some());
}

#[test]
fn half_written_files_of_a_crash_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let half = dir.path().join("noble/.new-00000000000000000004.snapshot");
    std::fs::write(&half, "untrusted comm").unwrap();
    let journal = Journal::open(dir.path(), &channel(), &trusted(&[1])).unwrap();
    assert_eq!(journal.halted(), None);
    assert!(!half.exists());
    journal.append(&[snapshot(&journal, &key(1), "d")]).unwrap();
}
