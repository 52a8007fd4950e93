//! Strict decoding of a page's parts; `page` has the layout.

use super::page::{Child, KIND_EXECUTABLE, KIND_PLAIN, KIND_SYMLINK, check_entry};
use super::{Entry, FileEntry, Mode, PageError};
use crate::id::Digest;
use crate::path::EntryPath;
use crate::time::Mtime;

/// Bytes not yet decoded.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], PageError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(PageError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PageError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(PageError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, PageError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, PageError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, PageError> {
        self.array().map(u64::from_le_bytes)
    }

    fn short(&mut self) -> Result<&'a [u8], PageError> {
        let length = self.array().map(u16::from_le_bytes)?;
        self.take(usize::from(length))
    }

    fn path(&mut self) -> Result<EntryPath, PageError> {
        EntryPath::new(self.short()?).map_err(PageError::Path)
    }

    fn digest(&mut self) -> Result<Digest, PageError> {
        self.array().map(Digest::from_bytes)
    }

    pub(super) fn items<T>(
        &mut self,
        count: u32,
        one: impl Fn(&mut Self) -> Result<T, PageError>,
        key: impl Fn(&T) -> &EntryPath,
    ) -> Result<Vec<T>, PageError> {
        let mut items: Vec<T> = Vec::new();
        for _ in 0..count {
            let item = one(self)?;
            if items.last().is_some_and(|before| key(before) >= key(&item)) {
                return Err(PageError::Order(key(&item).clone()));
            }
            items.push(item);
        }
        Ok(items)
    }

    pub(super) fn entry(&mut self) -> Result<(EntryPath, Entry), PageError> {
        let path = self.path()?;
        let entry = match self.u8()? {
            KIND_PLAIN => self.file(Mode::Plain)?,
            KIND_EXECUTABLE => self.file(Mode::Executable)?,
            KIND_SYMLINK => Entry::Symlink {
                target: self.short()?.into(),
            },
            kind => return Err(PageError::Kind(kind)),
        };
        check_entry(&path, &entry)?;
        Ok((path, entry))
    }

    fn file(&mut self, mode: Mode) -> Result<Entry, PageError> {
        let size_bytes = self.u64()?;
        let digest = self.digest()?;
        let mtime = Mtime::from_seconds(self.array().map(i64::from_le_bytes)?);
        Ok(Entry::File(FileEntry {
            size_bytes,
            digest,
            mode,
            mtime,
        }))
    }

    pub(super) fn child(&mut self) -> Result<Child, PageError> {
        let last = self.path()?;
        let digest = self.digest()?;
        let (entries, bytes) = (self.u64()?, self.u64()?);
        if entries == 0 {
            return Err(PageError::EmptyChild(last));
        }
        Ok(Child {
            last,
            digest,
            entries,
            bytes,
        })
    }
}
