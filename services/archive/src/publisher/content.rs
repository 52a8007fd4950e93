//! Content that comes from a publisher: what the store lacks, no more than was said, checked by its digest.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use bytes::Bytes;
use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{Entry, FileEntry};
use mirrorlog_core::path::EntryPath;
use runtime::boot::ByteSize;
use runtime::store::{Batch, Partial, Store, StoreError};
use tonic::Status;
use wire::v1;
use wire::v1::content::Piece;
use wire::v1::submit_request::Kind as Request;

use super::failed::Failed;
use super::receive::lacking;
use super::talk::Talk;
use super::visitors::{Room, Visitors};
use crate::daemon::Daemon;
use crate::publish::{Fault, Faults, PublishError, Rule};

/// Files up to this size are held in memory until they are whole; larger ones are written as they come, and resumed.
const HELD_MAX_BYTES: u64 = 1 << 20;
/// Larger ones that are open at a time.
const LARGE_AT_ONCE: usize = 16;
/// Files, or bytes of them, after which they are made durable.
const BATCH_FILES: usize = 16 * 1024;
const BATCH_BYTES: u64 = 128 << 20;
/// Finished large files that are held open until then.
const BATCH_LARGE: usize = 64;

/// What is taken in for one submission.
pub(super) struct Intake {
    store: Store,
    visitors: Visitors,
    /// Whose partial files are gone on with.
    publisher: String,
    batch: Batch,
    /// Sizes of what is in the batch.
    sizes: HashMap<Digest, u64>,
    large: usize,
    batch_bytes: u64,
    /// What may still come: content, and pages of the manifest.
    left_bytes: u64,
    /// False where content is neither asked for nor kept.
    takes: bool,
}

/// A file that is lacking.
struct Lack<'a> {
    position: u32,
    path: &'a EntryPath,
    file: FileEntry,
}

/// Where its bytes go.
enum Sink {
    Held(Vec<u8>),
    Large(Partial),
}

impl Intake {
    /// `max_bytes`: the most that may come. `takes`: false for a dry run.
    pub(super) fn new(daemon: &Daemon, publisher: &str, max_bytes: ByteSize, takes: bool) -> Self {
        let store = daemon.pages.store().clone();
        Self {
            batch: store.batch(),
            store,
            visitors: daemon.visitors.clone(),
            publisher: publisher.to_owned(),
            sizes: HashMap::new(),
            large: 0,
            batch_bytes: 0,
            left_bytes: max_bytes.0,
            takes,
        }
    }

    /// Makes durable what is left.
    pub(super) fn finish(self) -> Result<(), Failed> {
        Ok(self.batch.commit()?)
    }

    /// Room for what is about to be written.
    pub(super) fn spend(&mut self, bytes: u64) -> Result<Room, Failed> {
        let left = self.left_bytes.checked_sub(bytes).ok_or_else(|| {
            Status::invalid_argument(
                "there is more that is new than publish.max_size of the archive's configuration allows",
            )
        })?;
        self.left_bytes = left;
        self.visitors.room(&self.store, bytes)
    }

    /// Which of these files are lacking. One that has another size elsewhere is a fault.
    fn lacking<'a>(&self, found: &'a [(EntryPath, Entry)]) -> Result<VecDeque<Lack<'a>>, Failed> {
        let (mut lacking, mut asked) = (VecDeque::new(), HashMap::new());
        let mut faults = Faults::default();
        if !self.takes {
            return Ok(lacking);
        }
        for (position, (path, entry)) in found.iter().enumerate() {
            let Some(&file) = entry.file() else { continue };
            let (known, is_new) = match asked.get(&file.digest) {
                Some(size) => (Some(*size), false),
                None => (self.size(&file.digest)?, true),
            };
            match known {
                Some(size) if size != file.size_bytes => {
                    let expected = format!("the size of its content, {size} bytes");
                    let found = format!("{} bytes", file.size_bytes);
                    faults.push(Fault::new(path.as_bytes(), Rule::Size, expected, found));
                }
                None if is_new => {
                    asked.insert(file.digest, file.size_bytes);
                    let position = u32::try_from(position).unwrap_or(u32::MAX);
                    lacking.push_back(Lack {
                        position,
                        path,
                        file,
                    });
                }
                Some(_) | None => {}
            }
        }
        if faults.is_empty() {
            return Ok(lacking);
        }
        let tree = PathBuf::new();
        Err(PublishError::Refused { tree, faults }.into())
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>, Failed> {
        if let Some(size) = self.sizes.get(digest) {
            return Ok(Some(*size));
        }
        let size = self.store.size(digest)?;
        if size.is_some() {
            // Durable with the next commit, whoever has put it there.
            self.batch.has(digest)?;
        }
        Ok(size)
    }

    fn keep(&mut self, lack: &Lack<'_>, sink: Sink) -> Result<(), Failed> {
        let FileEntry {
            digest, size_bytes, ..
        } = lack.file;
        let wrong = |source| Failed::content(lack.path, source);
        match sink {
            Sink::Held(bytes) if bytes.len() as u64 != size_bytes => {
                let found_bytes = bytes.len() as u64;
                return Err(wrong(StoreError::Size {
                    digest,
                    expected_bytes: size_bytes,
                    found_bytes,
                }));
            }
            Sink::Held(bytes) => self.batch.put(&digest, &bytes).map_err(wrong)?,
            Sink::Large(partial) => {
                self.batch.adopt(partial.finish().map_err(wrong)?)?;
                self.large += 1;
            }
        }
        self.sizes.insert(digest, size_bytes);
        self.batch_bytes += size_bytes;
        if self.sizes.len() >= BATCH_FILES
            || self.batch_bytes >= BATCH_BYTES
            || self.large >= BATCH_LARGE
        {
            let full = std::mem::replace(&mut self.batch, self.store.batch());
            full.commit()?;
            self.sizes.clear();
            (self.batch_bytes, self.large) = (0, 0);
        }
        Ok(())
    }
}

