//! What happens while something is fetched, for people.

use std::time::Duration;

use mirrorlog_core::client::climb::Answer;
use mirrorlog_core::id::{Build, ChannelId};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The directory does not answer; its list from that long ago is used.
    ListKept {
        /// How old it is.
        age: Duration,
        /// Why the directory gave none.
        reason: &'a str,
    },
    /// A build was pinned and verified.
    Pinned {
        /// Of which channel.
        channel: &'a ChannelId,
        /// Which.
        build: Build,
    },
    /// A source was left for the next one.
    Left {
        /// Its name.
        source: &'a str,
        /// What was asked of it.
        what: &'a str,
        /// What it said, or did.
        answer: Answer,
    },
    /// A file's bytes begin to come.
    Begun {
        /// Its path in the build.
        path: &'a str,
        /// Its size in bytes.
        size_bytes: u64,
        /// Bytes that were here already.
        had_bytes: u64,
    },
    /// Bytes of a file are here; at 0 it begins anew.
    Reached {
        /// Its path in the build.
        path: &'a str,
        /// Bytes that are here.
        bytes: u64,
    },
    /// A file is here and verified.
    Verified {
        /// Its path in the build.
        path: &'a str,
        /// Who gave its last byte.
        source: &'a str,
    },
    /// Nobody has the build yet: it is looked for again after this time. Told once a second.
    Waiting {
        /// Of which channel.
        channel: &'a ChannelId,
        /// Which build; none when no head that counts was found.
        build: Option<Build>,
        /// Time left.
        left: Duration,
        /// The whole wait.
        whole: Duration,
    },
    /// Everything is taken from a newer build instead.
    Replanned {
        /// Of which channel.
        channel: &'a ChannelId,
        /// From this build.
        from: Build,
        /// To this one.
        to: Build,
    },
    /// What the archive says about a package.
    Notice {
        /// The package.
        package: &'a str,
        /// The sentence.
        text: &'a str,
    },
}

/// Who is told. Called from several tasks at a time; must not block.
pub trait Watch: Send + Sync {
    /// Something happened.
    fn tell(&self, event: Event<'_>);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Watch for Quiet {
    fn tell(&self, _event: Event<'_>) {}
}
