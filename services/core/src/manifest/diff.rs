//! Diffing: two walks side by side, past what is equal.

use std::cmp::Ordering;

use super::walk::{Node, ReadFault, Walk};
use super::{Entry, ManifestError, PageRead};
use crate::id::{Digest, Ordinal};
use crate::path::EntryPath;

/// One difference between two manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: EntryPath,
    /// Before.
    pub old: Option<Entry>,
    /// After, with its ordinal in the new manifest.
    pub new: Option<(Ordinal, Entry)>,
}

/// Differences between two manifests in byte order of path; equal subtrees are skipped unread.
///
/// `None` is a manifest without entries. Holds one page a level of each side.
/// After an error nothing more comes.
///
/// # Errors
/// [`ManifestError::Read`] when the source fails, [`ManifestError::Mismatch`] for a page that is
/// not what its parent says.
pub fn diff<'a, R: PageRead>(
    read: &'a R,
    old: Option<&Digest>,
    new: Option<&Digest>,
) -> impl Iterator<Item = Result<Difference, ManifestError<R::Error>>> + use<'a, R> {
    let roots = (old != new).then(|| (old.copied(), new.copied()));
    let mut diff = Diff {
        read,
        roots,
        old: None,
        new: None,
    };
    std::iter::from_fn(move || {
        let next = diff.next();
        if next.is_err() {
            (diff.old, diff.new) = (None, None);
        }
        next.map_err(ManifestError::from).transpose()
    })
}

struct Diff<'a, R> {
    read: &'a R,
    /// The roots while they are unread.
    roots: Option<(Option<Digest>, Option<Digest>)>,
    old: Option<Walk<'a, R>>,
    new: Option<Walk<'a, R>>,
}

/// What to do about the two places.
enum Step {
    PassBoth,
    OpenOld,
    OpenNew,
    OpenBoth,
    Tell(Ordering),
    Done,
}

impl<R: PageRead> Diff<'_, R> {
    fn next(&mut self) -> Result<Option<Difference>, ReadFault<R::Error>> {
        if let Some((old, new)) = self.roots.take() {
            self.old = old.map(|root| Walk::new(self.read, &root)).transpose()?;
            self.new = new.map(|root| Walk::new(self.read, &root)).transpose()?;
        }
        loop {
            match step(&node(&self.old), &node(&self.new)) {
                Step::Done => return Ok(None),
                Step::Tell(order) => return Ok(self.tell(order)),
                Step::PassBoth => {
                    pass(&mut self.old);
                    pass(&mut self.new);
                }
                Step::OpenOld => open(&mut self.old)?,
                Step::OpenNew => open(&mut self.new)?,
                Step::OpenBoth => {
                    open(&mut self.old)?;
                    open(&mut self.new)?;
                }
            }
        }
    }

    /// Takes the entry that comes first off its side, or off both when the path is the same.
    fn tell(&mut self, order: Ordering) -> Option<Difference> {
        let mut told = None;
        if order.is_le()
            && let Node::Entry(_, path, entry) = node(&self.old)
        {
            told = Some(Difference {
                path: path.clone(),
                old: Some(entry.clone()),
                new: None,
            });
        }
        if order.is_ge()
            && let Node::Entry(ordinal, path, entry) = node(&self.new)
        {
            let old = told.and_then(|difference| difference.old);
            let new = Some((ordinal, entry.clone()));
            told = Some(Difference {
                path: path.clone(),
                old,
                new,
            });
        }
        if order.is_le() {
            pass(&mut self.old);
        }
        if order.is_ge() {
            pass(&mut self.new);
        }
        told
    }
}

fn step(old: &Node<'_>, new: &Node<'_>) -> Step {
    match (old, new) {
        (Node::End, Node::End) => Step::Done,
        (Node::Page(a, _), Node::Page(b, _)) if a.digest == b.digest => Step::PassBoth,
        (Node::Page(_, a), Node::Page(_, b)) => match a.cmp(b) {
            Ordering::Greater => Step::OpenOld,
            Ordering::Less => Step::OpenNew,
            Ordering::Equal => Step::OpenBoth,
        },
        (Node::Page(..), Node::End | Node::Entry(..)) => Step::OpenOld,
        (Node::End | Node::Entry(..), Node::Page(..)) => Step::OpenNew,
        (Node::Entry(..), Node::End) => Step::Tell(Ordering::Less),
        (Node::End, Node::Entry(..)) => Step::Tell(Ordering::Greater),
        (Node::Entry(_, p, a), Node::Entry(_, q, b)) => match p.cmp(q) {
            Ordering::Equal if a == b => Step::PassBoth,
            order @ (Ordering::Less | Ordering::Equal | Ordering::Greater) => Step::Tell(order),
        },
    }
}

fn node<'w, R: PageRead>(walk: &'w Option<Walk<'_, R>>) -> Node<'w> {
    walk.as_ref().map_or(Node::End, Walk::node)
}

fn pass<R: PageRead>(walk: &mut Option<Walk<'_, R>>) {
    if let Some(walk) = walk {
        walk.pass();
    }
}

fn open<R: PageRead>(walk: &mut Option<Walk<'_, R>>) -> Result<(), ReadFault<R::Error>> {
    walk.as_mut().map_or(Ok(()), Walk::open)
}
