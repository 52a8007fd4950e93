//! Walks a tree in byte order of full path, reading ahead in parallel, in bounded memory.
//!
//! Folders come at `path + "/"` in that order, before what is in them. What is found does not depend on who found
//! it: workers do shares of folders ahead, and their results are handed on in the order of the tree. At most
//! [`BEGUN_MAX`] shares are done or under way, of some thousand names each; and a million names are held for folders
//! that were found and not begun (some 40 MB), more only by the folder that each worker reads last. How large or deep
//! the tree is does not matter.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use mirrorlog_core::path::EntryPath;
use rustix::fs::Dir;

use super::folder::{Names, Piece, Rest, Share, Visit, rest};
use super::tree::{Kind, Stamp, Tree, look_at, means_changed};
use crate::publish::{Fault, PublishError, Rule};

/// Shares under way for each worker: one for it to do, others so that it need not wait for the next one.
const RUNNING_EACH: usize = 4;
/// Shares under way at most.
const RUNNING_MAX: usize = 16;
/// Shares that are under way, or done and not handed on, at most. A large folder that comes first finds room
/// though others after it were done.
const BEGUN_MAX: usize = 64;

/// A name in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) path: EntryPath,
    pub(crate) stamp: Stamp,
    pub(crate) kind: Kind,
}

impl Item {
    /// What it is ordered by: folders end in a slash.
    pub(crate) fn write_key(&self, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(self.path.as_bytes());
        match self.kind {
            Kind::Folder => key.push(b'/'),
            Kind::File(_) | Kind::Symlink(_) | Kind::Special(_) => {}
        }
    }
}

/// What a walk finds.
pub(crate) enum Step {
    Item(Item),
    /// A name that cannot be published; the walk goes on after it.
    Fault(Fault),
}

/// Walks everything below one folder; empty: the tree's top. The folder itself does not come. Ends early when
/// `take` breaks. Not for rayon's own threads: it waits for them.
///
/// # Errors
/// Faults of the disk: the first one in the order of the walk, after all that comes before it.
pub(crate) fn walk(
    tree: &Tree,
    folder: &[u8],
    take: &mut dyn FnMut(Vec<Step>) -> ControlFlow<()>,
) -> Result<(), PublishError> {
    walk_holding(tree, folder, &Arc::default(), take)
}

/// With a count of the names that are held for folders not begun.
fn walk_holding(
    tree: &Tree,
    folder: &[u8],
    held: &Arc<AtomicUsize>,
    take: &mut dyn FnMut(Vec<Step>) -> ControlFlow<()>,
) -> Result<(), PublishError> {
    let names = tree.folder(folder).and_then(|fd| Names::read(&fd));
    let names = names.map_err(|e| read_error(tree, folder, e))?;
    let running = AtomicUsize::new(0);
    let running_of = &running;
    let mut line = Line {
        parts: VecDeque::from([Part::Rest(rest(folder.to_vec(), names, held))]),
        begun: 0,
        running: &running,
        running_max: (RUNNING_EACH * rayon::current_num_threads()).min(RUNNING_MAX),
    };
    rayon::in_place_scope(|scope| {
        line.run(take, &|share| {
            let (result, found) = sync_channel(1);
            running_of.fetch_add(1, Ordering::Relaxed);
            scope.spawn(move |_| {
                let pieces = Visit::run(tree, held, share);
                running_of.fetch_sub(1, Ordering::Relaxed);
                // Nobody takes it only when the walk has ended already.
                result.send(pieces).ok();
            });
            found
        })
    })
}

/// What is still to come, in the order of the tree.
struct Line<'a> {
    parts: VecDeque<Part>,
    /// Shares that were begun and not handed on.
    begun: usize,
    /// Those of them that are not done.
    running: &'a AtomicUsize,
    running_max: usize,
}

enum Part {
    Steps(Vec<Step>),
    /// A share that was begun.
    Begun(Receiver<Vec<Piece>>),
    Rest(Rest),
    Later(Vec<u8>),
    Gone(Fault),
    Failed(PublishError),
}

impl From<Piece> for Part {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Steps(steps) => Self::Steps(steps),
            Piece::Rest(rest) => Self::Rest(rest),
            Piece::Later(path) => Self::Later(path),
            Piece::Gone(fault) => Self::Gone(fault),
            Piece::Failed(error) => Self::Failed(error),
        }
    }
}

