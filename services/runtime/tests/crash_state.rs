//! A process that is killed while it commits state. Alone in this binary: a process that another test
//! starts would share our locks between its fork and its exec.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use runtime::state::{Control as _, Opened, SledState, Write};

fn open(dir: &Path) -> (SledState, Opened) {
    SledState::open(dir).unwrap()
}

const CHILD: &str = "MIRRORLOG_TEST_STATE";

/// The process that dies in the test below; does nothing otherwise.
#[test]
fn child_that_dies_in_the_middle() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let (state, _) = open(Path::new(&dir));
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
            .args(["--exact", "child_that_dies_in_the_middle"])
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
        let (state, opened) = open(&dir);
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
