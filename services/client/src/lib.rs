//! The client: pins one build of a channel, verifies it, and takes every file of it from whoever has it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use client::{Client, Options, Trust, Quiet};
//!
//! let key = runtime::key::read_public("archive.pub".as_ref())?;
//! let options = Options::new("http://mirrors.example.org", Trust::keys([key]));
//! let client = Client::new(options)?;
//! let pinned = client.pin(&"noble".parse()?, None, &Quiet).await?;
//! let file = pinned.file(b"dists/noble/Release", &Quiet).await?;
//! pinned.fetch(&file, "Release".as_ref(), &Quiet).await?;
//! # Ok(()) }
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `options` | what a client is told |
//! | `directory` | asks which mirrors there are; keeps the last list |
//! | `state` | what lasts from run to run: lists, heads, speeds, feedback |
//! | `source` | a mirror, or the archive; `universe`: the archive over gRPC |
//! | `session` | one channel's sources in one run: climbs them, remembers who failed |
//! | `pin` | a verified build; `pages`: its manifest, as far as it was read |
//! | `part` | a file that is coming; `transfer`: how it comes; `tail`: its end, from other mirrors |
//! | `candidates` | the mirrors to choose from; `probe`: how fast one is |
//! | `suites` | which suites a build has; `replace`: a file of the system, its older content kept |
//! | `feedback` | what was seen of mirrors, told to the directory when the user wants it |
//! | `fetch` | one file of the build, from whoever has it |
//! | `get` | paths of one build into a folder, with waiting and planning anew |
//! | `closure` | what packages need, out of the same build |
//! | [`apt`] | apt's acquire method |
//! | `watch` | what happens, for people |
#![warn(missing_docs)]

pub mod apt;
mod candidates;
mod closure;
mod directory;
mod feedback;
mod fetch;
mod get;
#[cfg(test)]
#[path = "../../../tests/support/hostile/mod.rs"]
mod hostile;
mod options;
mod pages;
mod part;
mod pin;
mod probe;
mod replace;
mod roots;
mod session;
mod source;
mod state;
mod suites;
mod tail;
mod transfer;
mod universe;
mod watch;

use std::sync::Arc;

use mirrorlog_core::client::speed::{self, Judged, Transfer};
use mirrorlog_core::id::{Build, ChannelId};
use runtime::boot::now;

pub use candidates::{Candidate, Candidates, Carried, Excluded};
pub use closure::DependError;
pub use directory::{DirectoryError, Named, read_channels, read_mirrors};
pub use feedback::Sample;
pub use fetch::Fetched;
pub use get::{Delivered, GetError, Got, Job, Needs, Plan, get, plan};
pub use options::{ExpiredHeads, Options, OptionsError, Proxy, ProxyOf, Trust};
pub use pin::{FindError, PinError, Pinned, WantedFile};
pub use probe::{Measured, Outcome};
pub use replace::{Change, Keep, ReplaceError};
pub use session::Stop;
pub use suites::SuitesError;
pub use watch::{Event, Quiet, Watch};

use directory::Directory;
use feedback::Feedback;
use pin::Aim;
use source::Web;
use state::State;

/// A client of one directory. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) web: Web,
    pub(crate) directory: Directory,
    pub(crate) state: State,
    pub(crate) feedback: Feedback,
}

impl Inner {
    /// Remembers how fast a mirror was, and tells the directory, if the user lets it.
    pub(crate) fn measured(&self, url: &str, mirror: &str, build: Build, transfer: &Transfer) {
        let known = self.state.speed(url);
        match speed::judge(transfer, known.as_ref()) {
            Judged::Speed(bytes_per_s) => {
                self.state
                    .keep_speed(url, speed::learn(known.as_ref(), bytes_per_s, now()));
                self.feedback
                    .fine(mirror, build, transfer.bytes, transfer.seconds);
            }
            // It was good, and nothing is known of its speed.
            Judged::Nothing => self
                .feedback
                .fine(mirror, build, transfer.bytes, transfer.seconds),
            Judged::Cache => tracing::debug!(mirror, "a cache gave it: no sample"),
        }
    }
}

impl Client {
    /// Makes a client; asks nobody yet.
    ///
    /// # Errors
    /// [`OptionsError`] for what cannot work.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        let options = options.checked()?;
        let web = Web::new(&options)?;
        let state = State::open(options.state.clone());
        let directory = Directory::new(&options, web.clone(), state.clone());
        let feedback = Feedback::new(
            options.feedback,
            directory.url(),
            web.clone(),
            state.clone(),
        );
        Ok(Self(Arc::new(Inner {
            options,
            web,
            directory,
            state,
            feedback,
        })))
    }

    /// What the directory is told next, when the user wants it told.
    pub fn queued_feedback(&self) -> Vec<Sample> {
        self.0.feedback.queued()
    }

    /// Tells the directory what was seen of mirrors, if the user wants that. What it does not take waits for a later run.
    pub async fn tell_feedback(&self) {
        self.0.feedback.tell().await;
    }

    /// Pins a build of a channel: the one that is named, or the one that is wanted where the client is.
    ///
    /// # Errors
    /// [`PinError`].
    pub async fn pin(
        &self,
        channel: &ChannelId,
        build: Option<Build>,
        watch: &dyn Watch,
    ) -> Result<Pinned, PinError> {
        let aim = build.map_or(Aim::Wanted, Aim::Named);
        pin::pin(&self.0, channel, aim, watch).await
    }

    /// Pins a newer build than one that was found to be gone; a source spoke of `to`.
    pub(crate) async fn pin_newer(
        &self,
        channel: &ChannelId,
        (from, to): (Build, Build),
        watch: &dyn Watch,
    ) -> Result<Pinned, PinError> {
        pin::pin(&self.0, channel, Aim::Newer { from, to }, watch).await
    }
}
