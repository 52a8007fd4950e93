//! One question of apt's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mirrorlog_core::client::climb::{Answer, Verdict};
use mirrorlog_core::id::{ChannelId, Digest};
use mirrorlog_core::time::Mtime;
use runtime::beneath::Place;
use sha2::{Digest as _, Sha512};
use tokio::sync::Mutex;

use super::message::Message;
use super::mounts::Wanted;
use super::run::Replies;
use crate::Client;
use crate::directory::{Channel, DirectoryError};
use crate::fetch::Durability;
use crate::part::digest_of;
use crate::pin::{FindError, PinError, Pinned, WantedFile};
use crate::session::Stop;
use crate::watch::{Event, Watch};

/// Builds before the pinned one in which a package is looked for.
const OLDER_BUILDS_MAX: usize = 16;

/// A failure of the directory or of all mirrors counts for the next questions too, for this long.
const FAILURE_LASTS: Duration = Duration::from_secs(5);

/// The last second of the year 9999.
const DATE_MAX_S: u64 = 253_402_300_799;

/// One directory in this run of apt.
pub(super) struct Site {
    client: Client,
    wait: Duration,
    channels: Mutex<Option<Arc<Vec<Channel>>>>,
    pins: Mutex<Vec<(ChannelId, Arc<Pin>)>>,
    older: Mutex<Vec<(ChannelId, Arc<Vec<Pinned>>)>>,
    /// What failed a moment ago, by channel; the list of channels without a name.
    failed: std::sync::Mutex<BTreeMap<String, (Instant, Failure)>>,
}

/// A channel's build in this run.
struct Pin {
    pinned: Pinned,
    /// True once something was given from it that apt knows by its name only: then no other build may stand in.
    named: AtomicBool,
}

/// What apt asks for.
struct Question<'a> {
    uri: &'a str,
    to: PathBuf,
    sha256: Option<Digest>,
    sha512: bool,
    max_bytes: Option<u64>,
    last_modified: Option<Mtime>,
}

/// What apt is told when it does not get it.
#[derive(Clone)]
pub(super) struct Failure {
    message: String,
    reason: &'static str,
    transient: bool,
}

impl Failure {
    pub(super) fn lasting(message: impl Into<String>, reason: &'static str) -> Self {
        Self {
            message: message.into(),
            reason,
            transient: false,
        }
    }

    fn passing(message: impl Into<String>, reason: &'static str) -> Self {
        Self {
            message: message.into(),
            reason,
            transient: true,
        }
    }

    pub(super) fn to_message(&self, uri: &str) -> Message {
        let message = Message::new(400, "URI Failure").with("URI", uri);
        let message = message
            .with("Message", &self.message)
            .with("FailReason", self.reason);
        if self.transient {
            message.with("Transient-Failure", "true")
        } else {
            message
        }
    }
}

impl Site {
    pub(super) fn new(client: Client, wait: Duration) -> Self {
        Self {
            client,
            wait,
            channels: Mutex::default(),
            pins: Mutex::default(),
            older: Mutex::default(),
            failed: std::sync::Mutex::default(),
        }
    }

