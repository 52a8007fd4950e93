//! How one file comes from one source into a part.

use std::path::Path;
use std::time::Instant;

use mirrorlog_core::client::climb::{Answer, SourceIndex};
use mirrorlog_core::client::speed::Transfer;
use mirrorlog_core::url::encode_path;
use reqwest::header::{AGE, CONTENT_RANGE};
use reqwest::{Response, StatusCode};

use crate::part::Part;
use crate::pin::{Pinned, WantedFile, shown};
use crate::session::Trouble;
use crate::source::{Mirror, Source, broken, named_digest};
use crate::tail::{PARALLEL_ABOVE_BYTES, Tail};
use crate::watch::{Event, Watch};

/// Fewest bytes that count as progress: whoever drips is as good as silent. Over the time after which a source is left.
const PROGRESS_BYTES: u64 = 4096;

/// Whether other mirrors bring parts of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Helpers {
    Asked,
    Left,
}

/// One file from one source.
pub(crate) struct Coming<'a> {
    pub(crate) pinned: &'a Pinned,
    pub(crate) index: SourceIndex,
    pub(crate) file: &'a WantedFile,
    pub(crate) watch: &'a dyn Watch,
}

impl Coming<'_> {
    /// Brings what is missing, and checks the whole; says how it came.
    pub(crate) async fn bring(&self, part: &mut Part) -> Result<Transfer, Trouble> {
        let had = part.at();
        let transfer = self.once(part, Helpers::Asked).await?;
        if part.digest() == self.file.entry.digest {
            return Ok(transfer);
        }
        let all_from_here = had == 0 && part.given_from() == 0;
        if all_from_here {
            return self.corrupt(part);
        }
        part.restart()?;
        // Others gave a part of it, which may be what is wrong.
        let transfer = self.once(part, Helpers::Left).await?;
        if part.digest() == self.file.entry.digest {
            return Ok(transfer);
        }
        self.corrupt(part)
    }

    fn corrupt(&self, part: &mut Part) -> Result<Transfer, Trouble> {
        part.disown(self.index);
        part.restart()?;
        Err(Answer::Corrupt.into())
    }

    /// With helpers, or without when some bytes were found to be wrong.
    async fn once(&self, part: &mut Part, helpers: Helpers) -> Result<Transfer, Trouble> {
        let size_bytes = self.file.entry.size_bytes;
        let mut transfer = Transfer {
            bytes: 0,
            seconds: 0.0,
            cached: false,
        };
        if part.at() == size_bytes && size_bytes > 0 {
            return Ok(transfer);
        }
        match self.pinned.session.source(self.index) {
            Source::Universe(universe) => {
                let stall = self.pinned.session.inner.web.stall;
                // Under one name, so that the next run goes on with it.
                let mut dir = part.path().as_os_str().to_owned();
                dir.push(".archive");
                let dir = Path::new(&dir);
                let reached = |bytes| self.reached(bytes);
                let digest = self.file.entry.digest;
                let blob = universe
                    .blob(digest, size_bytes, dir, stall, reached)
                    .await?;
                part.restart()?;
                part.give(self.index);
                part.append(&blob)?;
                if let Err(error) = std::fs::remove_dir_all(dir) {
                    tracing::debug!(%error, dir = %dir.display(), "stays behind");
                }
            }
            Source::Mirror(mirror) => {
                let large = size_bytes - part.at() >= PARALLEL_ABOVE_BYTES;
                let others = self.pinned.session.helpers(self.index);
                if large && helpers == Helpers::Asked && !others.is_empty() {
                    let tail = Tail::new(part, size_bytes)?;
                    let front = async {
                        let brought = self.front(mirror, part, Some(&tail), &mut transfer).await;
                        tail.end();
                        brought
                    };
                    let (brought, ()) =
                        futures::join!(front, tail.help(self.pinned, self.file, others));
                    brought?;
                } else {
                    self.front(mirror, part, None, &mut transfer).await?;
                }
            }
        }
        Ok(transfer)
    }

    /// Brings what nobody else does, and takes what others brought, in order.
    async fn front(
        &self,
        mirror: &Mirror,
        part: &mut Part,
        tail: Option<&Tail>,
        transfer: &mut Transfer,
    ) -> Result<(), Trouble> {
        let size_bytes = self.file.entry.size_bytes;
        loop {
            self.stream(mirror, part, tail, transfer).await?;
            if let Some(tail) = tail {
                tail.drain(part).await?;
                self.reached(part.at());
            }
            if part.at() == size_bytes {
                return Ok(());
            }
        }
    }

    /// Bytes of one answer, as far as nobody else brings them.
    async fn stream(
        &self,
        mirror: &Mirror,
        part: &mut Part,
        tail: Option<&Tail>,
        transfer: &mut Transfer,
    ) -> Result<(), Trouble> {
        let size_bytes = self.file.entry.size_bytes;
        let limit = |at: u64| tail.map_or(size_bytes, |tail| tail.limit(at));
        let web = &self.pinned.session.inner.web;
        let path = encode_path(self.file.path.as_bytes());
        let range = (part.at() > 0).then_some((part.at(), None));
        let what = (self.pinned.channel(), self.pinned.build(), path.as_str());
        let begun = Instant::now();
        part.give(self.index);
        let mut answer = mirror.open(web, what, range).await?;
        self.check(&answer, part)?;
        transfer.cached |= from_cache(&answer);
        let mut pace = Pace::new();
        loop {
            let until = limit(part.at());
            if part.at() >= until && part.at() < size_bytes {
                break;
            }
            let next = tokio::time::timeout(web.stall, answer.chunk()).await;
            let chunk = match next {
                Err(_nothing_came) => return Err(Answer::Stalled.into()),
                Ok(Err(error)) => return Err(broken(&error).into()),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => chunk,
            };
            if part.at() + chunk.len() as u64 > size_bytes {
                part.disown(self.index);
                part.restart()?;
                return Err(Answer::Corrupt.into());
            }
            let mine = usize::try_from(limit(part.at()) - part.at()).unwrap_or(usize::MAX);
            let mine = &chunk[..chunk.len().min(mine)];
            part.write(mine)?;
            transfer.bytes += mine.len() as u64;
            if let Some(tail) = tail {
                tail.came(mine.len() as u64);
            }
            self.reached(part.at());
            if part.at() < size_bytes && pace.is_too_slow(chunk.len() as u64, web.stall) {
                return Err(Answer::Stalled.into());
            }
        }
        transfer.seconds += begun.elapsed().as_secs_f64();
        if part.at() < limit(part.at()) {
            return Err(Answer::Unreachable.into());
        }
        Ok(())
    }

    /// Compares what the answer says of itself before a byte is taken, or given up.
    fn check(&self, answer: &Response, part: &mut Part) -> Result<(), Trouble> {
        let entry = &self.file.entry;
        // 1. It names another content.
        if named_digest(answer).is_some_and(|digest| digest != entry.digest) {
            return Err(Answer::Corrupt.into());
        }
        match answer.status() {
            // 2. All of it, as a server without ranges gives it too; of another length it is something else.
            StatusCode::OK => {
                if answer
                    .content_length()
                    .is_some_and(|length| length != entry.size_bytes)
                {
                    return Err(Answer::Corrupt.into());
                }
                if part.at() > 0 {
                    part.restart()?;
                    part.give(self.index);
                }
                Ok(())
            }
            // 3. From there on; it may end early.
            StatusCode::PARTIAL_CONTENT => match given_range(answer, entry.size_bytes) {
                Some((from, _)) if from == part.at() => Ok(()),
                Some(_) | None => Err(Answer::Corrupt.into()),
            },
            _other => Err(Answer::Refused.into()),
        }
    }

    fn reached(&self, bytes: u64) {
        let path = shown(self.file.path.as_bytes());
        self.watch.tell(Event::Reached { path: &path, bytes });
    }
}

