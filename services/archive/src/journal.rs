//! The journal: one fsynced, signed file for each build and each retraction. It is the truth.
//!
//! `<state>/journal/<channel>/<build, 20 digits>.snapshot` and `r<sequence, 10 digits>.retraction`,
//! in signify's embedded format, so that `signify -V -e -p KEY -x FILE -m -` verifies each of them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use mirrorlog_core::archive::{Admitted, History, HistoryError, Item, Published, Withdrawal};
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::limits::STATEMENT_MAX_BYTES;
use mirrorlog_core::sign::TrustedKeys;
use wire::event::Opened;
use wire::{EventBody, OpenError, Signed};

/// Largest journal file: a statement and its signature's two lines.
const FILE_MAX_BYTES: u64 = STATEMENT_MAX_BYTES as u64 + 4096;

/// Why the journal could not be read or written. Halts the channel.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file or folder could not be handled.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the journal is not what it should be.
    #[error("{} is not accepted: {reason}", path.display())]
    Bad {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A statement is not accepted.
    #[error("statement is not accepted")]
    Open(#[from] OpenError),
    /// A statement is of another channel.
    #[error("statement is of channel {0}")]
    OtherChannel(ChannelId),
    /// A statement does not continue the journal.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The channel refuses to go on.
    #[error("channel {channel} is halted: {reason}")]
    Halted {
        /// The channel.
        channel: ChannelId,
        /// Why.
        reason: String,
    },
}

/// A verified statement of the archive, with what the rules need of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it travels.
    pub body: EventBody,
    /// What it says.
    pub opened: Opened,
    /// As the rules see it.
    pub known: Known,
}

/// A statement as the rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A build.
    Snapshot(Published),
    /// Builds taken back.
    Retraction(Withdrawal),
}

impl Known {
    /// Its place in the channel.
    pub const fn item(&self) -> Item {
        match self {
            Self::Snapshot(published) => Item::Snapshot(published.build),
            Self::Retraction(withdrawal) => Item::Retraction(withdrawal.sequence),
        }
    }

    /// Adds it to a history.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn admit(&self, history: &mut History) -> Result<Admitted, HistoryError> {
        match *self {
            Self::Snapshot(published) => history.admit_snapshot(published),
            Self::Retraction(withdrawal) => history.admit_retraction(withdrawal),
        }
    }

    /// Digest of its signed bytes.
    pub const fn statement(&self) -> Digest {
        match self {
            Self::Snapshot(published) => published.statement,
            Self::Retraction(withdrawal) => withdrawal.statement,
        }
    }
}

impl Entry {
    /// Verifies a statement of `channel`.
    ///
    /// # Errors
    /// [`JournalError::Open`] or [`JournalError::OtherChannel`].
    pub fn open(
        body: EventBody,
        channel: &ChannelId,
        keys: &TrustedKeys,
    ) -> Result<Self, JournalError> {
        let statement = body.signed().digest();
        let opened = body.open(keys)?;
        let (of, known) = match &opened {
            Opened::Snapshot(snapshot) => (
                &snapshot.channel,
                Known::Snapshot(Published::of(snapshot, statement)),
            ),
            Opened::Retraction(retraction) => (
                &retraction.channel,
                Known::Retraction(Withdrawal::of(retraction, statement)),
            ),
        };
        if of != channel {
            return Err(JournalError::OtherChannel(of.clone()));
        }
        Ok(Self {
            body,
            opened,
            known,
        })
    }
}

/// One channel's journal. All calls but [`Journal::history`] and [`Journal::halted`] block.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    channel: ChannelId,
    keys: TrustedKeys,
    history: RwLock<Arc<History>>,
    halted: RwLock<Option<Halt>>,
}

/// Why a channel does not go on.
#[derive(Clone, Debug)]
struct Halt {
    reason: String,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// What the journal or the log says.
    Content,
    /// A write failed: what is on the disk is known once it is read again.
    Write,
}

impl Journal {
    /// Opens a channel's journal in `root`, or makes it; verifies every file, and that they connect.
    ///
    /// A file that is not accepted halts the channel with its reason ([`Journal::halted`]); others go on.
    ///
    /// # Errors
    /// [`JournalError::Io`] when the folder cannot be read or made.
    pub fn open(
        root: &Path,
        channel: &ChannelId,
        keys: &TrustedKeys,
    ) -> Result<Self, JournalError> {
        let dir = root.join(channel.as_str());
        fs::create_dir_all(&dir).map_err(|e| failed("make", &dir, e))?;
        sync_dir(root)?;
        let journal = Self {
            dir,
            channel: channel.clone(),
            keys: keys.clone(),
            history: RwLock::default(),
            halted: RwLock::default(),
        };
        journal.load()?;
        Ok(journal)
    }

