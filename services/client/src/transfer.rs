//! How one file comes from one source into a part.
//!
//! When a source is left for being slow, each window being [`stall`](crate::Options::stall) long, 10 s usually, and the
//! first one beginning with the question:
//!
//! 1. Fewer than [`PROGRESS_BYTES`](crate::source::PROGRESS_BYTES) in a window and not at the end: it is as good as
//!    silent, whoever else there is.
//! 2. Fewer than [`LITTLE_BYTES_PER_S`] over a window, and another mirror that was not tried, or was twice as fast: that
//!    one goes on where this one stopped. Nothing is lost, so behind a slow link, where all are alike, each mirror is
//!    tried for a window and the fastest then has the time that it needs.

use std::time::Instant;

use fetcher::web::TooSlow;
use mirrorlog_core::client::climb::{Answer, Rival, SourceIndex};
use mirrorlog_core::client::speed::Transfer;
use mirrorlog_core::url::encode_path;
use reqwest::header::{AGE, CONTENT_RANGE};
use reqwest::{Response, StatusCode};
use runtime::beneath::anchor;

use crate::part::Part;
use crate::pin::{Pinned, WantedFile, shown};
use crate::session::Trouble;
use crate::source::{Mirror, Source, broken, named_digest};
use crate::tail::{PARALLEL_ABOVE_BYTES, Tail};
use crate::watch::{Event, Watch};

/// Whoever gives less gives way to others, if there are any.
const LITTLE_BYTES_PER_S: u64 = 64 * 1024;

/// Who brought the front of a file, and how that came.
pub(crate) type Brought = (SourceIndex, Transfer);

const NOTHING: Transfer = Transfer {
    bytes: 0,
    seconds: 0.0,
    cached: false,
};

/// Whether other mirrors bring parts of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Helpers {
    Asked,
    Left,
}

/// One file from one source.
#[derive(Clone, Copy)]
pub(crate) struct Coming<'a> {
    pub(crate) pinned: &'a Pinned,
    pub(crate) index: SourceIndex,
    /// Who else there is.
    pub(crate) rival: Rival,
    pub(crate) file: &'a WantedFile,
    pub(crate) watch: &'a dyn Watch,
}