    /// Answers one question, with as many messages as it takes.
    pub(super) async fn answer(
        &self,
        wanted: &Wanted,
        message: &Message,
        replies: &Replies,
    ) -> Result<(), Failure> {
        let question = Question::read(message)?;
        let watch = Told {
            replies,
            uri: question.uri,
        };
        let channels = self.channels(&watch).await?;
        let (ids, path) = wanted.find(&channels).ok_or_else(|| {
            let text = format!(
                "no channel is served at that path; {} serves {}",
                wanted.directory,
                mounts(&channels)
            );
            Failure::lasting(text, "HttpError404")
        })?;
        let mut begun = tokio::time::Instant::now();
        loop {
            match self.once(&question, &ids, path, &watch).await {
                Err(Unanswered::Wait(failure)) if begun.elapsed() >= self.wait => {
                    return Err(failure);
                }
                Err(Unanswered::Wait(_)) => self.pause(&mut begun, &watch).await,
                Err(Unanswered::Failed(failure)) => return Err(failure),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn once(
        &self,
        question: &Question<'_>,
        ids: &[&ChannelId],
        path: &[u8],
        watch: &Told<'_>,
    ) -> Result<(), Unanswered> {
        let mut absent = None;
        for id in ids {
            let pin = self.pin(id, watch).await?;
            match self.give(question, &pin, path, watch).await {
                Err(Miss::Absent(failure)) => absent = absent.or(Some(failure)),
                Err(Miss::Gone(stop)) => {
                    return self.without(question, &pin, path, stop, watch).await;
                }
                Err(Miss::Other(unanswered)) => return Err(unanswered),
                Ok(()) => return Ok(()),
            }
        }
        // A package of an index that apt got earlier.
        if question.sha256.is_some() {
            for id in ids {
                if self.search_older(question, id, path, watch).await? {
                    return Ok(());
                }
            }
        }
        let lasting = || Failure::lasting("404  Not Found", "HttpError404");
        Err(Unanswered::Failed(absent.unwrap_or_else(lasting)))
    }

    /// The build is held no longer, though this run began with it: what apt knows by digest may come from a newer one.
    async fn without(
        &self,
        question: &Question<'_>,
        pin: &Arc<Pin>,
        path: &[u8],
        stop: Stop,
        watch: &Told<'_>,
    ) -> Result<(), Unanswered> {
        let (channel, build) = (pin.pinned.channel(), pin.pinned.build());
        if question.sha256.is_none() && pin.named.load(Ordering::Relaxed) {
            let text = format!(
                "build {build} of {channel}, with which this run began, is gone ({stop}): run apt update again"
            );
            return Err(Unanswered::Failed(Failure::passing(text, "HttpError410")));
        }
        self.pins
            .lock()
            .await
            .retain(|(_, other)| !Arc::ptr_eq(other, pin));
        let anew = self.pin(channel, watch).await?;
        let given = if anew.pinned.build() == build {
            Err(Miss::Gone(stop))
        } else {
            self.give(question, &anew, path, watch).await
        };
        given.map_err(|miss| match miss {
            Miss::Absent(failure) => Unanswered::Failed(failure),
            Miss::Gone(stop) => {
                Unanswered::Failed(Failure::passing(stop.to_string(), "HttpError410"))
            }
            Miss::Other(unanswered) => unanswered,
        })
    }

    /// Gives the file of one build.
    async fn give(
        &self,
        question: &Question<'_>,
        pin: &Pin,
        path: &[u8],
        watch: &Told<'_>,
    ) -> Result<(), Miss> {
        let file = match pin.pinned.file(path, watch).await {
            Ok(file) => file,
            Err(error @ (FindError::Absent { .. } | FindError::Folder { .. })) => {
                let text = format!("404  Not Found: {error}");
                return Err(Miss::Absent(Failure::lasting(text, "HttpError404")));
            }
            Err(FindError::Stop(stop)) => return Err(miss(stop)),
            Err(error @ (FindError::Manifest { .. } | FindError::TooMany { .. })) => {
                return Err(Failure::lasting(runtime::chain(&error), "BadManifest").into());
            }
        };
        if question
            .sha256
            .is_some_and(|digest| digest != file.entry.digest)
        {
            let text = format!(
                "404  Not Found: build {} has other content there",
                pin.pinned.build()
            );
            return Err(Miss::Absent(Failure::lasting(text, "HttpError404")));
        }
        if question.sha256.is_none() {
            pin.named.store(true, Ordering::Relaxed);
        }
        self.transfer(question, &pin.pinned, &file, watch).await
    }

    async fn transfer(
        &self,
        question: &Question<'_>,
        pinned: &Pinned,
        file: &WantedFile,
        watch: &Told<'_>,
    ) -> Result<(), Miss> {
        let size_bytes = file.entry.size_bytes;
        let date = http_date(file.entry.mtime);
        if question.has_already(file) {
            std::fs::remove_file(&question.to).ok();
            let done = question.done(file, &date).with("IMS-Hit", "true");
            watch.replies.send(&done);
            return Ok(());
        }
        if question
            .max_bytes
            .is_some_and(|max_bytes| size_bytes > max_bytes)
        {
            let text = format!("the file has {size_bytes} bytes, more than apt allows");
            return Err(Failure::lasting(text, "MaximumSizeExceeded").into());
        }
        let had_bytes = std::fs::metadata(&question.to).map_or(0, |meta| meta.len());
        let start = Message::new(200, "URI Start")
            .with("URI", question.uri)
            .with("Size", size_bytes);
        let mut start = start.with("Last-Modified", &date);
        if had_bytes > 0 && had_bytes < size_bytes {
            start = start.with("Resume-Point", had_bytes);
        }
        watch.replies.send(&start);
        let place = Place::of(&question.to).map_err(|error| local(&question.to, &error.into()))?;
        pinned
            .fetch_part(file, &place, Durability::Left, watch)
            .await
            .map_err(miss)?;
        let mut done = question.done(file, &date);
        done = done
            .with("SHA256-Hash", file.entry.digest)
            .with("Checksum-FileSize-Hash", size_bytes);
        if question.sha512 {
            let digest = sha512(&question.to).map_err(|error| local(&question.to, &error))?;
            done = done.with("SHA512-Hash", digest);
        }
        // apt asks by this date the next time.
        let stamped = stamp(&question.to, file.entry.mtime);
        stamped.map_err(|error| local(&question.to, &error))?;
        watch.replies.send(&done);
        Ok(())
    }

    /// Looks for a digest at this path in builds before the pinned one.
    async fn search_older(
        &self,
        question: &Question<'_>,
        id: &ChannelId,
        path: &[u8],
        watch: &Told<'_>,
    ) -> Result<bool, Unanswered> {
        for pinned in self.older(id, watch).await?.iter() {
            let file = pinned.file(path, watch).await.ok();
            let Some(file) = file.filter(|file| Some(file.entry.digest) == question.sha256) else {
                continue;
            };
            return match self.transfer(question, pinned, &file, watch).await {
                Ok(()) => Ok(true),
                Err(Miss::Other(unanswered)) => Err(unanswered),
                Err(Miss::Absent(_) | Miss::Gone(_)) => continue,
            };
        }
        Ok(false)
    }

    /// Builds before the pinned one that mirrors hold, the newest first; looked for once a run.
    async fn older(
        &self,
        id: &ChannelId,
        watch: &Told<'_>,
    ) -> Result<Arc<Vec<Pinned>>, Unanswered> {
        let pin = self.pin(id, watch).await?;
        let mut known = self.older.lock().await;
        if let Some((_, older)) = known.iter().find(|(channel, _)| channel == id) {
            return Ok(Arc::clone(older));
        }
        let retained = pin.pinned.retained().await;
        let before = retained
            .into_iter()
            .rev()
            .filter(|build| *build < pin.pinned.build());
        let mut older = Vec::new();
        for build in before.take(OLDER_BUILDS_MAX) {
            older.extend(self.client.pin(id, Some(build), watch).await);
        }
        let older = Arc::new(older);
        known.push((id.clone(), Arc::clone(&older)));
        Ok(older)
    }

    /// The channel's build of this run; the first question decides.
    async fn pin(&self, id: &ChannelId, watch: &Told<'_>) -> Result<Arc<Pin>, Unanswered> {
        let mut pins = self.pins.lock().await;
        if let Some((_, pin)) = pins.iter().find(|(channel, _)| channel == id) {
            return Ok(Arc::clone(pin));
        }
        self.lately(id.as_str()).map_err(Unanswered::Failed)?;
        let mut asked = self.client.pin(id, None, watch).await;
        if let Err(PinError::Stop {
            source: Stop::Replan(to),
            build: Some(from),
            ..
        }) = &asked
        {
            asked = self.client.pin_newer(id, (*from, *to), watch).await;
        }
        let pinned = asked.map_err(|error| self.remember(id.as_str(), unpinned(error)))?;
        let pin = Arc::new(Pin {
            pinned,
            named: AtomicBool::new(false),
        });
        pins.push((id.clone(), Arc::clone(&pin)));
        Ok(pin)
    }

    async fn channels(&self, watch: &Told<'_>) -> Result<Arc<Vec<Channel>>, Failure> {
        let mut channels = self.channels.lock().await;
        if let Some(known) = &*channels {
            return Ok(Arc::clone(known));
        }
        self.lately("")?;
        let asked = self.client.0.directory.channels(watch).await;
        let known = asked.map_err(|error| {
            let failure = directory(&error);
            self.failed()
                .insert(String::new(), (Instant::now(), failure.clone()));
            failure
        });
        let known = Arc::new(known?);
        *channels = Some(Arc::clone(&known));
        Ok(known)
    }

    /// Fails as the same question did a moment ago: apt asks for many files, and each would wait anew.
    fn lately(&self, what: &str) -> Result<(), Failure> {
        match self.failed().get(what) {
            Some((at, failure)) if at.elapsed() < FAILURE_LASTS => Err(failure.clone()),
            Some(_) | None => Ok(()),
        }
    }

    fn remember(&self, what: &str, unanswered: Unanswered) -> Unanswered {
        if let Unanswered::Failed(failure) = &unanswered {
            self.failed()
                .insert(what.to_owned(), (Instant::now(), failure.clone()));
        }
        unanswered
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Instant, Failure)>> {
        self.failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells apt once a second that it waits.
    async fn pause(&self, begun: &mut tokio::time::Instant, watch: &Told<'_>) {
        const LOOK: Duration = Duration::from_secs(10);
        let until =
            tokio::time::Instant::now() + LOOK.min(self.wait.saturating_sub(begun.elapsed()));
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return;
            }
            let whole = self.wait.saturating_sub(begun.elapsed()).as_secs();
            watch.status(&format!(
                "Waiting for a build that no mirror has yet, {whole} s at most"
            ));
            tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        }
    }
}

impl<'a> Question<'a> {
    fn read(message: &'a Message) -> Result<Self, Failure> {
        let need = |name: &str| {
            let text = format!("apt's question has no {name}");
            message
                .get(name)
                .ok_or_else(|| Failure::lasting(text, "BadQuestion"))
        };
        Ok(Self {
            uri: need("URI")?,
            to: PathBuf::from(need("Filename")?),
            sha256: message
                .get("Expected-SHA256")
                .and_then(|hex| hex.parse().ok()),
            sha512: message.get("Expected-SHA512").is_some(),
            max_bytes: message
                .get("Maximum-Size")
                .and_then(|bytes| bytes.parse().ok())
                .filter(|bytes| *bytes > 0),
            last_modified: message.get("Last-Modified").and_then(mtime),
        })
    }

    fn done(&self, file: &WantedFile, date: &str) -> Message {
        let done = Message::new(201, "URI Done").with("URI", self.uri);
        let done = done.with("Filename", self.to.display());
        done.with("Size", file.entry.size_bytes)
            .with("Last-Modified", date)
    }

    /// True when apt has this very content from before: by its digest where apt's copy can be read, for two builds of
    /// one second have the same date; else by the date.
    fn has_already(&self, file: &WantedFile) -> bool {
        if self.last_modified != Some(file.entry.mtime) {
            return false;
        }
        // apt keeps what it has beside the folder of what is coming, under the same name.
        let kept = self
            .to
            .parent()
            .and_then(Path::parent)
            .zip(self.to.file_name());
        let kept = kept.map(|(folder, name)| folder.join(name));
        match kept.map(|kept| digest_of(&kept)) {
            Some(Ok(digest)) => digest == file.entry.digest,
            Some(Err(_)) | None => true,
        }
    }
}

/// Why a question is not answered yet.
enum Unanswered {
    /// Nobody has the build yet.
    Wait(Failure),
    Failed(Failure),
}

/// Why a build did not give it.
enum Miss {
    Absent(Failure),
    /// The build is gone.
    Gone(Stop),
    Other(Unanswered),
}

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        Self::Other(Unanswered::Failed(failure))
    }
}

