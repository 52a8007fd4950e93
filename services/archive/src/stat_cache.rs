//! The stat cache: what the last scan of a tree saw, so that unchanged files are not read again.
//!
//! A file of records in order of key, written anew by each scan and read by merge-join beside the
//! walk: constant memory whatever the tree's size.
//!
//! ```text
//! file   = magic "mlstat" version:u16 tree:block block*        (integers little-endian)
//! block  = length:u32 check:[u8; 8] payload                    (check: first bytes of SHA-256 of the payload)
//! record = shared:u16 rest:u16 bytes[rest] flags:u8 size:u64 mtime_ns:i64 ctime_ns:i64 inode:u64 device:u64
//!          digest:[u8; 32]                                     (`shared`: bytes in common with the key before, 0 at a block's start)
//! ```
//!
//! A block that fails its check ends the cache: what follows is read from the tree again. The keys of
//! folders end in a slash and have no digest.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::PATH_MAX_BYTES;
use tempfile::NamedTempFile;

use crate::scan::Stamp;

const MAGIC: &[u8; 6] = b"mlstat";
const VERSION: u16 = 1;
const BLOCK_BYTES: usize = 64 * 1024;
const BLOCK_MAX_BYTES: usize = 2 * BLOCK_BYTES;
/// Usual length of a record: paths of an archive have much in common with their neighbours.
const USUAL_BYTES: u64 = 112;
const FIXED_BYTES: usize = 1 + 5 * 8 + 32;

const FLAG_READ: u8 = 1;
const FLAG_RACY: u8 = 2;
const FLAG_IMMUTABLE: u8 = 4;

/// One name that a scan saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The path; a folder's ends in a slash.
    pub(crate) key: Vec<u8>,
    pub(crate) stamp: Stamp,
    /// All zero for folders.
    pub(crate) digest: Digest,
    /// The file was read in the scan that wrote this.
    pub(crate) read: bool,
    /// Stamped so close to the scan that a later write may not show in its stamps.
    pub(crate) racy: bool,
    /// Never written in place: its ctime does not count.
    pub(crate) immutable: bool,
}

impl Record {
    const fn blank() -> Self {
        Self {
            key: Vec::new(),
            stamp: Stamp {
                size_bytes: 0,
                mtime_ns: 0,
                ctime_ns: 0,
                inode: 0,
                device: 0,
            },
            digest: Digest::from_bytes([0; 32]),
            read: false,
            racy: false,
            immutable: false,
        }
    }
}

/// Writes a cache beside the one in place.
pub(crate) struct Writer {
    out: BufWriter<NamedTempFile>,
    block: Vec<u8>,
    last: Vec<u8>,
}

impl Writer {
    /// Starts a cache of `tree` in `dir`, which is made.
    pub(crate) fn create(dir: &Path, tree: &[u8]) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut out = BufWriter::new(NamedTempFile::new_in(dir)?);
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        let mut writer = Self {
            out,
            block: tree.to_vec(),
            last: Vec::new(),
        };
        writer.end_block()?;
        Ok(writer)
    }

    /// Adds the next record.
    pub(crate) fn push(&mut self, record: &Record) -> io::Result<()> {
        let common = |(a, b): &(&u8, &u8)| a == b;
        let shared = self.last.iter().zip(&record.key).take_while(common).count();
        let length = |n: usize| u16::try_from(n).map_err(io::Error::other);
        self.block.extend(length(shared)?.to_le_bytes());
        self.block
            .extend(length(record.key.len() - shared)?.to_le_bytes());
        self.block.extend(&record.key[shared..]);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let flags = flag(record.read, FLAG_READ)
            | flag(record.racy, FLAG_RACY)
            | flag(record.immutable, FLAG_IMMUTABLE);
        self.block.push(flags);
        let Stamp {
            size_bytes,
            mtime_ns,
            ctime_ns,
            inode,
            device,
        } = record.stamp;
        self.block.extend(size_bytes.to_le_bytes());
        self.block.extend(mtime_ns.to_le_bytes());
        self.block.extend(ctime_ns.to_le_bytes());
        self.block.extend(inode.to_le_bytes());
        self.block.extend(device.to_le_bytes());
        self.block.extend(record.digest.as_bytes());
        self.last.clone_from(&record.key);
        if self.block.len() >= BLOCK_BYTES {
            self.end_block()?;
        }
        Ok(())
    }

    /// Writes what is left; nothing is in place yet.
    pub(crate) fn finish(mut self) -> io::Result<Written> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let file = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(Written { file })
    }

    fn end_block(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.block.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out
            .write_all(&Digest::of(&self.block).as_bytes()[..8])?;
        self.out.write_all(&self.block)?;
        self.block.clear();
        self.last.clear();
        Ok(())
    }
}

/// A whole cache that is not in place yet.
pub(crate) struct Written {
    file: NamedTempFile,
}

impl Written {
    /// Its records.
    pub(crate) fn records(&self) -> io::Result<Records> {
        let (_tree, records) = open(File::open(self.file.path())?)?;
        Ok(records)
    }