impl Line<'_> {
    fn run(
        &mut self,
        take: &mut dyn FnMut(Vec<Step>) -> ControlFlow<()>,
        begin: &dyn Fn(Share) -> Receiver<Vec<Piece>>,
    ) -> Result<(), PublishError> {
        let mut last_gone = None;
        loop {
            self.begin_ahead(begin);
            let Some(part) = self.parts.pop_front() else {
                return Ok(());
            };
            let steps = match part {
                Part::Steps(steps) => steps,
                Part::Begun(found) => {
                    self.begun -= 1;
                    let pieces = found.recv().map_err(|e| PublishError::Worker(e.into()))?;
                    for piece in pieces.into_iter().rev() {
                        self.parts.push_front(piece.into());
                    }
                    continue;
                }
                // What comes first was begun; nothing is left of it.
                Part::Rest(_) | Part::Later(_) => continue,
                // Each share of the folder says so.
                Part::Gone(fault) if last_gone.as_ref() == Some(&fault.path) => continue,
                Part::Gone(fault) => {
                    last_gone = Some(fault.path.clone());
                    vec![Step::Fault(fault)]
                }
                Part::Failed(error) => return Err(error),
            };
            if take(steps).is_break() {
                return Ok(());
            }
        }
    }

    /// Begins shares, those that come first before others. What comes first of all is always begun.
    fn begin_ahead(&mut self, begin: &dyn Fn(Share) -> Receiver<Vec<Piece>>) {
        let mut at = 0;
        while at < self.parts.len() {
            let has_room =
                self.begun < BEGUN_MAX && self.running.load(Ordering::Relaxed) < self.running_max;
            if at > 0 && !has_room {
                return;
            }
            let share = match &mut self.parts[at] {
                Part::Rest(rest) if rest.is_empty() => {
                    self.parts.remove(at);
                    continue;
                }
                Part::Rest(rest) => rest.share(),
                // Its names may be many: they are read for one such folder at a time.
                Part::Later(path) if at == 0 => Share::List(std::mem::take(path)),
                Part::Later(_) => return,
                Part::Steps(_) | Part::Begun(_) | Part::Gone(_) | Part::Failed(_) => {
                    at += 1;
                    continue;
                }
            };
            let is_listed = matches!(share, Share::List(_));
            let found = Part::Begun(begin(share));
            self.begun += 1;
            if is_listed {
                self.parts[at] = found;
            } else {
                self.parts.insert(at, found);
            }
            at += 1;
        }
    }
}

/// Paths of the symlinks directly in a folder; none when there is no such folder.
pub(crate) fn links_in(tree: &Tree, folder: &[u8]) -> Result<Vec<Vec<u8>>, PublishError> {
    let list = || -> io::Result<Vec<Vec<u8>>> {
        let fd = tree.folder(folder)?;
        let mut links = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(look_at(&fd, name)?.1, Kind::Symlink(_)) {
                links.push([folder, b"/", name].concat());
            }
        }
        Ok(links)
    };
    match list() {
        Ok(links) => Ok(links),
        Err(error) => fault_or_error(tree, folder, error).map(|_fault| Vec::new()),
    }
}

/// Sorts an error at a path: the tree's fault, or an error of the disk.
pub(crate) fn fault_or_error(
    tree: &Tree,
    path: &[u8],
    error: io::Error,
) -> Result<Fault, PublishError> {
    if means_changed(&error) {
        return Ok(Fault::changed(path, error.to_string()));
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Ok(Fault::new(
            path,
            Rule::Unreadable,
            "something this user may read",
            "permission denied",
        ));
    }
    Err(read_error(tree, path, error))
}

