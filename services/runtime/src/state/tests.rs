#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn open(dir: &Path) -> (SledState, Opened) {
    SledState::open(dir).unwrap()
}

fn put(key: &str, value: &str) -> Write {
    Write::Put(key.into(), value.into())
}

#[test]
fn what_is_committed_is_there_after_reopening() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    {
        let (state, opened) = open(&dir);
        assert_eq!(opened, Opened::AsLeft);
        state
            .commit(&[
                put("cursor/bulk", "7"),
                put("cursor/priority", "9"),
                put("target", "36"),
            ])
            .unwrap();
        state
            .commit(&[Write::Delete(b"target".to_vec()), put("cursor/bulk", "8")])
            .unwrap();
        state.commit(&[]).unwrap();
    }
    let (state, opened) = open(&dir);
    assert_eq!(opened, Opened::AsLeft);
    assert_eq!(state.get(b"target").unwrap(), None);
    let cursors = state.scan(b"cursor/").unwrap();
    let expected = [("cursor/bulk", "8"), ("cursor/priority", "9")];
    assert_eq!(
        cursors,
        expected.map(|(key, value)| (key.into(), value.into()))
    );
}

/// The disk failed while state was made for the first time: nothing of that is gone on with.
#[test]
fn what_was_not_made_to_the_end_is_made_anew() {
    use std::os::unix::fs::MetadataExt as _;
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    drop(open(&dir));
    let inode = || std::fs::metadata(dir.join("db")).unwrap().ino();
    let other = tmp.path().join("other");
    std::fs::hard_link(dir.join("db"), &other).unwrap();
    let before = inode();
    std::fs::remove_file(dir.join(MADE)).unwrap();
    let (state, opened) = open(&dir);
    assert_eq!(opened, Opened::AsLeft);
    assert_ne!(inode(), before);
    // Where something is kept, that counts.
    state.commit(&[put("key", "1")]).unwrap();
    drop(state);
    let before = inode();
    std::fs::remove_file(dir.join(MADE)).unwrap();
    let (state, opened) = open(&dir);
    assert_eq!(opened, Opened::AsLeft);
    assert_eq!(inode(), before);
    assert_eq!(state.get(b"key").unwrap(), Some(b"1".to_vec()));
}

/// As when the disk was full: what was not committed is not there, and the state goes on by itself.
#[test]
fn after_a_failed_commit_it_reads_the_disk_again() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let (state, _) = open(&dir);
    state.commit(&[put("key", "1")]).unwrap();
    state.failed.store(true, Ordering::Release);
    // sled cannot open what is not its own.
    let [conf, aside] = ["conf", "aside"].map(|name| dir.join(name));
    std::fs::rename(&conf, &aside).unwrap();
    std::fs::create_dir(&conf).unwrap();
    for _ in 0..2 {
        let error = state.commit(&[put("key", "2")]).unwrap_err();
        assert!(matches!(error, StateError::Failed { .. }), "{error:?}");
        assert!(state.get(b"key").is_err() && state.scan(b"").is_err());
    }
    std::fs::remove_dir(&conf).unwrap();
    std::fs::rename(&aside, &conf).unwrap();
    assert_eq!(state.get(b"key").unwrap(), Some(b"1".to_vec()));
    state.commit(&[put("key", "3")]).unwrap();
    assert!(matches!(
        SledState::open(&dir),
        Err(StateError::Busy { .. })
    ));
    drop(state);
    let (state, opened) = open(&dir);
    let found = (state.get(b"key").unwrap(), opened);
    assert_eq!(found, (Some(b"3".to_vec()), Opened::AsLeft));
}

#[test]
fn changes_apply_in_order() {
    let tmp = tempfile::tempdir().unwrap();
    let (state, _) = open(&tmp.path().join("state"));
    state
        .commit(&[
            put("key", "1"),
            Write::Delete(b"key".to_vec()),
            put("key", "2"),
        ])
        .unwrap();
    assert_eq!(state.get(b"key").unwrap(), Some(b"2".to_vec()));
}