    /// Puts it in the place of the last one. Not synced: a torn cache fails its check.
    pub(crate) fn put(self, path: &Path) -> io::Result<()> {
        self.file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }
}

/// Records in order.
pub(crate) struct Records {
    input: BufReader<File>,
    block: io::Cursor<Vec<u8>>,
    last: Vec<u8>,
}

fn open(file: File) -> io::Result<(Vec<u8>, Records)> {
    let mut input = BufReader::with_capacity(BLOCK_BYTES, file);
    let mut head = [0; 8];
    input.read_exact(&mut head)?;
    if &head[..6] != MAGIC || head[6..] != VERSION.to_le_bytes() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no stat cache of this version",
        ));
    }
    let block = io::Cursor::new(Vec::new());
    let mut records = Records {
        input,
        block,
        last: Vec::new(),
    };
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "stat cache is broken");
    let tree = records.next_block()?.ok_or_else(broken)?;
    Ok((tree, records))
}

impl Records {
    fn next_block(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut head = [0; 12];
        match self.input.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "stat cache is broken");
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > BLOCK_MAX_BYTES {
            return Err(broken());
        }
        let mut payload = vec![0; length];
        self.input.read_exact(&mut payload)?;
        if Digest::of(&payload).as_bytes()[..8] != head[4..] {
            return Err(broken());
        }
        Ok(Some(payload))
    }

    /// Reads the next record over `record`; false at the end.
    fn read_over(&mut self, record: &mut Record) -> io::Result<bool> {
        if self.block.position() as usize == self.block.get_ref().len() {
            let Some(payload) = self.next_block()? else {
                return Ok(false);
            };
            self.block = io::Cursor::new(payload);
            self.last.clear();
        }
        let input = &mut self.block;
        let shared = usize::from(u16::from_le_bytes(array(input)?));
        let rest = usize::from(u16::from_le_bytes(array(input)?));
        if shared > self.last.len() || shared + rest > PATH_MAX_BYTES + 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "stat cache is broken",
            ));
        }
        self.last.truncate(shared);
        self.last.resize(shared + rest, 0);
        input.read_exact(&mut self.last[shared..])?;
        let fixed: [u8; FIXED_BYTES] = array(input)?;
        let flags = fixed[0];
        let word = |n: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&fixed[1 + n * 8..9 + n * 8]);
            bytes
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(&fixed[41..]);
        record.key.clone_from(&self.last);
        record.stamp = Stamp {
            size_bytes: u64::from_le_bytes(word(0)),
            mtime_ns: i64::from_le_bytes(word(1)),
            ctime_ns: i64::from_le_bytes(word(2)),
            inode: u64::from_le_bytes(word(3)),
            device: u64::from_le_bytes(word(4)),
        };
        record.digest = Digest::from_bytes(digest);
        record.read = flags & FLAG_READ != 0;
        record.racy = flags & FLAG_RACY != 0;
        record.immutable = flags & FLAG_IMMUTABLE != 0;
        Ok(true)
    }
}

impl Iterator for Records {
    type Item = io::Result<Record>;
    fn next(&mut self) -> Option<Self::Item> {
        let mut record = Record::blank();
        match self.read_over(&mut record) {
            Ok(true) => Some(Ok(record)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The last scan's cache, asked in order of key.
pub(crate) struct Reader {
    /// Gone when they have ended or are broken.
    records: Option<Records>,
    next: Record,
    bytes: u64,
}

impl Reader {
    /// Opens the cache of `tree`. None there, or one of another tree or version: an empty one.
    pub(crate) fn open(path: &Path, tree: &[u8]) -> io::Result<Self> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::empty()),
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        match open(file) {
            Ok((of, records)) if of == tree => {
                let mut reader = Self {
                    records: Some(records),
                    bytes,
                    ..Self::empty()
                };
                reader.advance();
                Ok(reader)
            }
            Ok(_of_another_tree) => Ok(Self::empty()),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "stat cache set aside");
                Ok(Self::empty())
            }
        }
    }

    /// One that knows nothing.
    pub(crate) fn empty() -> Self {
        Self {
            records: None,
            next: Record::blank(),
            bytes: 0,
        }
    }

    /// About how many files it knows.
    pub(crate) fn about(&self) -> u64 {
        self.bytes / USUAL_BYTES
    }

    /// The digest of a file that is as it was; keys must come in order.
    pub(crate) fn find(&mut self, key: &[u8], stamp: &Stamp) -> Option<Digest> {
        while self.records.is_some() && self.next.key.as_slice() < key {
            self.advance();
        }
        self.records.as_ref()?;
        let record = Some(&self.next).filter(|record| record.key == key)?;
        // Device numbers change when a machine starts; the others tell enough.
        let then = Stamp {
            device: stamp.device,
            ..record.stamp
        };
        let same = stamp.is_same(&then, record.immutable);
        (same && !record.racy).then_some(record.digest)
    }

    fn advance(&mut self) {
        let Some(records) = &mut self.records else {
            return;
        };
        match records.read_over(&mut self.next) {
            Ok(true) => {}
            Ok(false) => self.records = None,
            Err(error) => {
                tracing::warn!(%error, "rest of the stat cache set aside");
                self.records = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
