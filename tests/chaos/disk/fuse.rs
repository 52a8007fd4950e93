//! The disk as a file system of the kernel's. Nothing is cached there: every call arrives, and what was written can only
//! be in the disk's memory. Locks are the kernel's own; sharing of extents and `O_TMPFILE` are refused, and callers copy.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;

use super::reply::{NEVER, answer, answer_attributes, answer_entry, attributes, list, time};
use super::tree::{Body, Ino};
use super::volume::{Removed, Renaming, Volume};

const UNCACHED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_NOFLUSH);
/// Most bytes of one write or read.
pub(super) const PIECE_BYTES: u32 = 128 * 1024;
pub(super) const BLOCK_BYTES: u32 = 4096;
/// 64 GiB that never run out: full disks are faults.
const BLOCKS: u64 = 1 << 24;
const FILES: u64 = 1 << 20;
const NAME_MAX_BYTES: u32 = 255;

/// A disk that processes share.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    volume: Mutex<Volume>,
    /// Folders that are being listed, by handle.
    listings: Mutex<BTreeMap<u64, Vec<Listed>>>,
}

/// A name in a folder.
pub(super) type Listed = (Ino, FileType, OsString);

impl Disk {
    pub(super) fn new(volume: Volume) -> Self {
        Self(Arc::new(Shared {
            volume: Mutex::new(volume),
            listings: Mutex::default(),
        }))
    }

    /// None while somebody else uses it.
    pub(super) fn into_volume(self) -> Option<Volume> {
        let shared = Arc::into_inner(self.0)?;
        Some(
            shared
                .volume
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(super) fn volume(&self) -> MutexGuard<'_, Volume> {
        self.0.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listings(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Listed>>> {
        self.0
            .listings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, ino: Ino) -> Result<FileAttr, Errno> {
        Ok(attributes(ino, self.volume().inode(ino)?))
    }

    fn make(
        &self,
        parent: INodeNo,
        name: &OsStr,
        body: Body,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        let mode = (mode & 0o7777) as u16;
        let mut volume = self.volume();
        let ino = volume.make(parent.0, name, body, mode)?;
        Ok(attributes(ino, volume.inode(ino)?))
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |_| io::Error::other("the kernel writes in other pieces");
        config.set_max_write(PIECE_BYTES).map(drop).map_err(refused)
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let volume = self.volume();
        let found = volume.tree().and_then(|tree| {
            tree.entries(parent.0).ok_or(Errno::ENOTDIR)?;
            let ino = tree.find(parent.0, name).ok_or(Errno::ENOENT)?;
            Ok(attributes(ino, volume.inode(ino)?))
        });
        drop(volume);
        answer_entry(reply, found);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(reply, self.attributes(ino.0));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mode = mode.map(|mode| (mode & 0o7777) as u16);
        let changed = || {
            let mut volume = self.volume();
            if let Some(size) = size {
                volume.resize(ino.0, size)?;
            } else if mode.is_some() || mtime.is_some() {
                volume.attributes(ino.0, mode, mtime.map(time))?;
            }
            Ok(attributes(ino.0, volume.inode(ino.0)?))
        };
        answer_attributes(reply, changed());
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        use std::os::unix::ffi::OsStrExt as _;
        match self.volume().inode(ino.0).map(|inode| &inode.body) {
            Ok(Body::Symlink(target)) => reply.data(target.as_os_str().as_bytes()),
            Ok(Body::File(_) | Body::Folder(_) | Body::Socket) => reply.error(Errno::EINVAL),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let body = if kind.is_socket() {
            Body::Socket
        } else if kind.is_file() {
            Body::File(Arc::default())
        } else {
            return reply.error(Errno::EPERM);
        };
        answer_entry(reply, self.make(parent, name, body, mode));
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let body = Body::Folder(BTreeMap::new());
        answer_entry(reply, self.make(parent, name, body, mode));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.volume().remove(parent.0, name, Removed::File));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.volume().remove(parent.0, name, Removed::Folder));
    }

    fn symlink(
        &self,
        _req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let body = Body::Symlink(target.to_owned());
        answer_entry(reply, self.make(parent, link_name, body, 0o777));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = if flags.is_empty() {
            Renaming::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            Renaming::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            Renaming::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        let renamed = self
            .volume()
            .rename((parent.0, name), (newparent.0, newname), how);
        answer(reply, renamed);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = self.volume().link(ino.0, newparent.0, newname);
        answer_entry(reply, linked.and_then(|()| self.attributes(ino.0)));
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.attributes(ino.0) {
            Ok(_) => reply.opened(FileHandle(0), UNCACHED),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, Body::File(Arc::default()), mode) {
            Ok(made) => reply.created(&NEVER, &made, Generation(0), FileHandle(0), UNCACHED),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let volume = self.volume();
        match volume.tree().map(|tree| tree.bytes(ino.0)) {
            Ok(Some(bytes)) => {
                let begin = bytes.len().min(offset as usize);
                let end = bytes.len().min(begin + size as usize);
                reply.data(&bytes[begin..end]);
            }
            Ok(None) => reply.error(Errno::EISDIR),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut volume = self.volume();
        let appends = OFlags::from_bits_retain(flags.0 as u32).contains(OFlags::APPEND);
        let end = volume.tree().ok().and_then(|tree| tree.bytes(ino.0));
        let offset = end
            .filter(|_| appends)
            .map_or(offset, |bytes| bytes.len() as u64);
        match volume.write(ino.0, offset, data) {
            Ok(taken) => reply.written(taken as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        answer(reply, self.volume().sync(ino.0));
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.volume().sync(ino.0));
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let mut listings = self.listings();
        let handle = listings.last_key_value().map_or(1, |(last, _)| last + 1);
        listings.insert(handle, Vec::new());
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut listings = self.listings();
        let listing = listings.entry(fh.0).or_default();
        // What comes and goes while a folder is listed must not move the rest.
        if offset == 0 {
            match list(&self.volume(), ino.0) {
                Ok(fresh) => *listing = fresh,
                Err(error) => return reply.error(error),
            }
        }
        for (place, (ino, kind, name)) in listing.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*ino), place as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.volume().tree() {
            Ok(_) => reply.statfs(
                BLOCKS,
                BLOCKS,
                BLOCKS,
                FILES,
                FILES,
                BLOCK_BYTES,
                NAME_MAX_BYTES,
                BLOCK_BYTES,
            ),
            Err(error) => reply.error(error),
        }
    }

    fn access(&self, _req: &Request, ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        answer(reply, self.attributes(ino.0).map(drop));
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let grown = || {
            let mut volume = self.volume();
            let there = volume.tree()?.bytes(ino.0).ok_or(Errno::EISDIR)?.len() as u64;
            volume.resize(ino.0, there.max(offset + length))
        };
        answer(reply, grown());
    }
}