#[test]
fn a_second_opener_is_told_and_breaks_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let (state, _) = open(&dir);
    state.commit(&[put("key", "1")]).unwrap();
    assert!(matches!(
        SledState::open(&dir),
        Err(StateError::Busy { .. })
    ));
    // Another program that knows only sled's own lock.
    std::fs::remove_file(tmp.path().join("state.lock")).unwrap();
    let error = SledState::open(&dir).unwrap_err();
    assert!(matches!(error, StateError::Busy { .. }), "{error:?}");
    assert_eq!(error.reaction(), Reaction::Retry);
    assert_eq!(state.get(b"key").unwrap(), Some(b"1".to_vec()));
}

#[test]
fn broken_state_is_moved_aside_and_made_anew() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    for number in 0..2_u8 {
        let (state, _) = open(&dir);
        state.commit(&[put("key", "1")]).unwrap();
        drop(state);
        // A configuration of another version of sled's, with a valid checksum.
        let text = "segment_size: 512\nuse_compression: false\nversion: 0.99\n";
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend(crc32(text.as_bytes()).to_le_bytes());
        std::fs::write(dir.join("conf"), bytes).unwrap();
        let (state, opened) = open(&dir);
        let Opened::Rebuilt(aside) = opened else {
            panic!("{number}: {opened:?}")
        };
        assert!(aside.join("db").exists());
        assert!(
            aside
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("state.broken-")
        );
        assert_eq!(state.get(b"key").unwrap(), None);
        state.commit(&[put("key", "2")]).unwrap();
        drop(state);
        let (state, opened) = open(&dir);
        assert_eq!(
            (state.get(b"key").unwrap(), opened),
            (Some(b"2".to_vec()), Opened::AsLeft)
        );
    }
}

type Spoil = fn(&mut Vec<u8>);

/// Whatever a disk makes of the file: it opens, shows nothing that was not there, and takes commits.
#[test]
fn rotten_state_never_keeps_a_service_from_starting() {
    let value = "value ".repeat(200);
    let rot: [Spoil; 6] = [
        |bytes| bytes.clear(),
        |bytes| bytes.iter_mut().for_each(|byte| *byte = 0),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x55),
        |bytes| bytes.iter_mut().take(4096).for_each(|byte| *byte = 0xff),
        |bytes| bytes.iter_mut().skip(600).for_each(|byte| *byte = 0x17),
    ];
    for (number, spoil) in rot.into_iter().enumerate() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("state");
        let (state, _) = open(&dir);
        for round in 0..30 {
            state
                .commit(&[put(&format!("key/{round}"), &value), put("round", "x")])
                .unwrap();
        }
        drop(state);
        let mut bytes = std::fs::read(dir.join("db")).unwrap();
        spoil(&mut bytes);
        std::fs::write(dir.join("db"), bytes).unwrap();
        let (state, opened) = open(&dir);
        let pairs = state.scan(b"key/").unwrap();
        assert!(
            pairs.iter().all(|(_, found)| *found == value.as_bytes()),
            "{number}"
        );
        // All of it gone is never taken for new; a part of it may be gone unseen.
        let wiped = number < 2;
        assert!(
            matches!(opened, Opened::Rebuilt(_)) || !wiped,
            "{number}: {opened:?}"
        );
        state.commit(&[put("after", "1")]).unwrap();
        drop(state);
        let (state, opened) = open(&dir);
        assert_eq!(opened, Opened::AsLeft);
        assert_eq!(
            state.get(b"after").unwrap(),
            Some(b"1".to_vec()),
            "{number}"
        );
    }
}

/// The system's faults are not the state's: nothing is moved.
#[test]
fn a_path_that_is_a_file_is_an_error() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    std::fs::write(&dir, "").unwrap();
    assert!(matches!(SledState::open(&dir), Err(StateError::Io { .. })));
    assert!(dir.is_file());
}

/// CRC-32 (IEEE 802.3), as sled signs its configuration.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| {
        if crc & 1 == 1 {
            (crc >> 1) ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}
