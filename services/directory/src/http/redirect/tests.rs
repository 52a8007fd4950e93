#![allow(clippy::unwrap_used)]

use fetcher::client::Source;
use fetcher::manifests::Manifests;
use mirrorlog_core::directory::Input;
use mirrorlog_core::id::{Digest, Lane, MirrorId, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode};
use mirrorlog_core::statement::{Snapshot, Verdict, VerdictState};
use mirrorlog_core::time::Mtime;
use runtime::store::Store;

use super::super::sample::{DAY, MINUTE, Sample, build};
use super::super::{Intake, Library, Lists, Memo, Mutex, Offers, RandomState, Traces};
use super::*;
use crate::config::{FeedbackSection, MetalinkSection};
use crate::gauges::Gauges;
use crate::trees::Trees;

/// One mirror of several channels on one mount.
struct World {
    sample: Sample,
    pages: MemoryPages,
    dir: tempfile::TempDir,
    layout: Layout,
}

impl World {
    fn new() -> Self {
        let mut sample = Sample::new(&[("nz1", "nz", "http://nz1.example", "")]);
        sample.answers("nz1", 20.0, 0);
        Self {
            sample,
            pages: MemoryPages::new(),
            dir: tempfile::tempdir().unwrap(),
            layout: Layout::Debian,
        }
    }

    /// A build with these files, complete on the mirror.
    fn publish(&mut self, channel: &str, number: u64, paths: &[&str]) {
        let mut builder = Builder::new(&self.pages);
        for path in paths {
            let file = FileEntry {
                size_bytes: 7,
                digest: Digest::of(path.as_bytes()),
                mode: Mode::Plain,
                mtime: Mtime::from_seconds(0),
            };
            let path = EntryPath::new(path.as_bytes()).unwrap();
            builder.push(&path, &Entry::File(file)).unwrap();
        }
        let root = builder.finish().unwrap().root;
        let (id, created) = (ChannelId::new(channel).unwrap(), self.sample.now);
        let snapshot = Snapshot {
            channel: id.clone(),
            build: build(number),
            base: None,
            root,
            previous: None,
            created,
            entries: paths.len() as u64,
            bytes: 7,
            lane: Lane::Bulk,
            mount: Mount::new("/ubuntu").unwrap(),
            layout: self.layout,
            precedence: 0,
            notices: Vec::new(),
        };
        let verdict = Verdict {
            mirror: MirrorId::new("nz1").unwrap(),
            pool: PoolId::new("nz").unwrap(),
            channel: id,
            build: build(number),
            root,
            view: mirrorlog_core::view::View::All,
            state: VerdictState::Complete,
            issued: created,
            lease_revision: 1,
            audited_files: 0,
            new_files: 0,
        };
        for input in [Input::Snapshot(snapshot), Input::Verdict(verdict)] {
            self.sample.fold.step(input, created);
        }
        self.sample.wanted(channel, "nz", number);
    }

    /// From now on the channel counts, whatever the clock says.
    fn head(&mut self, channel: &str) {
        self.sample.head(channel, 100 * 366 * DAY);
    }

    fn face(&self, url: Option<&str>) -> Face {
        let store = Store::open(self.dir.path()).unwrap();
        let incoming = store.batch();
        for digest in self.pages.digests() {
            let bytes = self.pages.bytes(&digest).unwrap();
            incoming.put(&digest, &bytes).unwrap();
        }
        incoming.commit().unwrap();
        let mut site = self.sample.site();
        let archive = Source::new("127.0.0.1:1").unwrap();
        site.trees = Trees::new(Manifests::new(store, 1 << 20, archive));
        site.url = url.map(str::to_owned);
        let (intake, _) = Intake::new(FeedbackSection::default());
        Face {
            site: Arc::new(site),
            gauges: Gauges::default(),
            offers: Offers::new(),
            lists: Lists::new(),
            memo: Memo::new(),
            library: Library::new(MetalinkSection::default()).unwrap(),
            intake,
            traces: Traces::new(self.dir.path()),
            visits: Mutex::default(),
            secret: RandomState::new(),
        }
    }
}

