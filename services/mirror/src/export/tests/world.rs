//! A store, an export folder and builds of few names, which tests change.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::{Mtime, Timestamp};
use tempfile::TempDir;

use super::super::trees::{Goal, Means};
use super::super::*;
use crate::http::Mounted;
use crate::serving::{ServedBuild, ServedChannel, Serving};

/// What a path of a tree is: content, mode and time, or a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    File(Vec<u8>, u32, i64),
    Symlink(Vec<u8>),
}

pub(super) type Things = BTreeMap<Vec<u8>, Thing>;

/// Numbers that are the same in every run (xorshift64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(super) struct World {
    home: TempDir,
    pub(super) store: Store,
    pub(super) pages: Pages,
    pub(super) site: Site,
    builds: u64,
}

pub(super) fn channel(name: &str) -> ChannelId {
    ChannelId::new(name).unwrap()
}

impl World {
    pub(super) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("store")).unwrap();
        let site = Site::named("mirror.test");
        Self {
            pages: Pages::new(store.clone(), 1 << 20),
            home,
            store,
            site,
            builds: 0,
        }
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.home.path().join("export")
    }

    pub(super) fn inodes(&self) -> Inodes {
        Inodes::new(self.store.clone(), self.dir().join(COPIES)).unwrap()
    }

    pub(super) fn means<'a>(
        &'a self,
        inodes: &'a Inodes,
        halted: &'a dyn Fn() -> bool,
    ) -> Means<'a> {
        Means {
            inodes,
            pages: &self.pages,
            site: &self.site,
            generation: 0,
            halted,
        }
    }

    pub(super) fn exports(&self) -> Exports {
        Exports(Arc::new(Inner {
            section: ExportSection {
                dir: self.dir(),
                settle: runtime::boot::Span(Duration::from_secs(10)),
                trees: 2,
            },
            inodes: self.inodes(),
            pages: self.pages.clone(),
            site: self.site.clone(),
            state: Mutex::default(),
            damaged: watch::Sender::new(0),
            collections: Arc::default(),
        }))
    }

    pub(super) fn trees(&self) -> Trees {
        Trees::open(&self.dir(), &mount()).unwrap()
    }

    /// A manifest of things whose content is in the store.
    pub(super) fn root(&self, things: &Things) -> Digest {
        let batch = self.store.batch();
        let mut builder = Builder::new(&batch);
        for (path, thing) in things {
            let entry = match thing {
                Thing::File(content, mode, mtime) => {
                    let digest = Digest::of(content);
                    batch.put(&digest, content).unwrap();
                    Entry::File(FileEntry {
                        size_bytes: content.len() as u64,
                        digest,
                        mode: if *mode == 0o755 {
                            Mode::Executable
                        } else {
                            Mode::Plain
                        },
                        mtime: Mtime::from_seconds(*mtime),
                    })
                }
                Thing::Symlink(target) => Entry::Symlink {
                    target: target.clone().into(),
                },
            };
            builder
                .push(&EntryPath::new(path).unwrap(), &entry)
                .unwrap();
        }
        let root = builder.finish().unwrap().root;
        batch.commit().unwrap();
        root
    }

    /// The next build of some channels, the first of which wins.
    pub(super) fn goal(&mut self, parts: &[(&str, &Things)]) -> Goal {
        self.builds += 1;
        let build = Build::new(self.builds).unwrap();
        let mut table = Serving::default();
        for (precedence, (name, things)) in parts.iter().enumerate() {
            let served = ServedBuild {
                selection: mirrorlog_core::view::Selection::ALL,
                root: self.root(things),
                created: Timestamp::from_ms(0),
                snapshot: bytes::Bytes::new(),
                urgent: false,
            };
            let row = ServedChannel {
                selection: mirrorlog_core::view::Selection::ALL,
                mount: mount(),
                layout: Layout::Debian,
                precedence: precedence as u32,
                live: Some(build),
                builds: BTreeMap::from([(build, served)]),
                retracted: Vec::new(),
                newest_known: None,
                head: None,
                head_expires: None,
                flip: None,
            };
            table.channels.insert(channel(name), Arc::new(row));
        }
        let scope = Mounted::at(&table, &mount()).live();
        Goal {
            table: Arc::new(table),
            mount: mount(),
            scope,
        }
    }

    /// What readers of the mount see, the trace apart.
    pub(super) fn shown(&self) -> Things {
        let mut things = Things::new();
        let top = self.dir().join(&mount().as_str()[1..]);
        let mut folders = vec![std::fs::canonicalize(top).unwrap()];
        let first = folders[0].clone();
        while let Some(folder) = folders.pop() {
            let mut empty = true;
            for item in std::fs::read_dir(&folder).unwrap() {
                empty = false;
                let path = item.unwrap().path();
                let name = path
                    .strip_prefix(&first)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec();
                let metadata = path.symlink_metadata().unwrap();
                if metadata.is_dir() {
                    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755, "{path:?}");
                    folders.push(path);
                } else if metadata.is_symlink() {
                    let target = std::fs::read_link(&path).unwrap();
                    things.insert(name, Thing::Symlink(target.as_os_str().as_bytes().to_vec()));
                } else if name != b"project/trace/mirror.test" {
                    let mode = metadata.permissions().mode() & 0o7777;
                    let content = std::fs::read(&path).unwrap();
                    things.insert(name, Thing::File(content, mode, metadata.mtime()));
                }
            }
            assert!(!empty, "{folder:?} is empty");
        }
        things
    }
}

pub(super) fn mount() -> Mount {
    Mount::new("/deep/ubuntu").unwrap()
}

/// Few names, so that files, folders and symlinks take each other's places all the time.
pub(super) fn random_things(dice: &mut Dice, top: &str) -> Things {
    let mut things = Things::new();
    for _ in 0..dice.below(24) {
        let depth = 1 + dice.below(3);
        let parts: Vec<&str> = (0..depth)
            .map(|_| ["a", "b", "c", "pool"][dice.below(4) as usize])
            .collect();
        let path = format!("{top}{}", parts.join("/")).into_bytes();
        let below = |inner: &[u8], outer: &[u8]| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.starts_with(b"/"))
        };
        if things
            .keys()
            .any(|other| below(other, &path) || below(&path, other))
        {
            continue;
        }
        let thing = match dice.below(5) {
            0 => Thing::Symlink(format!("to{}", dice.below(2)).into_bytes()),
            _ => Thing::File(
                format!("content {}", dice.below(4)).into_bytes(),
                [0o644, 0o755][dice.below(2) as usize],
                1_000_000 + i64::try_from(dice.below(2)).unwrap(),
            ),
        };
        things.insert(path, thing);
    }
    things
}

pub(super) const NEVER: &dyn Fn() -> bool = &|| false;
