//! Sends a tree: its entries, then what of their content the archive lacks. Blocks.

use std::fs::File;
use std::io::Read as _;
use std::time::Instant;

use bytes::Bytes;
use mirrorlog_core::manifest::{self, Entry};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::Change;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use wire::v1::content::Piece;
use wire::v1::submit_reply::Kind as Reply;
use wire::v1::submit_request::{End, Kind as Asking};
use wire::v1::{Content, Entries, Lacking, SubmitReply, SubmitRequest, Submitted};
use wire::{delta, v1};

use super::client::Channel;
use super::delta::Listed;
use super::error::{PublishError, manifest_error};
use super::fault::{Fault, Faults, Rule};
use super::prepare::{Job, prepare_in};
use super::progress::{Counters, Phase};
use super::remote::since;
use super::workspace::{Purpose, Workspace};
use super::{PublishConfig, PublishRequest, Seconds};
use crate::scan::{ScanInput, Tree, means_changed};

/// Entries of one message, and bytes of their paths and targets, about.
const ENTRIES_MAX: usize = 1024;
const ENTRIES_MAX_BYTES: usize = 128 * 1024;
/// Content of one message: pieces, and bytes of them, about.
const PIECES_MAX: usize = 64;
const PIECE_BYTES: usize = 256 * 1024;

/// What was published.
pub(super) struct Sent {
    pub(super) submitted: Submitted,
    pub(super) seconds: Seconds,
    pub(super) files_read: u64,
    pub(super) empty_folders: u64,
    /// Content that was sent.
    pub(super) bytes: u64,
}

/// A submission under way, for a thread that blocks.
pub(super) struct Line {
    to: mpsc::Sender<SubmitRequest>,
    from: Streaming<SubmitReply>,
    runtime: Handle,
}

impl Line {
    pub(super) fn new(
        to: mpsc::Sender<SubmitRequest>,
        from: Streaming<SubmitReply>,
        runtime: Handle,
    ) -> Self {
        Self { to, from, runtime }
    }

    /// Says something. When the archive has ended the call, what it said then is what counts.
    fn say(&mut self, kind: Asking) -> Result<(), Ended> {
        let request = SubmitRequest { kind: Some(kind) };
        match self.to.blocking_send(request) {
            Ok(()) => Ok(()),
            Err(_closed) => match self.hear()? {
                Reply::Lacking(_) => Err(out_of_turn()),
                Reply::Submitted(_) => Err(out_of_turn()),
                Reply::Refused(refused) => Err(Ended::Refused(refused)),
            },
        }
    }

    fn hear(&mut self) -> Result<Reply, Ended> {
        let message = self.runtime.block_on(self.from.message())?;
        message
            .and_then(|reply| reply.kind)
            .ok_or_else(|| Ended::Status(Status::unknown("the archive ended without an answer")))
    }
}

fn out_of_turn() -> Ended {
    Ended::Status(Status::unknown("the archive answers out of turn"))
}

