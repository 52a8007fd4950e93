//! A file that is coming: what is here of it, and who gave what.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mirrorlog_core::client::climb::SourceIndex;
use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{FileEntry, Mode};
use runtime::beneath::{Place, explained};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::session::LocalFault;

const READ_BYTES: usize = 256 * 1024;

/// Bytes that one source gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gift {
    pub(crate) source: SourceIndex,
    from: u64,
    to: u64,
    digest: Digest,
}

/// A source that gives, and where it began.
struct Giving {
    source: SourceIndex,
    from: u64,
    /// Of what it gave; from the beginning on that is the file's own.
    hasher: Option<Sha256>,
}

/// A file that is coming, hashed as it comes.
pub(crate) struct Part {
    place: Place,
    file: File,
    at: u64,
    hasher: Sha256,
    /// What sources gave before the file was begun anew, or before they were left.
    gifts: Vec<Gift>,
    /// The source that gives now.
    giving: Option<Giving>,
}

impl Part {
    /// Opens what an earlier run left, or begins. What is longer than `size_bytes` is no part of it.
    pub(crate) fn open(place: &Place, size_bytes: u64) -> Result<Self, LocalFault> {
        Self::try_open(place, size_bytes).map_err(|source| LocalFault {
            path: place.path().to_owned(),
            source,
        })
    }

    fn try_open(place: &Place, size_bytes: u64) -> io::Result<Self> {
        let mut file = open_own(place)?;
        // Two runs that write at the same time would each believe in bytes of the other.
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another run is fetching it")
            }
            other => other.into(),
        })?;
        let (mut at, mut hasher) = (0, Sha256::new());
        if file.metadata()?.len() <= size_bytes {
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        } else {
            file.set_len(0)?;
        }
        Ok(Self {
            place: place.clone(),
            file,
            at,
            hasher,
            gifts: Vec::new(),
            giving: None,
        })
    }

    /// Bytes that are here.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// A source begins to give, at the end of what is here.
    pub(crate) fn give(&mut self, source: SourceIndex) {
        self.left();
        let hasher = (self.at > 0).then(Sha256::new);
        self.giving = Some(Giving {
            source,
            from: self.at,
            hasher,
        });
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), LocalFault> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| self.fault(source))?;
        self.hasher.update(bytes);
        if let Some(Giving {
            hasher: Some(hasher),
            ..
        }) = &mut self.giving
        {
            hasher.update(bytes);
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Forgets all bytes, not who gave them.
    pub(crate) fn restart(&mut self) -> Result<(), LocalFault> {
        self.left();
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| self.fault(source))?;
        (self.at, self.hasher) = (0, Sha256::new());
        Ok(())
    }

    /// The digest of what is here.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hasher.clone().finalize().into())
    }

    /// Forgets what a source gave: it was found out.
    pub(crate) fn disown(&mut self, source: SourceIndex) {
        self.left();
        self.gifts.retain(|gift| gift.source != source);
    }

    /// Where the source that gives now began.
    pub(crate) fn given_from(&self) -> u64 {
        self.giving.as_ref().map_or(self.at, |giving| giving.from)
    }

    /// Sources that gave other bytes than those of the whole, good file that is here now.
    pub(crate) fn liars(&mut self) -> io::Result<Vec<SourceIndex>> {
        // The only giver of a good file is honest.
        if self.gifts.is_empty() {
            return Ok(Vec::new());
        }
        self.left();
        let mut liars = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        for gift in &self.gifts {
            self.file.seek(SeekFrom::Start(gift.from))?;
            let mut range = (&self.file).take(gift.to - gift.from);
            let mut hasher = Sha256::new();
            loop {
                let read = range.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
            }
            if Digest::from_bytes(hasher.finalize().into()) != gift.digest
                && !liars.contains(&gift.source)
            {
                liars.push(gift.source);
            }
        }
        Ok(liars)
    }

    /// Gives it the mode and date that the build says, and waits until all of it is on disk.
    pub(crate) fn finish(&self, entry: &FileEntry) -> Result<(), LocalFault> {
        let mode = match entry.mode {
            Mode::Plain => 0o644,
            Mode::Executable => 0o755,
        };
        let seconds = u64::try_from(entry.mtime.as_seconds()).unwrap_or(0);
        let date = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let finished = self
            .file
            .set_permissions(Permissions::from_mode(mode))
            .and_then(|()| date.map_or(Ok(()), |date| self.file.set_modified(date)))
            .and_then(|()| self.file.sync_all());
        finished.map_err(|source| self.fault(source))
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Takes the content of another file, behind what is here.
    pub(crate) fn append(&mut self, with: &Path) -> Result<(), LocalFault> {
        let mut source = File::open(with).map_err(|source| self.fault(source))?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = source
                .read(&mut buffer)
                .map_err(|source| self.fault(source))?;
            if read == 0 {
                return Ok(());
            }
            self.write(&buffer[..read])?;
        }
    }

    /// What is beside it cannot be used.
    pub(crate) fn failed(&self, error: Errno) -> LocalFault {
        self.fault(explained(error))
    }

    fn fault(&self, source: io::Error) -> LocalFault {
        LocalFault {
            path: self.place.path().to_owned(),
            source,
        }
    }

    /// The source that gives now has ended.
    fn left(&mut self) {
        if let Some(Giving {
            source,
            from,
            hasher,
        }) = self.giving.take()
            && self.at > from
        {
            let hasher = hasher.unwrap_or_else(|| self.hasher.clone());
            let digest = Digest::from_bytes(hasher.finalize().into());
            let to = self.at;
            self.gifts.push(Gift {
                source,
                from,
                to,
                digest,
            });
        }
    }
}

