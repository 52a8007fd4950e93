#![allow(clippy::unwrap_used)]

mod admin;
mod hostile;

use std::path::Path;

use super::*;
use admin::{Fake, FakeAdmin};

fn request(bench: &Bench) -> PublishRequest {
    PublishRequest::new(ChannelId::new("c").unwrap(), bench.tree())
}

struct Bench {
    dir: tempfile::TempDir,
    top: PathBuf,
    admin: FakeAdmin,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().to_owned();
        Self::within(dir, top).await
    }

    /// Somewhere else; its socket, whose path has to be short, is in `dir`.
    async fn within(dir: tempfile::TempDir, top: PathBuf) -> Self {
        std::fs::create_dir(top.join("tree")).unwrap();
        let admin = FakeAdmin::start(&dir.path().join("admin.sock"));
        let bench = Self { dir, top, admin };
        bench.write("a", "one");
        bench.write("d/b", "two");
        bench
    }

    fn tree(&self) -> PathBuf {
        self.top.join("tree")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.tree().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn config(&self) -> PublishConfig {
        let at = |name: &str| self.top.join(name);
        PublishConfig {
            socket: self.dir.path().join("admin.sock"),
            store_dir: at("store"),
            state_dir: at("state"),
            immutable: Vec::new(),
            openpgp_keyring: None,
            signify_keys: Vec::new(),
        }
    }

    async fn publish(&self, request: PublishRequest) -> Result<Outcome, PublishError> {
        publish(&self.config(), request, &()).await
    }

    async fn changed(&self, lane: Lane, paths: &[&str]) -> Result<Outcome, PublishError> {
        let changed = Some(paths.iter().map(|p| p.as_bytes().to_vec()).collect());
        self.publish(PublishRequest {
            lane,
            changed,
            ..request(self)
        })
        .await
    }

    fn state<T>(&self, look: impl FnOnce(&mut Fake) -> T) -> T {
        self.admin.state(look)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_follow_each_other_and_the_same_tree_is_no_build() {
    let bench = Bench::new().await;
    let first = bench.publish(request(&bench)).await.unwrap();
    assert_eq!(
        (
            first.build,
            first.files,
            first.bytes,
            first.added,
            first.lane
        ),
        (1, 2, 6, 2, "bulk")
    );
    let again = bench.publish(request(&bench)).await.unwrap();
    assert!(again.unchanged);
    assert_eq!((again.build, again.root.clone()), (1, first.root.clone()));
    bench.write("c", "three");
    std::fs::remove_file(bench.tree().join("a")).unwrap();
    let second = bench.publish(request(&bench)).await.unwrap();
    assert_eq!(
        (second.build, second.added, second.changed, second.removed),
        (2, 1, 0, 1)
    );
    assert_eq!(bench.state(|s| s.builds[1].base), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_and_does_nothing() {
    let bench = Bench::new().await;
    let dry = bench
        .publish(PublishRequest {
            dry_run: true,
            ..request(&bench)
        })
        .await
        .unwrap();
    assert_eq!((dry.build, dry.added, dry.dry_run), (1, 2, true));
    assert_eq!(bench.state(|s| s.builds.len()), 0);
    let real = bench.publish(request(&bench)).await.unwrap();
    assert_eq!(real.root, dry.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_globs_are_linked_or_refused() {
    let bench = Bench::new().await;
    let config = PublishConfig {
        immutable: vec!["d/".to_owned()],
        ..bench.config()
    };
    publish(&config, request(&bench), &()).await.unwrap();
    let linked = std::fs::metadata(bench.tree().join("d/b")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&linked), 2);
    let config = PublishConfig {
        immutable: vec!["{".to_owned()],
        ..bench.config()
    };
    let error = publish(&config, request(&bench), &()).await.unwrap_err();
    assert_eq!(error.exit_code(), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_tree_is_refused() {
    let bench = Bench::new().await;
    std::fs::remove_dir_all(bench.tree()).unwrap();
    std::fs::create_dir(bench.tree()).unwrap();
    let error = bench.publish(request(&bench)).await.unwrap_err();
    assert_eq!(error.exit_code(), 65);
    std::fs::remove_dir_all(bench.tree()).unwrap();
    assert_eq!(
        bench
            .publish(request(&bench))
            .await
            .unwrap_err()
            .exit_code(),
        66
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_head_is_scanned_again_and_given_up_in_the_end() {
    let bench = Bench::new().await;
    bench.state(|s| s.refuse_commits = 2);
    assert_eq!(bench.publish(request(&bench)).await.unwrap().build, 1);
    bench.write("c", "three");
    bench.state(|s| s.refuse_commits = 3);
    let error = bench.publish(request(&bench)).await.unwrap_err();
    assert!(matches!(error, PublishError::HeadMoved { attempts: 3, .. }));
    assert_eq!(error.exit_code(), 75);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_not_made_twice() {
    let bench = Bench::new().await;
    bench.state(|s| s.lose_answers = 1);
    assert_eq!(bench.publish(request(&bench)).await.unwrap().build, 1);
    assert_eq!(bench.state(|s| s.builds.len()), 1);
    // The daemon died before it did anything.
    bench.write("c", "three");
    bench.state(|s| s.die_before = 2);
    assert_eq!(bench.publish(request(&bench)).await.unwrap().build, 2);
    assert_eq!(bench.state(|s| s.builds.len()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_daemon_is_said_and_unknown_channels_too() {
    let bench = Bench::new().await;
    bench.state(|s| s.unknown = true);
    assert_eq!(
        bench
            .publish(request(&bench))
            .await
            .unwrap_err()
            .exit_code(),
        66
    );
    let config = PublishConfig {
        socket: Path::new("/nonexistent/admin.sock").to_owned(),
        ..bench.config()
    };
    let error = publish(&config, request(&bench), &()).await.unwrap_err();
    assert_eq!(error.exit_code(), 69);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_paths_give_the_root_of_a_scan() {
    let bench = Bench::new().await;
    bench.write("gone/x/1", "1");
    bench.write("gone/x/2", "2");
    bench.write("file-then-folder", "1");
    bench.publish(request(&bench)).await.unwrap();
    bench.write("a", "changed");
    bench.write("new/deep/file", "new");
    std::fs::remove_dir_all(bench.tree().join("gone")).unwrap();
    std::fs::remove_file(bench.tree().join("file-then-folder")).unwrap();
    bench.write("file-then-folder/inside", "2");
    let paths = ["new/", "gone", "./a", "never/there", "file-then-folder"];
    let dry = bench
        .publish(PublishRequest {
            dry_run: true,
            ..request(&bench)
        })
        .await
        .unwrap();
    let outcome = bench.changed(Lane::Bulk, &paths).await.unwrap();
    assert_eq!((outcome.added, outcome.changed, outcome.removed), (2, 1, 3));
    assert_eq!(outcome.root, dry.root);
    assert!(bench.publish(request(&bench)).await.unwrap().unchanged);
    assert!(bench.changed(Lane::Bulk, &paths).await.unwrap().unchanged);
    std::os::unix::fs::symlink("d", bench.tree().join("link")).unwrap();
    bench.write("d/b", "not to be passed over");
    for outside in ["../a", "link/b"] {
        let error = bench.changed(Lane::Bulk, &[outside]).await.unwrap_err();
        assert_eq!(error.faults().unwrap().list()[0].what, Rule::Path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_changes_overtake_bulk_that_is_not_wanted_yet() {
    let bench = Bench::new().await;
    bench.publish(request(&bench)).await.unwrap();
    bench.state(|s| s.wanted = 1);
    bench.write("bulk", "large");
    bench.publish(request(&bench)).await.unwrap();
    bench.write("a", "fixed");
    let outcome = bench.changed(Lane::Priority, &["a"]).await.unwrap();
    assert_eq!(
        (outcome.build, outcome.also, outcome.lane),
        (3, Some(4), "priority")
    );
    assert_eq!(outcome.files, 2, "the urgent build lacks the bulk");
    let bases: Vec<u64> = bench.state(|s| s.builds.iter().map(|b| b.base).collect());
    assert_eq!(bases, [0, 1, 1, 3]);
    assert!(
        bench.publish(request(&bench)).await.unwrap().unchanged,
        "the head has all of it"
    );
    // With the head wanted there is nothing to overtake.
    bench.state(|s| s.wanted = 4);
    bench.write("a", "fixed again");
    let outcome = bench.changed(Lane::Priority, &["a"]).await.unwrap();
    assert_eq!(
        (outcome.build, outcome.also, outcome.lane),
        (5, None, "priority")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retracted_content_needs_a_word() {
    let bench = Bench::new().await;
    bench.publish(request(&bench)).await.unwrap();
    bench.write("a", "bad");
    bench.publish(request(&bench)).await.unwrap();
    bench.state(|s| s.builds[1].retracted = true);
    let error = bench.publish(request(&bench)).await.unwrap_err();
    assert_eq!(error.faults().unwrap().list()[0].what, Rule::Retracted);
    bench.write("c", "more");
    let error = bench.publish(request(&bench)).await.unwrap_err();
    let fault = &error.faults().unwrap().list()[0];
    assert_eq!((fault.path.as_str(), fault.what), ("a", Rule::Retracted));
    bench.write("a", "good");
    assert_eq!(bench.publish(request(&bench)).await.unwrap().build, 3);
    bench.write("a", "bad");
    let allowed = PublishRequest {
        allow_retracted: true,
        ..request(&bench)
    };
    assert_eq!(bench.publish(allowed).await.unwrap().build, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_of_a_mount_agree_on_shared_paths() {
    let bench = Bench::new().await;
    let sibling = bench.publish(request(&bench)).await.unwrap();
    bench.state(|s| {
        s.builds.clear();
        s.sibling = Some(sibling.root.parse().unwrap());
    });
    assert_eq!(
        bench.publish(request(&bench)).await.unwrap().build,
        1,
        "equal content is fine"
    );
    bench.write("a", "other");
    let error = bench.publish(request(&bench)).await.unwrap_err();
    let fault = &error.faults().unwrap().list()[0];
    assert_eq!((fault.path.as_str(), fault.what), ("a", Rule::Shared));
    // What is broken in the whole tree is no matter of channels of their own.
    bench.state(|s| s.wanted = 1);
    bench.write("c", "bulk");
    assert_eq!(bench.changed(Lane::Bulk, &["c"]).await.unwrap().build, 2);
    let error = bench.changed(Lane::Priority, &["a"]).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { .. }), "{error}");
    // Nor may one have a file where the other one has a folder.
    bench.write("a", "one");
    std::fs::remove_dir_all(bench.tree().join("d")).unwrap();
    bench.write("d", "file");
    std::fs::remove_file(bench.tree().join("a")).unwrap();
    bench.write("a/below", "file");
    let error = bench.publish(request(&bench)).await.unwrap_err();
    let faults = error.faults().unwrap().list();
    let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["a/below", "d"]);
    assert!(faults.iter().all(|fault| fault.what == Rule::Shared));
}