async fn get(face: &Face, path: &str) -> Result<HeaderMap, String> {
    let (uri, headers) = (path.parse().unwrap(), HeaderMap::new());
    let answer = respond(face, None, &Method::GET, &uri, &headers).await;
    let answer = answer.map(|answer| answer.headers().clone());
    answer.map_err(|refusal| format!("{} {}", refusal.status().as_u16(), refusal.line()))
}

#[tokio::test]
async fn what_a_silent_channel_may_have_is_not_said_to_be_nowhere() {
    let mut world = World::new();
    world.publish("noble", 1, &["pool/a.deb"]);
    world.head("noble");
    let all = world.face(None);
    let missed = get(&all, "/ubuntu/pool/b.deb").await.unwrap_err();
    assert!(missed.starts_with("404 unknown-path"), "{missed}");

    world.publish("noble-security", 1, &["pool/b.deb"]);
    let long_ago = -world.sample.now.as_ms() + MINUTE;
    world.sample.head("noble-security", long_ago);
    let face = world.face(None);
    let missed = get(&face, "/ubuntu/pool/b.deb").await.unwrap_err();
    let expected = "503 no-mirror: no mirror is offered for noble-security now";
    assert!(missed.starts_with(expected), "{missed}");
    let found = get(&face, "/ubuntu/pool/a.deb").await.unwrap();
    assert_eq!(found[LOCATION], "http://nz1.example/@/noble/1/pool/a.deb");
    let long = format!("/ubuntu/{}", "x/".repeat(PATH_MAX_BYTES));
    let missed = get(&face, &long).await.unwrap_err();
    assert!(missed.starts_with("404 unknown-path"), "{missed}");
}

#[tokio::test]
async fn the_metalink_is_where_the_operator_says() {
    let mut world = World::new();
    world.publish("noble", 1, &["pool/a.deb"]);
    world.head("noble");
    for (url, top) in [
        (None, ""),
        (Some("https://m.example/x"), "https://m.example/x"),
    ] {
        let found = get(&world.face(url), "/ubuntu/pool/a.deb").await.unwrap();
        let link = found[LINK].to_str().unwrap();
        let expected = format!("<{top}/metalink?channel=noble&build=1&path=pool/a.deb>; ");
        assert!(link.starts_with(&expected), "{link}");
    }
}

#[tokio::test]
async fn a_visit_stays_on_its_build_while_that_is_offered() {
    let mut world = World::new();
    let release = "/ubuntu/dists/noble/Release";
    world.publish("noble", 1, &["dists/noble/Release"]);
    world.head("noble");
    let first = world.face(None);
    assert_eq!(
        get(&first, release).await.unwrap()[MIRRORLOG_BUILD],
        "noble=1"
    );
    world.publish("noble", 2, &["dists/noble/Packages", "dists/noble/Release"]);
    let mut face = world.face(None);
    face.secret = first.secret.clone();
    face.visits = first.visits;
    let missed = get(&face, "/ubuntu/dists/noble/Packages")
        .await
        .unwrap_err();
    assert!(missed.starts_with("404 "), "still on build 1: {missed}");
    let found = get(&face, release).await.unwrap();
    assert_eq!(
        found[MIRRORLOG_BUILD], "noble=2",
        "asked again: a new visit"
    );
    let found = get(&face, "/ubuntu/dists/noble/Packages").await.unwrap();
    assert_eq!(found[MIRRORLOG_BUILD], "noble=2");
}

#[tokio::test]
async fn a_visit_to_a_plain_tree_is_over_when_its_build_is_too_old() {
    let mut world = World::new();
    world.layout = Layout::Plain;
    world.publish("files", 1, &["a.txt"]);
    world.head("files");
    let first = world.face(None);
    let url = |name: &str| format!("/ubuntu/{name}");
    let found = get(&first, &url("a.txt")).await.unwrap();
    assert_eq!(found[MIRRORLOG_BUILD], "files=1");
    world.publish("files", 2, &["a.txt", "b.txt"]);
    let mut face = world.face(None);
    face.secret = first.secret.clone();
    face.visits = first.visits;
    let found = get(&face, &url("b.txt")).await.unwrap();
    assert_eq!(found[MIRRORLOG_BUILD], "files=2");
    let missed = get(&face, &url("c.txt")).await.unwrap_err();
    assert!(missed.starts_with("404 "), "{missed}");
}