/// Asks for what is lacking of these entries, and takes it in.
pub(super) fn take(
    talk: &mut Talk,
    intake: &mut Intake,
    found: &[(EntryPath, Entry)],
) -> Result<(), Failed> {
    let mut lacking_files = intake.lacking(found)?;
    loop {
        let some = open(intake, &mut lacking_files)?;
        let needed = some.iter().map(|(lack, sink)| match sink {
            Sink::Held(_) => lack.file.size_bytes,
            Sink::Large(partial) => lack.file.size_bytes.saturating_sub(partial.offset()),
        });
        let _room = intake.spend(needed.sum())?;
        let files = some.iter().map(|(lack, sink)| v1::LackingFile {
            position: lack.position,
            offset: match sink {
                Sink::Held(_) => 0,
                Sink::Large(partial) => partial.offset(),
            },
        });
        let more = !lacking_files.is_empty();
        talk.say(lacking(files.collect(), more))?;
        let mut pieces = Pieces::default();
        for (lack, sink) in some {
            let sink = fill(talk, &mut pieces, &lack, sink)?;
            intake.keep(&lack, sink)?;
        }
        if !pieces.0.is_empty() {
            return Err(Status::invalid_argument("content came that was not asked for").into());
        }
        if !more {
            return Ok(());
        }
    }
}

/// Opens the places of the first files, as many as may be open at a time.
fn open<'a>(
    intake: &Intake,
    lacking: &mut VecDeque<Lack<'a>>,
) -> Result<Vec<(Lack<'a>, Sink)>, Failed> {
    let (mut some, mut large) = (Vec::new(), 0);
    while large < LARGE_AT_ONCE
        && let Some(lack) = lacking.pop_front()
    {
        let FileEntry {
            digest, size_bytes, ..
        } = lack.file;
        let sink = if size_bytes <= HELD_MAX_BYTES {
            Sink::Held(Vec::new())
        } else {
            large += 1;
            let owner = &intake.publisher;
            let partial = Partial::open_of(&intake.store, &digest, size_bytes, owner)?;
            Sink::Large(partial)
        };
        some.push((lack, sink));
    }
    Ok(some)
}

/// Pieces that came with a message and belong to the next file.
#[derive(Default)]
struct Pieces(VecDeque<Piece>);

impl Pieces {
    fn next(&mut self, talk: &mut Talk) -> Result<Piece, Status> {
        loop {
            if let Some(piece) = self.0.pop_front() {
                return Ok(piece);
            }
            match talk.next()? {
                Request::Content(content) => self.0.extend(content.pieces),
                Request::Begin(_) | Request::Entries(_) | Request::End(_) => {
                    return Err(Status::invalid_argument(
                        "content was asked for, and something else came",
                    ));
                }
            }
        }
    }
}

/// Takes one file's bytes: never more than its entry says.
fn fill(
    talk: &mut Talk,
    pieces: &mut Pieces,
    lack: &Lack<'_>,
    mut sink: Sink,
) -> Result<Sink, Failed> {
    loop {
        let Piece { data, last } = pieces.next(talk)?;
        match &mut sink {
            Sink::Held(bytes) => {
                let come = (bytes.len() + data.len()) as u64;
                if come > lack.file.size_bytes {
                    let source = StoreError::Size {
                        digest: lack.file.digest,
                        expected_bytes: lack.file.size_bytes,
                        found_bytes: come,
                    };
                    return Err(Failed::content(lack.path, source));
                }
                bytes.extend_from_slice(&data);
            }
            Sink::Large(partial) => {
                write(partial, data).map_err(|source| Failed::content(lack.path, source))?
            }
        }
        if last {
            return Ok(sink);
        }
    }
}

fn write(partial: &mut Partial, data: Bytes) -> Result<(), StoreError> {
    if data.is_empty() {
        return Ok(());
    }
    partial.write(data)
}
