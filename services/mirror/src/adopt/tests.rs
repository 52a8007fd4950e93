//! Taking trees, without an archive: the manifests are in the store.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Mtime;
use tempfile::TempDir;

use super::*;

use crate::hostile::around::{Canary, RACES, Swapper};

struct World {
    _home: TempDir,
    top: PathBuf,
    store: Store,
}

const THEN: u64 = 1_700_000_000;

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let top = home.path().to_owned();
        Self::within(home, top)
    }

    /// Somewhere else.
    fn within(home: TempDir, top: PathBuf) -> Self {
        let store = Store::open(&top.join("store")).unwrap();
        std::fs::create_dir(top.join("tree")).unwrap();
        Self {
            _home: home,
            top,
            store,
        }
    }

    fn tree(&self) -> PathBuf {
        self.top.join("tree")
    }

    /// A file of the tree, of the date that builds have.
    fn write(&self, path: &str, content: &str) {
        let file = self.tree().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, content).unwrap();
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(THEN);
        let open = std::fs::File::options().write(true).open(file).unwrap();
        open.set_modified(date).unwrap();
    }

    fn take(&self, build: &[(&str, &str)]) -> Take {
        let batch = self.store.batch();
        let mut builder = Builder::new(&batch);
        for (path, content) in build {
            let entry = Entry::File(FileEntry {
                size_bytes: content.len() as u64,
                digest: Digest::of(content.as_bytes()),
                mode: Mode::Plain,
                mtime: Mtime::from_seconds(i64::try_from(THEN).unwrap()),
            });
            builder
                .push(&EntryPath::new(path.as_bytes()).unwrap(), &entry)
                .unwrap();
        }
        let root = builder.finish().unwrap().root;
        batch.commit().unwrap();
        let wanted = Wanted {
            selection: mirrorlog_core::view::Selection::ALL,
            channel: ChannelId::new("c").unwrap(),
            build: Build::FIRST,
            root,
        };
        let pin = self.store.pin().unwrap();
        Take::new(self.store.clone(), pin, vec![wanted], &self.tree())
    }

    fn has(&self, content: &str) -> bool {
        let digest = Digest::of(content.as_bytes());
        self.store.check(&digest).unwrap() == Some(true)
    }
}

fn amount(files: u64, bytes: u64) -> Amount {
    Amount { files, bytes }
}

#[test]
fn a_tree_gives_what_it_has_and_is_not_changed() {
    let world = World::new();
    let build = [
        ("a/same", "1"),
        ("b/changed", "22-new"),
        ("c/moved", "333"),
        ("d/new", "4444"),
        ("e/twice", "1"),
    ];
    world.write("a/same", "1");
    world.write("b/changed", "22-old");
    // rsync would look at it too.
    let changed = std::fs::File::options()
        .write(true)
        .open(world.tree().join("b/changed"));
    changed.unwrap().set_modified(SystemTime::now()).unwrap();
    world.write("old/name", "333");
    world.write("old/unused", "55555");
    let before = std::fs::metadata(world.tree().join("a/same")).unwrap();
    let take = world.take(&build);

    let dry = take.run(true, &Taking::default()).unwrap();
    assert_eq!(dry.missing, amount(2, 10));
    assert_eq!(dry.have, amount(2, 4));
    assert!(!world.has("1"));
    // Of the right size and date is enough for that: only the two others were hashed.
    assert_eq!(dry.hashed_bytes, 6 + 3 + 6);

    let taken = take.run(false, &Taking::default()).unwrap();
    assert_eq!(
        (taken.missing, taken.have, taken.taken),
        (amount(2, 10), amount(2, 4), amount(2, 4))
    );
    assert!(world.has("1") && world.has("333"));
    assert!(!world.has("22-new") && !world.has("22-old") && !world.has("55555"));
    let after = std::fs::metadata(world.tree().join("a/same")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());

    // What cannot be read is passed over.
    assert_eq!((taken.unread, &taken.first_unread), (0, &None));

    // Again: what is here is not read.
    let again = take.run(false, &Taking::default()).unwrap();
    assert_eq!((again.have, again.taken), (amount(2, 4), amount(0, 0)));
    assert_eq!(again.missing, amount(2, 10));
}

