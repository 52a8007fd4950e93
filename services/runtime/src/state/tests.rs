#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use super::*;

fn put(key: &str, value: &str) -> Write {
    Write::Put(key.into(), value.into())
}

#[test]
fn what_is_committed_is_there_after_reopening() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    {
        let (state, opened) = SledState::open(&dir).unwrap();
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
    let (state, opened) = SledState::open(&dir).unwrap();
    assert_eq!(opened, Opened::AsLeft);
    assert_eq!(state.get(b"target").unwrap(), None);
    let cursors = state.scan(b"cursor/").unwrap();
    let expected = [("cursor/bulk", "8"), ("cursor/priority", "9")];
    assert_eq!(
        cursors,
        expected.map(|(key, value)| (key.into(), value.into()))
    );
}

#[test]
fn changes_apply_in_order() {
    let tmp = tempfile::tempdir().unwrap();
    let (state, _) = SledState::open(&tmp.path().join("state")).unwrap();
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
    let (state, _) = SledState::open(&dir).unwrap();
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
        let (state, _) = SledState::open(&dir).unwrap();
        state.commit(&[put("key", "1")]).unwrap();
        drop(state);
        // A configuration of another version of sled's, with a valid checksum.
        let text = "segment_size: 512\nuse_compression: false\nversion: 0.99\n";
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend(crc32(text.as_bytes()).to_le_bytes());
        std::fs::write(dir.join("conf"), bytes).unwrap();
        let (state, opened) = SledState::open(&dir).unwrap();
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
        let (state, opened) = SledState::open(&dir).unwrap();
        assert_eq!(
            (state.get(b"key").unwrap(), opened),
            (Some(b"2".to_vec()), Opened::AsLeft)
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

const CHILD: &str = "MIRRORLOG_TEST_STATE";

/// The process that dies in the test below; does nothing otherwise.
#[test]
fn child_that_dies_in_the_middle() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let (state, _) = SledState::open(Path::new(&dir)).unwrap();
    for round in 0_u32.. {
        let value = round.to_be_bytes().to_vec();
        let pair = |key: &str| Write::Put(key.as_bytes().to_vec(), value.clone());
        state
            .commit(
                &(0..20)
                    .map(|n| pair(&format!("key/{n}")))
                    .collect::<Vec<_>>(),
            )
            .unwrap();
        // The parent reads acked rounds from here.
        std::fs::write(Path::new(&dir).with_extension("acked"), round.to_string()).unwrap();
    }
}

#[test]
fn invariant_a_killed_process_leaves_whole_commits() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let acked = dir.with_extension("acked");
    let mut least = 0;
    for round in 0..4_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "state::tests::child_that_dies_in_the_middle"])
            .env(CHILD, &dir);
        let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
        let wanted = 3 * round + 1;
        while std::fs::read_to_string(&acked)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
            .unwrap_or(0)
            < wanted
        {
            assert!(child.try_wait().unwrap().is_none(), "the child ended");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        least = least.max(
            std::fs::read_to_string(&acked)
                .unwrap()
                .parse()
                .unwrap_or(wanted),
        );
        std::fs::remove_file(&acked).unwrap();
        let (state, opened) = SledState::open(&dir).unwrap();
        assert_eq!(opened, Opened::AsLeft);
        let values = state.scan(b"key/").unwrap();
        assert_eq!(values.len(), 20);
        let first = u32::from_be_bytes(values[0].1.as_slice().try_into().unwrap());
        assert!(
            values
                .iter()
                .all(|(_, value)| *value == first.to_be_bytes()),
            "half a commit: {values:?}"
        );
        assert!(
            first >= least,
            "acked round {least} is gone, {first} is there"
        );
        // The next child starts over.
        least = 0;
        state
            .commit(
                &(0..20)
                    .map(|n| Write::Delete(format!("key/{n}").into_bytes()))
                    .collect::<Vec<_>>(),
            )
            .unwrap();
    }
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