/// Why a submission ended early.
enum Ended {
    Status(Status),
    Refused(v1::Refused),
    Here(PublishError),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<PublishError> for Ended {
    fn from(error: PublishError) -> Self {
        Self::Here(error)
    }
}

/// Scans and checks the tree, then opens the line and sends it.
pub(super) fn send(
    config: &PublishConfig,
    request: &PublishRequest,
    channel: &Channel,
    listed: bool,
    counters: &Counters,
    open: impl FnOnce() -> Result<Line, PublishError>,
    failed: impl Fn(Status) -> PublishError,
) -> Result<Sent, PublishError> {
    let begun = Instant::now();
    let tree = Tree::open(&request.tree).map_err(|e| PublishError::tree(&request.tree, e))?;
    let scratch = config.state_dir.join("scratch").join(channel.id.as_str());
    let workspace = Workspace::open(&config.store_dir, &scratch, Purpose::Elsewhere)?;
    let found = match (&request.changed, listed) {
        (Some(paths), true) => look(config, request, channel, &tree, &workspace, paths, counters)?,
        (Some(_) | None, _) => {
            let job = Job {
                config,
                request: &PublishRequest {
                    changed: None,
                    ..request.clone()
                },
                channel,
                counters,
            };
            let prepared = prepare_in(&job, &tree, &workspace)?;
            Found::Whole {
                root: prepared.first().summary.root,
                empty_folders: prepared.empty_folders,
            }
        }
    };
    let mut seconds = Seconds {
        scan: since(begun),
        ..Seconds::default()
    };
    counters.enter(Phase::Send);
    let begun = Instant::now();
    let mut sender = Sender {
        line: open()?,
        tree: &tree,
        counters,
    };
    let empty_folders = match &found {
        Found::Whole { empty_folders, .. } => *empty_folders,
        Found::Listed(_) => 0,
    };
    let ended = |ended| match ended {
        Ended::Status(status) => failed(status),
        Ended::Here(error) => error,
        Ended::Refused(refused) => refusal(request, refused),
    };
    sender.all(&workspace, found).map_err(ended)?;
    seconds.ingest = since(begun);
    counters.enter(Phase::Commit);
    let begun = Instant::now();
    let submitted = sender.end().map_err(ended)?;
    seconds.publish = since(begun);
    Ok(Sent {
        submitted,
        seconds,
        files_read: counters.files_read(),
        empty_folders,
        bytes: counters.bytes_sent(),
    })
}

/// What is to be sent.
enum Found {
    Whole {
        root: mirrorlog_core::id::Digest,
        empty_folders: u64,
    },
    Listed(Listed),
}

fn look(
    config: &PublishConfig,
    request: &PublishRequest,
    channel: &Channel,
    tree: &Tree,
    workspace: &Workspace,
    paths: &[Vec<u8>],
    counters: &Counters,
) -> Result<Found, PublishError> {
    counters.enter(Phase::Scan);
    let cache = config
        .state_dir
        .join("scan")
        .join(format!("{}.cache", channel.id));
    let input = ScanInput {
        tree,
        workspace,
        select: &|_path| true,
        cache: &cache,
        published: None,
        counters,
    };
    let mut faults = Faults::default();
    let batch = workspace.store().batch();
    let listed = Listed::look(&input, &batch, paths, &mut faults)?;
    listed.recheck(&input, &mut faults)?;
    if faults.is_empty() {
        return Ok(Found::Listed(listed));
    }
    let tree = request.tree.clone();
    Err(PublishError::Refused { tree, faults })
}

fn refusal(request: &PublishRequest, refused: v1::Refused) -> PublishError {
    let mut faults = Faults::default();
    for fault in refused.faults {
        faults.push(Fault {
            path: fault.path,
            what: Rule::named(&fault.rule),
            expected: fault.expected,
            found: fault.found,
        });
    }
    faults.counted(refused.count);
    match refused.wanted {
        0 => PublishError::Refused {
            tree: request.tree.clone(),
            faults,
        },
        wanted => PublishError::NotSeparable { wanted, faults },
    }
}

struct Sender<'a> {
    line: Line,
    tree: &'a Tree,
    counters: &'a Counters,
}