fn read_error(tree: &Tree, path: &[u8], error: io::Error) -> PublishError {
    use std::os::unix::ffi::OsStrExt as _;
    let path = tree.path().join(std::ffi::OsStr::from_bytes(path));
    PublishError::io(&path, "read", error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::super::folder::{HELD_MAX, SHARE, SMALL_FOLDER};
    use super::*;
    use proptest::prelude::*;

    fn steps(tree: &Tree, held: usize) -> Vec<Step> {
        let mut all = Vec::new();
        let held = Arc::new(AtomicUsize::new(held));
        walk_holding(tree, b"", &held, &mut |steps| {
            all.extend(steps);
            ControlFlow::Continue(())
        })
        .unwrap();
        all
    }

    fn keys(steps: Vec<Step>) -> Vec<Vec<u8>> {
        let key = |step| match step {
            Step::Item(item) => {
                let mut key = Vec::new();
                Item::write_key(&item, &mut key);
                key
            }
            Step::Fault(fault) => panic!("{fault}"),
        };
        steps.into_iter().map(key).collect()
    }

    fn walked(root: &Path) -> Vec<Vec<u8>> {
        keys(steps(&Tree::open(root).unwrap(), 0))
    }

    fn file(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn walk_is_in_byte_order_and_complete(
            paths in proptest::collection::btree_set("[a.0-]{1,3}(/[a.0-]{1,2}){0,3}", 1..40)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut made = Vec::new();
            for path in paths {
                if path.split('/').any(|c| c == "." || c == "..") { continue; }
                let full = dir.path().join(&path);
                // A name that is a file already cannot be a folder too: such paths are left out.
                if std::fs::create_dir_all(full.parent().unwrap()).is_ok() && !full.exists() {
                    std::fs::write(&full, "x").unwrap();
                    made.push(path.into_bytes());
                }
            }
            let keys = walked(dir.path());
            prop_assert!(keys.is_sorted());
            let mut files: Vec<_> = keys.into_iter().filter(|k| !k.ends_with(b"/")).collect();
            files.sort();
            made.sort();
            prop_assert_eq!(files, made);
        }
    }

    /// Folders of every size beside and inside each other: shared out, gone through, read again.
    #[test]
    fn order_is_that_of_the_tree_however_it_is_shared_out() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..2 * SHARE + 3 {
            file(&dir.path().join(format!("b/large/{n}")));
            file(&dir.path().join(format!("b/folders/{n}/{n}")));
        }
        for n in 0..=SMALL_FOLDER {
            file(&dir.path().join(format!("a/x{n}/{n}")));
            file(&dir.path().join(format!("a/y/{n}/z")));
        }
        let deep = dir.path().join("c").join("d/".repeat(40));
        file(&deep.join("end"));
        file(&dir.path().join("b.c"));
        let keys_found = walked(dir.path());
        assert!(keys_found.is_sorted());
        let large = 2 * (2 * SHARE + 3) + 2 * (SMALL_FOLDER + 1) + 2;
        let files = keys_found.iter().filter(|key| !key.ends_with(b"/"));
        assert_eq!(files.count(), large);
        // Names that are not held are read again.
        let tree = Tree::open(dir.path()).unwrap();
        assert_eq!(keys(steps(&tree, HELD_MAX)), keys_found);
    }

    #[test]
    fn a_folder_that_went_is_one_fault_and_the_rest_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3 * SHARE {
            file(&dir.path().join(format!("a/{n}")));
        }
        file(&dir.path().join("b/x"));
        let tree = Tree::open(dir.path()).unwrap();
        let names = tree.folder(b"a").and_then(|fd| Names::read(&fd)).unwrap();
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        let held = Arc::default();
        let mut line = Line {
            parts: VecDeque::from([
                Part::Rest(rest(b"a".to_vec(), names, &held)),
                Part::Later(b"b".to_vec()),
            ]),
            begun: 0,
            running: &AtomicUsize::new(0),
            running_max: RUNNING_MAX,
        };
        let mut found = Vec::new();
        let mut take = |steps: Vec<Step>| {
            found.extend(steps);
            ControlFlow::Continue(())
        };
        line.run(&mut take, &|share| {
            let (result, found) = sync_channel(1);
            result.send(Visit::run(&tree, &held, share)).unwrap();
            found
        })
        .unwrap();
        let [Step::Fault(fault), Step::Item(item)] = &found[..] else {
            panic!("{} steps", found.len());
        };
        assert_eq!((fault.path.as_str(), fault.what), ("a", Rule::Changed));
        assert_eq!(item.path.as_bytes(), b"b/x");
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn reserved_names_are_faults() {
        let dir = tempfile::tempdir().unwrap();
        file(&dir.path().join("@/x"));
        let steps = steps(&Tree::open(dir.path()).unwrap(), 0);
        assert!(matches!(
            &steps[..],
            [Step::Fault(Fault {
                what: Rule::Path,
                ..
            })]
        ));
    }
}
