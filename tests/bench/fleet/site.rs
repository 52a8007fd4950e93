//! The tree as all mirrors serve it: each build's bytes, and which of them were asked for.

use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::body::Bytes;
use e2e::{Tree, noise, sha256};

/// Files by number: the same for the same number and build.
pub(crate) struct Content {
    files: usize,
    bytes: usize,
}

impl Content {
    pub(crate) fn new(files: usize, bytes: usize) -> Self {
        Self { files, bytes }
    }

    /// A Debian-like path: some files a folder, some hundred folders a letter.
    fn path(number: usize) -> String {
        let letter = char::from(b'a' + u8::try_from(number % 26).unwrap());
        let package = number / 26 / 6;
        format!("pool/main/{letter}/{letter}pkg{package}/{letter}pkg{package}_{number}_amd64.deb")
    }

    fn version(&self, number: usize, build: u64) -> Version {
        let length = self.bytes / 2 + number % self.bytes.max(1);
        let content = noise(number as u64 * 1000 + build, length);
        Version {
            build,
            tag: format!("\"{}\"", sha256(&content)),
            content: content.into(),
        }
    }
}

/// A file as it is from a build on.
#[derive(Clone)]
pub(crate) struct Version {
    build: u64,
    pub(crate) tag: String,
    pub(crate) content: Bytes,
}

/// What one mirror serves, and what it was asked.
struct Mirror {
    live: AtomicU64,
    /// Of the newest build's new files: those asked for under the pinned URL.
    seen: Vec<AtomicBool>,
}

/// All that is served.
pub(crate) struct Site {
    content: Content,
    numbers: HashMap<String, usize>,
    versions: RwLock<Vec<Vec<Version>>>,
    /// The newest build and its new files, each with its place among them.
    newest: RwLock<(u64, HashMap<usize, usize>)>,
    mirrors: Vec<Mirror>,
    asked: AtomicU64,
}

/// Most new files of a build that are looked after.
const CHANGED_MAX: usize = 4096;

impl Site {
    pub(crate) fn new(content: Content, mirrors: usize) -> Self {
        let numbers = (0..content.files).map(|number| (Content::path(number), number));
        let versions = (0..content.files).map(|number| vec![content.version(number, 1)]);
        let mirror = || Mirror {
            live: AtomicU64::new(0),
            seen: std::iter::repeat_with(AtomicBool::default)
                .take(CHANGED_MAX.min(content.files))
                .collect(),
        };
        Self {
            numbers: numbers.collect(),
            versions: RwLock::new(versions.collect()),
            newest: RwLock::default(),
            mirrors: std::iter::repeat_with(mirror).take(mirrors).collect(),
            asked: AtomicU64::new(0),
            content,
        }
    }

    /// Writes the tree of the first build.
    pub(crate) fn write_first(&self, tree: &Tree) {
        let versions = self.versions.read().unwrap();
        for (number, versions) in versions.iter().enumerate() {
            tree.write(&Content::path(number), &versions[0].content);
        }
    }

    /// Changes files that lie far apart, for the build to come. Returns the list for `--changed`.
    pub(crate) fn change(&self, tree: &Tree, build: u64, count: usize) -> String {
        let mut versions = self.versions.write().unwrap();
        let step = (versions.len() / count.max(1)).max(1);
        let first = usize::try_from(build).unwrap() % step;
        let (mut list, mut new) = (String::new(), HashMap::new());
        for number in (first..versions.len()).step_by(step).take(count) {
            let version = self.content.version(number, build);
            let path = Content::path(number);
            tree.write(&path, &version.content);
            versions[number].push(version);
            new.insert(number, new.len());
            list.push_str(&path);
            list.push('\n');
        }
        for seen in self.mirrors.iter().flat_map(|mirror| &mirror.seen) {
            seen.store(false, Ordering::Relaxed);
        }
        *self.newest.write().unwrap() = (build, new);
        list
    }

    /// A mirror flips.
    pub(crate) fn go_live(&self, mirror: usize, build: u64) {
        self.mirrors[mirror].live.fetch_max(build, Ordering::SeqCst);
    }

    pub(crate) fn live(&self, mirror: usize) -> Option<u64> {
        Some(self.mirrors.get(mirror)?.live.load(Ordering::SeqCst))
    }

    /// A file of a build that the mirror holds.
    pub(crate) fn pinned(&self, mirror: usize, build: u64, path: &str) -> Option<Version> {
        let number = *self.numbers.get(path)?;
        {
            let newest = self.newest.read().unwrap();
            if newest.0 == build
                && let Some(place) = newest.1.get(&number)
            {
                self.mirrors[mirror].seen[*place].store(true, Ordering::Relaxed);
            }
        }
        self.file(mirror, build, number)
    }

    /// A file of the live build.
    pub(crate) fn at_mount(&self, mirror: usize, build: u64, path: &str) -> Option<Version> {
        self.file(mirror, build, *self.numbers.get(path)?)
    }

    fn file(&self, mirror: usize, build: u64, number: usize) -> Option<Version> {
        self.live(mirror).filter(|live| build <= *live)?;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let versions = self.versions.read().unwrap();
        versions[number]
            .iter()
            .rev()
            .find(|version| version.build <= build)
            .cloned()
    }

    /// Files asked for so far, by any URL.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// How many (mirror, new file) were not asked for under the pinned URL of this build.
    pub(crate) fn unseen(&self, build: u64) -> usize {
        let newest = self.newest.read().unwrap();
        assert_eq!(newest.0, build);
        let unseen = |mirror: &Mirror| {
            let places = &mirror.seen[..newest.1.len()];
            places
                .iter()
                .filter(|seen| !seen.load(Ordering::Relaxed))
                .count()
        };
        self.mirrors.iter().map(unseen).sum()
    }
}