/// The bytes that a partial answer brings, when they are of a file of that size (RFC 9110, 14.4): from, and the end.
pub(crate) fn given_range(answer: &Response, size_bytes: u64) -> Option<(u64, u64)> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let range = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (bounds, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = bounds.split_once('-')?;
    let (from, end) = (
        first.parse::<u64>().ok()?,
        last.parse::<u64>().ok()?.checked_add(1)?,
    );
    let fits = from < end && end <= size_bytes && (whole == "*" || whole.parse() == Ok(size_bytes));
    let long = answer
        .content_length()
        .is_none_or(|length| length == end - from);
    (fits && long).then_some((from, end))
}

/// A cache in between says so: by its age (RFC 9111), or by a header that caches are wont to write.
pub(crate) fn from_cache(answer: &Response) -> bool {
    let text = |name: &str| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let aged = text(AGE.as_str()).and_then(|age| age.trim().parse::<u64>().ok());
    let hit = text("x-cache").is_some_and(|said| said.to_ascii_uppercase().contains("HIT"));
    aged.is_some_and(|age| age > 0) || hit
}

/// Whether enough comes.
pub(crate) struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
        }
    }

    pub(crate) fn is_too_slow(&mut self, bytes: u64, over: std::time::Duration) -> bool {
        self.bytes += bytes;
        if self.since.elapsed() < over {
            return false;
        }
        let slow = self.bytes < PROGRESS_BYTES;
        *self = Self::new();
        slow
    }
}
