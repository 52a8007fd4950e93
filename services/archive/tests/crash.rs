//! The daemon is killed at any moment: what was answered for is there, nothing has a second root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use mirrorlog_core::id::{Digest, Lane};
use runtime::log::supervise::NatsServer;
use support::{PATIENCE, Site, channel, connect, request};
use tokio::process::{Child, Command};
use tonic::Code;
use wire::Signed;
use wire::v1::SnapshotsRequest;

/// Names the configuration in the process that is to be killed.
const CONFIG: &str = "MIRRORLOG_CRASH_TEST_CONFIG";
const KILLS: u64 = 25;

/// Started by the test below as a process of its own; as a test it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_to_be_killed() {
    if let Some(file) = std::env::var_os(CONFIG) {
        let config = archive::Config::load(file.as_ref()).unwrap();
        archive::serve(config, runtime::boot::shutdown())
            .await
            .unwrap();
    }
}

fn start(site: &Site) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["the_daemon_to_be_killed", "--exact", "--nocapture"])
        .env(CONFIG, site.config())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_no_build_is_lost_and_none_gets_a_second_root() {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path(), None).await.unwrap();
    let site = Site::new(&server.url);
    let mut answered: BTreeMap<u64, Digest> = BTreeMap::new();
    let mut number = 0_u64;
    for kill in 0.. {
        let mut daemon = start(&site);
        let (mut admin, mut journal) = connect(&site.state().join("admin.sock"), &site.grpc).await;
        let of_channel = || SnapshotsRequest {
            channel: channel().to_string(),
            from: 0,
            limit: 0,
        };
        let mut stream = journal.snapshots(of_channel()).await.unwrap().into_inner();
        let mut newest = 0;
        let mut journaled = BTreeMap::new();
        while let Some(signed) = stream.message().await.unwrap() {
            let snapshot = Signed::from_proto(signed)
                .unwrap()
                .open_snapshot(&site.keys())
                .unwrap();
            newest = snapshot.build.get();
            journaled.insert(newest, snapshot.root);
        }
        for (build, root) in &answered {
            assert_eq!(
                journaled.get(build),
                Some(root),
                "build {build} after kill {kill}"
            );
        }
        // Enough to mean something, however long each start takes here.
        if kill >= KILLS && answered.len() > 10 {
            site.until_on_log(Lane::Bulk, newest).await;
            eprintln!("{} builds through {kill} kills", answered.len());
            return;
        }
        assert!(kill < 4 * KILLS, "too few builds: {}", answered.len());
        // Another moment each time, from before the first commit to the middle of the thirtieth or so.
        let moment = tokio::time::sleep(Duration::from_millis(kill * 37 % 400));
        tokio::pin!(moment);
        loop {
            number += 1;
            let tree = site.manifest(&[("a", &number.to_string())]);
            let commit = admin.commit(request(newest, &[(tree, newest, Lane::Bulk)]));
            tokio::select! {
                () = &mut moment => break,
                reply = commit => match reply {
                    Ok(reply) => {
                        newest = reply.into_inner().builds[0];
                        assert!(answered.insert(newest, tree.root).is_none(), "build {newest} twice");
                    }
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status}");
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                },
            }
        }
        daemon.kill().await.unwrap();
        tokio::time::timeout(PATIENCE, daemon.wait())
            .await
            .unwrap()
            .unwrap();
    }
}