/// The digest of somebody's file, which is only read.
pub(crate) fn digest_of(path: &Path) -> io::Result<Digest> {
    digest_of_open(File::open(path)?)
}

/// The digest of an open file.
pub(crate) fn digest_of_open(mut file: File) -> io::Result<Digest> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Opens a file of this user's alone, which nobody put there for us to write through.
fn open_own(place: &Place) -> io::Result<File> {
    if let Ok((file, stat)) = place.open(OFlags::RDWR | OFlags::CREATE)
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_nlink == 1
    {
        return Ok(file);
    }
    place.remove()?;
    Ok(place.create_new()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place(path: &Path) -> Place {
        Place::of(path).unwrap()
    }

    fn open(path: &Path) -> Part {
        Part::open(&place(path), 100).unwrap()
    }

    #[test]
    fn a_part_goes_on_where_it_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        let mut first = open(&path);
        first.write(b"hello ").unwrap();
        let busy = Part::open(&place(&path), 100).err().unwrap();
        assert_eq!(busy.source.kind(), io::ErrorKind::ResourceBusy);
        drop(first);
        let mut part = open(&path);
        assert_eq!(part.at(), 6);
        part.write(b"world").unwrap();
        assert_eq!(part.digest(), Digest::of(b"hello world"));
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
        drop(part);
        assert_eq!(
            Part::open(&place(&path), 10).unwrap().at(),
            0,
            "longer than the file"
        );
    }

    #[test]
    fn who_gave_wrong_bytes_is_found_when_the_good_ones_are_here() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = open(&dir.path().join("part"));
        let (honest, liar, last) = (SourceIndex(1), SourceIndex(2), SourceIndex(3));
        part.give(honest);
        part.write(b"hello ").unwrap();
        part.give(liar);
        part.write(b"w0rld").unwrap();
        assert_eq!(part.given_from(), 6);
        part.restart().unwrap();
        part.give(last);
        part.write(b"hello world").unwrap();
        assert_eq!(part.liars().unwrap(), [liar]);
        assert_eq!(part.digest(), Digest::of(b"hello world"));
    }
}