    /// The channel.
    pub fn channel(&self) -> &ChannelId {
        &self.channel
    }

    /// What is in it, as it stands.
    pub fn history(&self) -> Arc<History> {
        self.history
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why nothing more is published on the channel, if so.
    pub fn halted(&self) -> Option<String> {
        self.halted
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|halt| halt.reason.clone())
    }

    /// Refuses everything from now on. The first reason stays.
    pub fn halt(&self, reason: &str) {
        self.halt_for(Cause::Content, reason);
    }

    fn halt_for(&self, cause: Cause, reason: &str) {
        let mut halted = self.halted.write().unwrap_or_else(PoisonError::into_inner);
        if halted.is_none() {
            tracing::error!(channel = %self.channel, reason, "channel halted");
            let reason = reason.to_owned();
            *halted = Some(Halt { reason, cause });
        }
    }

    /// Reads the journal again when a write has failed, as a restart would; any other reason to be halted stays. True
    /// when the channel goes on: then it may hold a statement that nobody was told of, and has to be compared with the log.
    ///
    /// The caller of [`Journal::append`] only.
    ///
    /// # Errors
    /// [`JournalError::Io`]: the disk still fails; nothing has changed.
    pub fn recover(&self) -> Result<bool, JournalError> {
        let halt = {
            let mut halted = self.halted.write().unwrap_or_else(PoisonError::into_inner);
            match &*halted {
                Some(halt) if halt.cause == Cause::Write => halted.take(),
                Some(_) | None => return Ok(false),
            }
        };
        // A name that is there but not on the disk would count as journaled.
        if let Err(error) = sync_dir(&self.dir).and_then(|()| self.load()) {
            *self.halted.write().unwrap_or_else(PoisonError::into_inner) = halt;
            return Err(error);
        }
        let goes_on = self.halted().is_none();
        if goes_on {
            tracing::info!(channel = %self.channel, "channel goes on after a fault of the disk");
        }
        Ok(goes_on)
    }

