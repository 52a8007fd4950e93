//! A disk in memory: what its users see, what is safe, and the changes between the two.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::Errno;

use super::fault::{Fate, Kind, Plan};
use super::loss::{Loss, Pending};
use super::tree::{Body, Ino, Inode, Op, Tree};

/// A disk and its faults.
#[derive(Debug)]
pub(super) struct Volume {
    current: Tree,
    durable: Tree,
    pending: Vec<Pending>,
    next: Ino,
    plan: Plan,
    calls: u64,
    syncs: u64,
    dead: bool,
    /// What was done, for people; none when nobody asked.
    trace: Option<Vec<String>>,
}

impl Volume {
    /// A disk with all of `image` on it.
    pub(super) fn new(image: Tree, plan: Plan) -> Self {
        Self {
            next: image.last() + 1,
            current: image.clone(),
            durable: image,
            pending: Vec::new(),
            plan,
            calls: 0,
            syncs: 0,
            dead: false,
            trace: None,
        }
    }

    /// Begins to note what is done.
    pub(super) fn note(&mut self) {
        self.trace = Some(Vec::new());
    }

    pub(super) fn noted(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    /// Changing calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// `syncfs` calls that arrived.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Whether the power is gone.
    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Switches off now.
    pub(super) fn cut(&mut self) {
        self.dead = true;
    }

    /// What its users see.
    ///
    /// # Errors
    /// `EIO` without power.
    pub(super) fn tree(&self) -> Result<&Tree, Errno> {
        if self.dead {
            return Err(Errno::EIO);
        }
        Ok(&self.current)
    }

    pub(super) fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.tree()?.get(ino).ok_or(Errno::ENOENT)
    }