impl Coming<'_> {
    /// Brings what is missing, and checks the whole; says who brought the front of it, and how that came.
    pub(crate) async fn bring(&self, part: &mut Part) -> Result<Brought, Trouble> {
        let had = part.at();
        let brought = self.once(part, Helpers::Asked).await?;
        if part.digest() == self.file.entry.digest {
            return Ok(brought);
        }
        let all_from_here = had == 0 && part.given_from() == 0;
        if all_from_here {
            return self.corrupt(part);
        }
        part.restart()?;
        // Others gave a part of it, which may be what is wrong.
        let brought = self.once(part, Helpers::Left).await?;
        if part.digest() == self.file.entry.digest {
            return Ok(brought);
        }
        self.corrupt(part)
    }

    fn corrupt(&self, part: &mut Part) -> Result<Brought, Trouble> {
        part.disown(self.index);
        part.restart()?;
        Err(Answer::Corrupt.into())
    }

    /// With helpers, or without when some bytes were found to be wrong.
    async fn once(&self, part: &mut Part, helpers: Helpers) -> Result<Brought, Trouble> {
        let size_bytes = self.file.entry.size_bytes;
        let (mut front, mut transfer) = (self.index, NOTHING);
        if part.at() == size_bytes && size_bytes > 0 {
            return Ok((front, transfer));
        }
        match self.pinned.session.source(self.index) {
            Source::Universe(universe) => {
                let stall = self.pinned.session.inner.web.stall;
                // Under one name, so that the next run goes on with it.
                let name = [part.place().name(), b".archive"].concat();
                let place = part.place().beside(&name);
                let place = place.map_err(|error| part.failed(error))?;
                let open = place.own_folder();
                let open = open.map_err(|error| part.failed(error))?;
                let dir = anchor(&open);
                let reached = |bytes| self.reached(bytes);
                let digest = self.file.entry.digest;
                let blob = universe
                    .blob(digest, size_bytes, &dir, stall, reached)
                    .await?;
                part.restart()?;
                part.give(self.index);
                part.append(&blob)?;
                if let Err(error) = place.remove_all() {
                    tracing::debug!(%error, dir = %place.path().display(), "stays behind");
                }
            }
            Source::Mirror(mirror) => {
                let large = size_bytes - part.at() >= PARALLEL_ABOVE_BYTES;
                let others = self.pinned.session.helpers(self.index);
                if large && helpers == Helpers::Asked && !others.is_empty() {
                    let tail = Tail::new(part, size_bytes)?;
                    let bringing = async {
                        let brought = self.fronts(part, &tail, &others, &mut transfer).await;
                        tail.end();
                        brought
                    };
                    let help = tail.help(self.pinned, self.file, others.clone());
                    let (brought, ()) = futures::join!(bringing, help);
                    front = brought?;
                } else {
                    self.front(mirror, part, None, &mut transfer).await?;
                }
            }
        }
        Ok((front, transfer))
    }

    /// The front of a large file, from one of the helpers when this source stalls or breaks off: what helpers have brought
    /// meanwhile is not lost.
    async fn fronts(
        &self,
        part: &mut Part,
        tail: &Tail,
        others: &[SourceIndex],
        transfer: &mut Transfer,
    ) -> Result<SourceIndex, Trouble> {
        let mut others = others.iter();
        let rival = Rival::among(others.clone().map(|_| None));
        let mut coming = Self { rival, ..*self };
        loop {
            let Source::Mirror(mirror) = self.pinned.session.source(coming.index) else {
                return Err(Answer::Missing.into());
            };
            let failed = match coming.front(mirror, part, Some(tail), transfer).await {
                Ok(()) => return Ok(coming.index),
                Err(Trouble::Answer(failed)) => failed,
                Err(local) => return Err(local),
            };
            let passing = match failed {
                Answer::Stalled | Answer::Slow(_) | Answer::Unreachable => others.next(),
                Answer::Missing
                | Answer::Older
                | Answer::Newer(_)
                | Answer::Retracted
                | Answer::Corrupt
                | Answer::Refused => None,
            };
            let Some(next) = passing else {
                return Err(failed.into());
            };
            self.pinned
                .session
                .blame(coming.index, self.pinned.build(), failed);
            let rival = Rival::among(others.clone().map(|_| None));
            *transfer = NOTHING;
            coming = Self {
                index: *next,
                rival,
                ..*self
            };
        }
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
        let mut pace = web.pace();
        let mut answer = mirror.open(web, what, range).await?;
        self.check(&answer, part)?;
        transfer.cached |= from_cache(&answer);
        loop {
            let until = limit(part.at());
            if part.at() >= until && part.at() < size_bytes {
                break;
            }
            let chunk = match pace.wait(answer.chunk()).await {
                Err(TooSlow(_)) => return Err(Answer::Stalled.into()),
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
            pace.came(chunk.len());
            let speed = pace.take_last().filter(|_| part.at() < size_bytes);
            if let Some(speed) = speed.filter(|speed| self.gives_little(*speed, tail)) {
                return Err(Answer::Slow(speed).into());
            }
        }
        transfer.seconds += begun.elapsed().as_secs_f64();
        if part.at() < limit(part.at()) {
            return Err(Answer::Unreachable.into());
        }
        Ok(())
    }

    /// Beside helpers, who take their share of the link, a front is slow only when they have nothing left to do.
    fn gives_little(&self, bytes_per_s: u64, tail: Option<&Tail>) -> bool {
        let alone = tail.is_none_or(Tail::is_quiet);
        alone && bytes_per_s < LITTLE_BYTES_PER_S && self.rival.beats(bytes_per_s)
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