fn miss(stop: Stop) -> Miss {
    match stop {
        Stop::Replan(_) | Stop::GaveUp(Verdict::Collected | Verdict::Retracted) => Miss::Gone(stop),
        Stop::Wait => Miss::Other(Unanswered::Wait(Failure::passing(
            stop.to_string(),
            "NotYet",
        ))),
        Stop::GaveUp(Verdict::Nobody | Verdict::Unreachable) => {
            Failure::passing(stop.to_string(), "ConnectionFailed").into()
        }
        Stop::GaveUp(Verdict::Missing | Verdict::Corrupt) => {
            Failure::passing(stop.to_string(), "HttpError503").into()
        }
        Stop::Local(_) => Failure::lasting(runtime::chain(&stop), "Local").into(),
    }
}

fn unpinned(error: PinError) -> Unanswered {
    let text = runtime::chain(&error);
    match error {
        PinError::Directory(error) => Unanswered::Failed(directory(&error)),
        PinError::Stop {
            source: Stop::Wait, ..
        } => Unanswered::Wait(Failure::passing(text, "NotYet")),
        PinError::Stop { .. } => Unanswered::Failed(Failure::passing(text, "ConnectionFailed")),
        PinError::Key { .. }
        | PinError::Root { .. }
        | PinError::UnknownBuild { .. }
        | PinError::Expired { .. }
        | PinError::Fork { .. } => Unanswered::Failed(Failure::lasting(text, "BadStatement")),
    }
}