    /// Adds statements in order; returns when they are durable. What is there already is passed over.
    ///
    /// One caller at a time. A fault in the middle halts the channel until [`Journal::recover`] has read what is on disk.
    ///
    /// # Errors
    /// [`JournalError::History`] when one does not continue the journal: then nothing was written.
    pub fn append(&self, entries: &[Entry]) -> Result<(), JournalError> {
        if let Some(reason) = self.halted() {
            return Err(JournalError::Halted {
                channel: self.channel.clone(),
                reason,
            });
        }
        let mut history = History::clone(&self.history());
        let mut new = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry.known.admit(&mut history)? {
                Admitted::New => new.push(entry),
                Admitted::Known => {}
            }
        }
        if let Err(error) = self.write(&new) {
            let reason = format!("{}; publish again when that is mended", with_causes(&error));
            self.halt_for(Cause::Write, &reason);
            return Err(error);
        }
        *self.history.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(history);
        Ok(())
    }

    /// The statements that are signed by none of `counts`, but by an earlier key of this archive.
    ///
    /// # Errors
    /// [`JournalError`]: also for one that nobody signed who was ever believed here.
    pub fn of_earlier_keys(&self, counts: &TrustedKeys) -> Result<Vec<Entry>, JournalError> {
        let mut earlier = Vec::new();
        for item in self.list()? {
            let body = self.read(item)?;
            if body.open(counts).is_err() {
                earlier.push(Entry::open(body, &self.channel, &self.keys)?);
            }
        }
        Ok(earlier)
    }

    /// Puts statements in the place of the same ones with other signatures; returns when they are durable.
    ///
    /// The caller of [`Journal::append`] only.
    ///
    /// # Errors
    /// [`JournalError`]: each is as it was, or as it is to be.
    pub fn replace_signatures(&self, entries: &[Entry]) -> Result<(), JournalError> {
        for entry in entries {
            let there = self.read(entry.known.item())?;
            if there.signed().digest() != entry.known.statement() {
                return Err(JournalError::Bad {
                    path: self.path_of(entry.known.item()),
                    reason: "it is another statement than the one that was signed again".to_owned(),
                });
            }
        }
        self.write(&entries.iter().collect::<Vec<_>>())
    }

    /// Reads one statement back.
    ///
    /// # Errors
    /// [`JournalError`]: also when the file is not there.
    pub fn read(&self, item: Item) -> Result<EventBody, JournalError> {
        let path = self.path_of(item);
        let bytes = read_bounded(&path)?;
        let signed = Signed::from_signify(&bytes);
        let signed = signed.map_err(|error| JournalError::Bad {
            path,
            reason: error.to_string(),
        })?;
        Ok(match item {
            Item::Snapshot(_) => EventBody::Snapshot(signed),
            Item::Retraction(_) => EventBody::Retraction(signed),
        })
    }

    fn path_of(&self, item: Item) -> PathBuf {
        self.dir.join(file_name(item))
    }

    /// Reads everything. What is not accepted halts the channel.
    fn load(&self) -> Result<(), JournalError> {
        let mut history = History::default();
        let loaded = self.list().and_then(|items| {
            let mut items = items.into_iter();
            items.try_for_each(|item| self.load_one(item, &mut history))
        });
        if let Err(error @ JournalError::Io { .. }) = loaded {
            return Err(error);
        }
        // What connects is kept, so that it can still be served.
        *self.history.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(history);
        if let Err(error) = loaded {
            self.halt(&error.to_string());
        }
        Ok(())
    }

    /// What there are files of, in order; what was begun and not named is removed.
    fn list(&self) -> Result<Vec<Item>, JournalError> {
        let mut items = Vec::new();
        for file in fs::read_dir(&self.dir).map_err(|e| failed("read", &self.dir, e))? {
            let file = file.map_err(|e| failed("read", &self.dir, e))?;
            let name = file.file_name();
            if name.as_encoded_bytes().starts_with(b".new-") {
                fs::remove_file(file.path()).map_err(|e| failed("remove", &file.path(), e))?;
                continue;
            }
            let item = name.to_str().and_then(parse_name);
            let unknown = || JournalError::Bad {
                path: file.path(),
                reason: "no file of the journal".to_owned(),
            };
            items.push(item.ok_or_else(unknown)?);
        }
        items.sort_unstable();
        Ok(items)
    }

    fn load_one(&self, item: Item, history: &mut History) -> Result<(), JournalError> {
        let bad = |reason: String| JournalError::Bad {
            path: self.path_of(item),
            reason,
        };
        let entry = Entry::open(self.read(item)?, &self.channel, &self.keys);
        let entry = entry.map_err(|error| bad(with_causes(&error)))?;
        if entry.known.item() != item {
            return Err(bad(format!("it is {}", entry.known.item())));
        }
        entry
            .known
            .admit(history)
            .map_err(|error| bad(error.to_string()))?;
        Ok(())
    }

    /// Writes all files under temporary names, syncs them, renames them in order, syncs the folder.
    fn write(&self, entries: &[&Entry]) -> Result<(), JournalError> {
        let mut written = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = file_name(entry.known.item());
            let path = self.dir.join(&name);
            let new = self.dir.join(format!(".new-{name}"));
            let comment = format!("mirrorlog {} {}", self.channel, entry.known.item());
            let mut file = File::create(&new).map_err(|e| failed("make", &new, e))?;
            let bytes = entry.body.signed().to_signify(&comment);
            file.write_all(&bytes)
                .map_err(|e| failed("write", &new, e))?;
            file.sync_all().map_err(|e| failed("sync", &new, e))?;
            written.push((new, path));
        }
        for (new, path) in &written {
            fs::rename(new, path).map_err(|e| failed("rename", new, e))?;
        }
        if written.is_empty() {
            Ok(())
        } else {
            sync_dir(&self.dir)
        }
    }
}

fn file_name(item: Item) -> String {
    match item {
        Item::Snapshot(build) => format!("{:020}.snapshot", build.get()),
        Item::Retraction(sequence) => format!("r{sequence:010}.retraction"),
    }
}

fn parse_name(name: &str) -> Option<Item> {
    let item = if let Some(build) = name.strip_suffix(".snapshot") {
        Item::Snapshot(Build::new(build.parse().ok()?)?)
    } else {
        Item::Retraction(
            name.strip_prefix('r')?
                .strip_suffix(".retraction")?
                .parse()
                .ok()?,
        )
    };
    (file_name(item) == name).then_some(item)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, JournalError> {
    let size_bytes = fs::metadata(path)
        .map_err(|e| failed("read", path, e))?
        .len();
    if size_bytes > FILE_MAX_BYTES {
        let reason = format!("{size_bytes} bytes, at most {FILE_MAX_BYTES} are allowed");
        return Err(JournalError::Bad {
            path: path.to_owned(),
            reason,
        });
    }
    fs::read(path).map_err(|e| failed("read", path, e))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| failed("sync", dir, e))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// An error and its causes on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