    /// Counts a call and lets it be done, be done by half (`true`), or fail.
    fn call(&mut self, kind: Kind, what: impl FnOnce(&Tree) -> String) -> Result<bool, Errno> {
        if self.dead {
            return Err(Errno::EIO);
        }
        self.calls += 1;
        let fate = self.plan.fate(self.calls, kind);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {} {fate:?}", self.calls, what(&self.current)));
        }
        match fate {
            Fate::Done => Ok(false),
            Fate::Half => Ok(true),
            Fate::Refused(error) => Err(error.errno()),
            Fate::Dead => {
                self.dead = true;
                Err(Errno::EIO)
            }
        }
    }

    fn change(&mut self, op: Op) {
        let at = SystemTime::now();
        self.current.apply(&op, at);
        self.pending.push(Pending { op, at });
    }

    /// Makes an inode and its first name.
    pub(super) fn make(
        &mut self,
        folder: Ino,
        name: &OsStr,
        body: Body,
        mode: u16,
    ) -> Result<Ino, Errno> {
        self.must_be_free(folder, name)?;
        self.call(Kind::Name, |tree| {
            format!("make {}", tree.path(folder, name))
        })?;
        let ino = self.next;
        self.next += 1;
        let inode = Inode::new(body, mode);
        // Without a name it is not there: only names and bytes have to be made durable.
        self.durable.insert(ino, inode.clone());
        self.current.insert(ino, inode);
        let name = name.to_owned();
        self.change(Op::Name { folder, name, ino });
        Ok(ino)
    }

    pub(super) fn link(&mut self, ino: Ino, folder: Ino, name: &OsStr) -> Result<(), Errno> {
        self.must_be_free(folder, name)?;
        self.call(Kind::Name, |tree| {
            format!("link {}", tree.path(folder, name))
        })?;
        let name = name.to_owned();
        self.change(Op::Name { folder, name, ino });
        Ok(())
    }

    fn must_be_free(&self, folder: Ino, name: &OsStr) -> Result<(), Errno> {
        let entries = self.tree()?.entries(folder).ok_or(Errno::ENOTDIR)?;
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        Ok(())
    }

    /// Removes a name: of a folder that is empty, or of anything else.
    pub(super) fn remove(&mut self, folder: Ino, name: &OsStr, of: Removed) -> Result<(), Errno> {
        let tree = self.tree()?;
        let ino = tree.find(folder, name).ok_or(Errno::ENOENT)?;
        match (of, tree.entries(ino)) {
            (Removed::Folder, None) => return Err(Errno::ENOTDIR),
            (Removed::Folder, Some(entries)) if !entries.is_empty() => {
                return Err(Errno::ENOTEMPTY);
            }
            (Removed::File, Some(_)) => return Err(Errno::EISDIR),
            (Removed::Folder, Some(_)) | (Removed::File, None) => {}
        }
        self.call(Kind::Remove, |tree| {
            format!("remove {}", tree.path(folder, name))
        })?;
        let name = name.to_owned();
        self.change(Op::Unname { folder, name });
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        how: Renaming,
    ) -> Result<(), Errno> {
        let tree = self.tree()?;
        let moved = tree.find(from.0, from.1).ok_or(Errno::ENOENT)?;
        match (how, tree.find(to.0, to.1)) {
            (Renaming::Exchange, None) => return Err(Errno::ENOENT),
            (Renaming::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (Renaming::Replace, Some(there)) if there == moved => return Ok(()),
            (Renaming::Replace, Some(there)) => {
                let moves_folder = tree.entries(moved).is_some();
                match (moves_folder, tree.entries(there)) {
                    (true, Some(entries)) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
                    (true, None) => return Err(Errno::ENOTDIR),
                    (false, Some(_)) => return Err(Errno::EISDIR),
                    (true, Some(_)) | (false, None) => {}
                }
            }
            (Renaming::Exchange, Some(_)) | (Renaming::Replace | Renaming::NoReplace, None) => {}
        }
        self.call(Kind::Name, |tree| {
            let [from, to] = [from, to].map(|(folder, name)| tree.path(folder, name));
            format!("rename {from} {to}")
        })?;
        self.change(Op::Rename {
            from: (from.0, from.1.to_owned()),
            to: (to.0, to.1.to_owned()),
            exchange: how == Renaming::Exchange,
        });
        Ok(())
    }

    /// Writes, and says how many bytes were taken.
    pub(super) fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        self.tree()?.bytes(ino).ok_or(Errno::EISDIR)?;
        let half = self.call(Kind::Write, |tree| {
            format!("write {} {offset}+{}", tree.name_of(ino), bytes.len())
        })?;
        // Half of one byte would be none, which means something else.
        let taken = if half {
            bytes.len().div_ceil(2)
        } else {
            bytes.len()
        };
        let bytes = Arc::new(bytes[..taken].to_vec());
        self.change(Op::Write { ino, offset, bytes });
        Ok(taken)
    }

    pub(super) fn resize(&mut self, ino: Ino, size: u64) -> Result<(), Errno> {
        let before = self.tree()?.bytes(ino).ok_or(Errno::EISDIR)?.len() as u64;
        if size == before {
            return Ok(());
        }
        let kind = if size > before {
            Kind::Write
        } else {
            Kind::Attributes
        };
        self.call(kind, |tree| format!("resize {} {size}", tree.name_of(ino)))?;
        self.change(Op::Resize { ino, size });
        Ok(())
    }

    pub(super) fn attributes(
        &mut self,
        ino: Ino,
        mode: Option<u16>,
        mtime: Option<SystemTime>,
    ) -> Result<(), Errno> {
        self.inode(ino)?;
        self.call(Kind::Attributes, |tree| {
            format!("attributes {}", tree.name_of(ino))
        })?;
        self.change(Op::Attributes { ino, mode, mtime });
        Ok(())
    }

    /// `fsync` of a file or folder. Changes of a folder that a rename came from go with it.
    pub(super) fn sync(&mut self, ino: Ino) -> Result<(), Errno> {
        let called = self.call(Kind::Sync, |tree| format!("fsync {}", tree.name_of(ino)));
        if called.is_err() {
            self.forget(|op| op.objects()[0] == ino);
            return called.map(drop);
        }
        let (mut needed, mut covered) = (BTreeSet::from([ino]), BTreeSet::new());
        for (number, one) in self.pending.iter().enumerate().rev() {
            let objects = one.op.objects();
            if objects.iter().any(|object| needed.contains(object)) {
                needed.extend(objects);
                covered.insert(number);
            }
        }
        self.persist(|number| covered.contains(&number));
        Ok(())
    }

    /// `syncfs`.
    pub(super) fn sync_all(&mut self) -> Result<(), Errno> {
        self.syncs += 1;
        let called = self.call(Kind::Sync, |_| "syncfs".to_owned());
        if called.is_err() {
            self.forget(|_| true);
            return called.map(drop);
        }
        self.persist(|_| true);
        Ok(())
    }

    fn persist(&mut self, covered: impl Fn(usize) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        for (number, one) in pending.into_iter().enumerate() {
            if covered(number) {
                self.durable.apply(&one.op, one.at);
            } else {
                self.pending.push(one);
            }
        }
    }

    /// What a failed sync leaves in memory only: the system takes it for written.
    fn forget(&mut self, covered: impl Fn(&Op) -> bool) {
        if !self.dead {
            self.pending
                .retain(|one| !one.op.is_data() || !covered(&one.op));
        }
    }

    /// What is there after the power was lost.
    pub(super) fn lost(self, loss: Loss, seed: u64) -> Tree {
        loss.image(self.durable, &self.pending, seed)
    }
}

/// What [`Volume::remove`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    File,
    Folder,
}

/// What [`Volume::rename`] does about what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renaming {
    Replace,
    NoReplace,
    Exchange,
}

#[cfg(test)]
mod tests;
