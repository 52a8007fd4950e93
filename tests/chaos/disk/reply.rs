//! Inodes and outcomes, as the kernel takes them.

use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, TimeOrNow,
};

use super::fuse::{BLOCK_BYTES, Listed};
use super::tree::{Body, Ino, Inode, ROOT};
use super::volume::Volume;

/// Nothing is remembered by the kernel.
pub(super) const NEVER: Duration = Duration::ZERO;

pub(super) fn kind_of(inode: &Inode) -> FileType {
    match &inode.body {
        Body::File(_) => FileType::RegularFile,
        Body::Folder(_) => FileType::Directory,
        Body::Symlink(_) => FileType::Symlink,
        Body::Socket => FileType::Socket,
    }
}

pub(super) fn list(volume: &Volume, folder: Ino) -> Result<Vec<Listed>, Errno> {
    let entries = volume.tree()?.entries(folder).ok_or(Errno::ENOTDIR)?;
    let mut listed = vec![
        (folder, FileType::Directory, ".".into()),
        (ROOT, FileType::Directory, "..".into()),
    ];
    for (name, ino) in entries {
        listed.push((*ino, kind_of(volume.inode(*ino)?), name.clone()));
    }
    Ok(listed)
}

pub(super) fn attributes(ino: Ino, inode: &Inode) -> FileAttr {
    let size = match &inode.body {
        Body::File(bytes) => bytes.len() as u64,
        Body::Folder(_) => u64::from(BLOCK_BYTES),
        Body::Symlink(target) => target.as_os_str().len() as u64,
        Body::Socket => 0,
    };
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: inode.mtime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        crtime: inode.ctime,
        kind: kind_of(inode),
        perm: inode.mode,
        nlink: if inode.is_folder() { 2 } else { inode.links },
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub(super) fn time(of: TimeOrNow) -> SystemTime {
    match of {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

pub(super) fn answer(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

pub(super) fn answer_entry(reply: ReplyEntry, outcome: Result<FileAttr, Errno>) {
    match outcome {
        Ok(found) => reply.entry(&NEVER, &found, Generation(0)),
        Err(error) => reply.error(error),
    }
}

pub(super) fn answer_attributes(reply: ReplyAttr, outcome: Result<FileAttr, Errno>) {
    match outcome {
        Ok(found) => reply.attr(&NEVER, &found),
        Err(error) => reply.error(error),
    }
}