impl Sender<'_> {
    fn all(&mut self, workspace: &Workspace, found: Found) -> Result<(), Ended> {
        match found {
            Found::Whole { root, .. } => {
                let entries = manifest::iter(workspace, &root, b"", None);
                let entries = entries.map(|found| match found {
                    Ok((_ordinal, path, entry)) => Ok((path, entry)),
                    Err(error) => Err(manifest_error(error)),
                });
                self.entries(entries)
            }
            Found::Listed(listed) => {
                let (scopes, present) = listed.into_told();
                let (mut listed, mut bytes) = (Vec::new(), 0);
                for path in scopes {
                    bytes += path.as_bytes().len();
                    listed.push(Bytes::copy_from_slice(path.as_bytes()));
                    if listed.len() >= ENTRIES_MAX || bytes >= ENTRIES_MAX_BYTES {
                        self.some(Vec::new(), std::mem::take(&mut listed))?;
                        bytes = 0;
                    }
                }
                if !listed.is_empty() {
                    self.some(Vec::new(), listed)?;
                }
                self.entries(present.into_iter().map(Ok))
            }
        }
    }

    fn entries(
        &mut self,
        entries: impl Iterator<Item = Result<(EntryPath, Entry), PublishError>>,
    ) -> Result<(), Ended> {
        let (mut some, mut bytes) = (Vec::with_capacity(ENTRIES_MAX), 0);
        for found in entries {
            let (path, entry) = found?;
            bytes += path.as_bytes().len() + 64;
            if let Entry::Symlink { target } = &entry {
                bytes += target.len();
            }
            some.push(Change {
                path,
                new: Some(entry),
            });
            if some.len() >= ENTRIES_MAX || bytes >= ENTRIES_MAX_BYTES {
                self.some(std::mem::take(&mut some), Vec::new())?;
                bytes = 0;
            }
        }
        match some.is_empty() {
            true => Ok(()),
            false => self.some(some, Vec::new()),
        }
    }

    /// One message of entries, and what is lacking of them.
    fn some(&mut self, found: Vec<Change>, listed: Vec<Bytes>) -> Result<(), Ended> {
        self.line.say(Asking::Entries(Entries {
            found: Some(delta::to_proto(&found)),
            listed,
        }))?;
        loop {
            let lacking = match self.line.hear()? {
                Reply::Lacking(lacking) => lacking,
                Reply::Refused(refused) => return Err(Ended::Refused(refused)),
                Reply::Submitted(_) => return Err(out_of_turn()),
            };
            self.content(&found, &lacking)?;
            if !lacking.more {
                return Ok(());
            }
        }
    }

    fn content(&mut self, found: &[Change], lacking: &Lacking) -> Result<(), Ended> {
        let mut pieces = Vec::new();
        let mut bytes = 0;
        for lack in &lacking.files {
            let asked = usize::try_from(lack.position)
                .ok()
                .and_then(|position| found.get(position));
            let Some((path, file)) = asked.and_then(|change| {
                let file = change.new.as_ref()?.file()?;
                Some((&change.path, file))
            }) else {
                return Err(out_of_turn());
            };
            let mut content = self.open(path, lack.offset)?;
            let mut left = file.size_bytes.saturating_sub(lack.offset);
            loop {
                let data = self.read(path, &mut content, left)?;
                left = left.saturating_sub(data.len() as u64);
                // A file that has become shorter ends here, and the archive says so.
                let last = left == 0 || data.is_empty();
                bytes += data.len();
                self.counters.sent(data.len() as u64);
                pieces.push(Piece { data, last });
                if bytes >= PIECE_BYTES || pieces.len() >= PIECES_MAX {
                    let full = std::mem::take(&mut pieces);
                    self.line.say(Asking::Content(Content { pieces: full }))?;
                    bytes = 0;
                }
                if last {
                    break;
                }
            }
        }
        match pieces.is_empty() {
            true => Ok(()),
            false => self.line.say(Asking::Content(Content { pieces })),
        }
    }

    fn open(&self, path: &EntryPath, offset: u64) -> Result<File, PublishError> {
        use std::io::{Seek as _, SeekFrom};
        let opened = self.tree.file(path.as_bytes()).and_then(|(mut file, _)| {
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        });
        opened.map_err(|error| self.failed(path, error))
    }

    fn read(&self, path: &EntryPath, file: &mut File, left: u64) -> Result<Bytes, PublishError> {
        let most = left.min(PIECE_BYTES as u64);
        let mut data = Vec::with_capacity(usize::try_from(most).unwrap_or(PIECE_BYTES));
        let read = file.take(most).read_to_end(&mut data);
        read.map_err(|error| self.failed(path, error))?;
        Ok(data.into())
    }

    fn failed(&self, path: &EntryPath, error: std::io::Error) -> PublishError {
        let tree = self.tree.path();
        if !means_changed(&error) {
            return PublishError::io(&tree.join(path.to_string()), "read", error);
        }
        let mut faults = Faults::default();
        faults.push(Fault::changed(path.as_bytes(), "nothing"));
        PublishError::Refused {
            tree: tree.to_owned(),
            faults,
        }
    }

    fn end(mut self) -> Result<Submitted, Ended> {
        self.line.say(Asking::End(End {}))?;
        match self.line.hear()? {
            Reply::Submitted(submitted) => Ok(submitted),
            Reply::Refused(refused) => Err(Ended::Refused(refused)),
            Reply::Lacking(_) => Err(out_of_turn()),
        }
    }
}
