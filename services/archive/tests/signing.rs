//! A program may sign for the archive; when it does not, nothing is published and somebody is told why.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use mirrorlog_core::id::Lane;
use runtime::log::supervise::NatsServer;
use support::Site;
use tonic::Code;

/// The example, which cargo builds with the tests.
fn sign_with() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().unwrap().parent().unwrap();
    target.join("examples/sign_with")
}

/// A device that holds the key: what the file `card` names is what it does.
struct Device(PathBuf);

impl Device {
    /// Takes the key out of the archive's folder and gives the archive a program instead.
    fn install(site: &Site) -> Self {
        let config = site.config();
        let dir = config.parent().unwrap().to_owned();
        std::fs::create_dir(dir.join("device")).unwrap();
        std::fs::rename(dir.join("archive.sec"), dir.join("device/ours.sec")).unwrap();
        runtime::key::generate(&dir.join("device/other"), "test").unwrap();
        let script = "card=$(cat \"$2/card\")\n\
             if test -f \"$2/$card.sec\"; then exec \"$1\" \"$2/$card.sec\"; fi\n\
             echo 'no card in the reader' >&2; exit 3\n";
        std::fs::write(dir.join("device/sign.sh"), script).unwrap();
        let text = std::fs::read_to_string(&config).unwrap();
        let at = |path: &Path| path.display().to_string();
        let program = format!(
            "sign_command = ['sh', '{}', '{}', '{}']\npublic_key = 'archive.pub'",
            at(&dir.join("device/sign.sh")),
            at(&sign_with()),
            at(&dir.join("device")),
        );
        let text = text.replace("key = 'archive.sec'", &program);
        std::fs::write(&config, text).unwrap();
        let device = Self(dir.join("device"));
        device.insert("ours");
        device
    }

    fn insert(&self, card: &str) {
        std::fs::write(self.0.join("card"), card).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_unless_the_program_signs() {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path(), None).await.unwrap();
    let site = Site::new(&server.url);
    let device = Device::install(&site);
    let mut archive = site.start().await;
    let first = site.manifest(&[("a", "1")]);
    assert_eq!(archive.publish_patiently(first).await, 1);
    site.until_on_log(Lane::Bulk, 1).await;

    let second = site.manifest(&[("a", "2")]);
    device.insert("none");
    let refused = archive.publish(second).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    for part in [
        "nothing was published",
        "exit status: 3",
        "no card in the reader",
    ] {
        assert!(refused.message().contains(part), "{refused:?}");
    }
    device.insert("other");
    let refused = archive.publish(second).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    assert!(
        refused
            .message()
            .contains("does not hold under archive.public_key"),
        "{refused:?}"
    );
    assert_eq!(archive.describe().await.newest, 1);
    assert_eq!(archive.snapshots(&site).await.len(), 1);

    device.insert("ours");
    let build = archive.publish_patiently(second).await;
    let head = site.until_on_log(Lane::Bulk, build).await;
    assert_eq!(head.root, second.root);
    archive.stop().await;

    // A device that is away at the start: the archive serves what it has, and signs when it is back.
    device.insert("none");
    let mut archive = site.start().await;
    assert_eq!(archive.snapshots(&site).await.len(), 2);
    device.insert("ours");
    let third = site.manifest(&[("a", "3")]);
    let build = archive.publish_patiently(third).await;
    assert_eq!(
        site.until_on_log(Lane::Bulk, build).await.build.get(),
        build
    );
    archive.stop().await;
}