#[test]
fn a_name_is_given_and_taken_back_in_one_step() {
    let world = World::new();
    world.write("old", "1");
    let export = world.top.join("export");
    let text = format!(
        "[mirror]\nid = \"m\"\npool = \"nz\"\nstate = \"s\"\nstore = \"store\"\nkey = \"k\"\n[archive]\nfetch = \"a:1\"\n\
         keys = []\n[nats]\nurl = \"nats://a\"\n[http]\nlisten = \"127.0.0.1:1\"\n[grpc]\nlisten = \"127.0.0.1:2\"\n\
         [export]\ndir = {:?}\n",
        export
    );
    let file = world.top.join("mirror.toml");
    std::fs::write(&file, text).unwrap();
    let config = Config::load(&file).unwrap();
    let mount = Mount::new("/ubuntu").unwrap();
    let name = world.tree();
    // There is nothing to lead to yet.
    let early = switch(&config, &mount, &name).unwrap_err();
    assert!(matches!(early, AdoptError::NotYet(_)), "{early}");
    assert!(name.join("old").exists());
    std::fs::create_dir_all(export.join("ubuntu")).unwrap();
    std::fs::write(export.join("ubuntu/new"), "2").unwrap();
    assert!(undo(&config, &mount, &name).is_err());

    let switched = switch(&config, &mount, &name).unwrap();
    assert!(switched.changed && name.join("new").exists() && !name.join("old").exists());
    assert!(switched.tree.join("old").exists());
    // With a slash at its end too, as shells complete it.
    let slashed = PathBuf::from(format!("{}/", name.display()));
    assert!(!switch(&config, &mount, &slashed).unwrap().changed);

    let undone = undo(&config, &mount, &slashed).unwrap();
    assert_eq!(undone.tree, name);
    assert!(name.join("old").exists() && !switched.tree.exists());
    assert!(undo(&config, &mount, &name).is_err());
    // A tree in the export folder would lead to itself.
    assert!(switch(&config, &mount, &export.join("ubuntu")).is_err());
}

#[test]
fn what_lies_behind_symlinks_that_lead_out_is_not_taken() {
    let canary = Canary::new();
    let world = World::within(tempfile::tempdir().unwrap(), canary.inside());
    let link = |to: &Path, name: &str| {
        std::os::unix::fs::symlink(to, world.tree().join(name)).unwrap();
    };
    world.write("real/x", "inside");
    link(Path::new("real"), "same");
    link(&canary.around().join("pool"), "pool");
    link(Path::new("../../dists"), "dists");
    link(&canary.around().join("secret"), "secret");
    let secret = std::str::from_utf8(Canary::secret()).unwrap();
    let build = [("dists/a", secret), ("same/x", "inside")];
    let taken = world.take(&build).run(false, &Taking::default()).unwrap();
    assert_eq!(taken.taken, amount(1, 6));
    assert_eq!(taken.missing.files, 1);
    // The operator learns of it.
    assert_eq!(taken.first_unread, Some(world.tree().join("dists/a")));
    for path in ["pool/secret", "secret", "dists/secret", "pool/a"] {
        world
            .take(&[(path, secret)])
            .run(false, &Taking::default())
            .unwrap();
    }
    assert!(world.has("inside") && !world.has(secret));
    canary.check();
}

/// The content that the builds want is outside only: whoever follows a symlink for a moment takes it.
#[test]
fn races_bring_nothing_from_outside_into_the_store() {
    let canary = Canary::new();
    let world = World::within(tempfile::tempdir().unwrap(), canary.inside());
    let secret = std::str::from_utf8(Canary::secret()).unwrap();
    let other = "x".repeat(secret.len());
    for path in ["pool/a", "dists/secret", "deep/er/secret", "secret"] {
        world.write(path, &other);
    }
    let take = world.take(&[
        ("deep/er/secret", secret),
        ("dists/secret", secret),
        ("pool/a", secret),
        ("secret", secret),
    ]);
    let swapped = [
        ("pool", "pool"),
        ("dists", "dists"),
        ("deep/er", "pool"),
        ("secret", "secret"),
    ];
    let swapped = swapped.map(|(name, out)| (world.tree().join(name), canary.around().join(out)));
    let swapper = Swapper::start(&canary.aside(), &swapped);
    let mut unread = 0;
    for _ in 0..RACES {
        unread += take.run(false, &Taking::default()).unwrap().unread;
    }
    let swaps = swapper.end();
    assert!(
        swaps > u64::from(RACES) / 10 && unread > 100,
        "{swaps} {unread}"
    );
    assert!(!world.has(secret));
    canary.check();
}