fn directory(error: &DirectoryError) -> Failure {
    match error {
        DirectoryError::Down { .. } => Failure::passing(error.to_string(), "ConnectionFailed"),
        DirectoryError::Unknown { .. }
        | DirectoryError::Other { .. }
        | DirectoryError::Retracted { .. }
        | DirectoryError::Refused { .. } => Failure::lasting(error.to_string(), "HttpError404"),
    }
}

fn local(path: &Path, error: &io::Error) -> Miss {
    Failure::lasting(format!("cannot write {}: {error}", path.display()), "Local").into()
}

fn mounts(channels: &[Channel]) -> String {
    let mut mounts: Vec<&str> = channels
        .iter()
        .map(|channel| channel.mount.as_str())
        .collect();
    mounts.dedup();
    if mounts.is_empty() {
        "nothing yet".to_owned()
    } else {
        mounts.join(", ")
    }
}

fn http_date(mtime: Mtime) -> String {
    httpdate::fmt_http_date(time(mtime))
}

/// Within what HTTP can write.
fn time(mtime: Mtime) -> SystemTime {
    let seconds = u64::try_from(mtime.as_seconds())
        .unwrap_or(0)
        .min(DATE_MAX_S);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn mtime(text: &str) -> Option<Mtime> {
    let at = httpdate::parse_http_date(text).ok()?;
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(seconds).ok().map(Mtime::from_seconds)
}

fn stamp(path: &Path, mtime: Mtime) -> io::Result<()> {
    File::options()
        .write(true)
        .open(path)?
        .set_modified(time(mtime))
}

fn sha512(path: &Path) -> io::Result<String> {
    let mut hasher = Sha512::new();
    each_part(path, |part| hasher.update(part))?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn each_part(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => take(&buffer[..read]),
        }
    }
}

/// Tells apt what happens, in the line that it shows.
struct Told<'a> {
    replies: &'a Replies,
    uri: &'a str,
}

impl Told<'_> {
    fn status(&self, text: &str) {
        self.replies.send(
            &Message::new(102, "Status")
                .with("URI", self.uri)
                .with("Message", text),
        );
    }
}

impl Watch for Told<'_> {
    fn tell(&self, event: Event<'_>) {
        match event {
            Event::ListKept { age, .. } => {
                self.status(&format!(
                    "The directory does not answer; using its list of {} s ago",
                    age.as_secs()
                ));
            }
            Event::Left { source, answer, .. } => {
                if answer != Answer::Older {
                    self.status(&format!(
                        "{source} {}; asking the next one",
                        answer.describe()
                    ));
                }
            }
            Event::Pinned { .. }
            | Event::Begun { .. }
            | Event::Reached { .. }
            | Event::Verified { .. }
            | Event::Waiting { .. }
            | Event::Replanned { .. }
            | Event::Notice { .. } => {}
        }
    }
}
