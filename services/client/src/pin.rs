//! A pinned build: verified, looked into, taken from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mirrorlog_core::client::climb::{Answer, Verdict, Wish};
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::limits::CLOCK_SKEW_MS;
use mirrorlog_core::manifest::{self, Entry, FileEntry, ManifestError};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::sign::SignatureError;
use mirrorlog_core::statement::{Head, Snapshot, Statement};
use mirrorlog_core::tree::{Place, Scope, Tree};
use mirrorlog_core::trust::RootVersion;
use runtime::boot::now;
use wire::{OpenError, Signed};

use crate::Inner;
use crate::directory::{DirectoryError, List};
use crate::options::{ExpiredHeads, Trust};
use crate::pages::{Absent, Cache};
use crate::session::{Climbed, Quest, Session, Stop, Trouble};
use crate::source::Source;
use crate::watch::{Event, Watch};

/// Files of one folder that are taken at once; stops a folder without end.
const FOLDER_FILES_MAX: usize = 100_000;

/// Why no build is pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The build that was named is above the signed head.
    #[error("there is no build {build} of {channel}: the newest is {newest}")]
    UnknownBuild {
        /// Of which channel.
        channel: ChannelId,
        /// Which was asked for.
        build: Build,
        /// The signed head's.
        newest: Build,
    },
    /// The archive's head is too old.
    #[error(
        "the archive's statement of the newest build of {channel} has expired: it may be an old one that somebody \
         holds back, or the archive was away for long; --allow-expired takes it nevertheless"
    )]
    Expired {
        /// Of which channel.
        channel: ChannelId,
    },
    /// The root document is too old.
    #[error(
        "root document {version} has expired and no newer one is to be had: get the present one from the archive's \
         operators, by a way that you trust"
    )]
    Root {
        /// Its number.
        version: RootVersion,
    },
    /// Whoever signs is not trusted.
    #[error(
        "the statements of {channel} are signed by key {signer}, which is none that is trusted: is it the archive's key that was given?"
    )]
    Key {
        /// Of which channel.
        channel: ChannelId,
        /// The key's number.
        signer: String,
    },
    /// One number, two roots.
    #[error("build {build} of {channel} was signed with two roots: tell the archive's operators")]
    Fork {
        /// Of which channel.
        channel: ChannelId,
        /// Which.
        build: Build,
    },
    /// The statements do not come.
    #[error("the signed statements of {channel} are not to be had")]
    Stop {
        /// Of which channel.
        channel: ChannelId,
        /// The build that was to be pinned, if it was known by then.
        build: Option<Build>,
        /// Why.
        #[source]
        source: Stop,
    },
}

/// Why a path of a pinned build was not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The build has no such path.
    #[error("{path} is not in build {build} of {channel}")]
    Absent {
        /// The path.
        path: String,
        /// Of which channel.
        channel: ChannelId,
        /// Which build.
        build: Build,
    },
    /// It is a folder where a file is needed.
    #[error("{path} is a folder in build {build} of {channel}")]
    Folder {
        /// The path.
        path: String,
        /// Of which channel.
        channel: ChannelId,
        /// Which build.
        build: Build,
    },
    /// The manifest does not hold together, though its pages have the digests that are signed.
    #[error("the manifest of build {build} of {channel} is damaged: tell the archive's operators")]
    Manifest {
        /// Of which channel.
        channel: ChannelId,
        /// Which build.
        build: Build,
    },
    /// The folder has more files than are taken at once.
    #[error("{path} has more than {FOLDER_FILES_MAX} files")]
    TooMany {
        /// The path.
        path: String,
    },
    /// The manifest does not come.
    #[error("the manifest is not to be had")]
    Stop(#[source] Stop),
}

/// A file of a pinned build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedFile {
    /// Its path there, without symlinks.
    pub path: EntryPath,
    /// What it must be.
    pub entry: FileEntry,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    File(WantedFile),
    /// A folder, by its path without symlinks.
    Folder(Vec<u8>),
}

/// A build whose root is verified.
pub struct Pinned {
    pub(crate) session: Session,
    pub(crate) wish: Wish,
    snapshot: Snapshot,
    pages: Cache,
}

/// Which build is to be pinned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// The one that a person named.
    Named(Build),
    /// The one that is wanted.
    Wanted,
    /// A newer one than `from`, which was found to be gone; a source spoke of `to`.
    Newer { from: Build, to: Build },
}

impl Aim {
    fn named(self) -> Option<Build> {
        match self {
            Self::Named(build) => Some(build),
            Self::Wanted | Self::Newer { .. } => None,
        }
    }
}

/// Pins a build.
pub(crate) async fn pin(
    inner: &Arc<Inner>,
    channel: &ChannelId,
    aim: Aim,
    watch: &dyn Watch,
) -> Result<Pinned, PinError> {
    let list = list(inner, channel, aim.named(), watch).await?;
    let session = Session::new(Arc::clone(inner), channel.clone(), list.sources);
    // What the directory knows: a head of an older build is behind.
    let known = match aim.named() {
        Some(build) => Some(build).filter(|build| list.build >= Some(*build)),
        None => list.build,
    };
    let stop = |build: Option<Build>| {
        let channel = channel.clone();
        move |source| PinError::Stop {
            channel,
            build,
            source,
        }
    };
    let wish = if aim.named().is_some() {
        Wish::Named
    } else {
        Wish::Newest
    };
    let quest = |what, build: Option<Build>, wish| Quest {
        build: build.unwrap_or(Build::FIRST),
        wish,
        what,
        watch,
    };
    crate::roots::bring(&session).await;
    if let Trust::Root(trust) = &inner.options.trust
        && let Some(version) = trust.expired()
    {
        return Err(PinError::Root { version });
    }
    // Both at once, unless another build may be the one.
    let floor = inner.state.newest_build(inner.directory.url(), channel);
    let likely = known.filter(|known| {
        matches!(aim, Aim::Named(_) | Aim::Wanted)
            && Some(*known) >= floor.filter(|_| aim.named().is_none())
    });
    let early = async {
        match likely {
            Some(build) => {
                Some(snapshot_of(&session, quest("the snapshot", likely, wish), build).await)
            }
            None => None,
        }
    };
    let (head, early) =
        futures::join!(head(&session, quest("the head", known, wish), known), early);
    let head = head?;
    let build = match aim {
        Aim::Named(build) => build,
        // What the archive has not signed is nobody's to wish for; what was here before is not gone back from, unless
        // the archive itself went back.
        Aim::Wanted => list
            .build
            .max(floor.filter(|floor| *floor <= head.build))
            .unwrap_or(head.build),
        Aim::Newer { to, .. } => list
            .build
            .max(Some(to.min(head.build)))
            .unwrap_or(head.build),
    };
    if build > head.build {
        let (channel, newest) = (channel.clone(), head.build);
        return Err(PinError::UnknownBuild {
            channel,
            build,
            newest,
        });
    }
    let wish = match aim {
        // A source that spoke of a newer build had nothing to speak of: it is only somebody without this one.
        Aim::Newer { from, .. } if build <= from => Wish::Named,
        Aim::Named(_) | Aim::Wanted | Aim::Newer { .. } => wish,
    };
    let snapshot = match early.filter(|_| likely == Some(build)) {
        Some(snapshot) => snapshot,
        None => snapshot_of(&session, quest("the snapshot", Some(build), wish), build).await,
    };
    let snapshot = match snapshot {
        // Whoever took a build back has published what replaces it.
        Err(Stop::GaveUp(Verdict::Retracted)) if wish == Wish::Newest && head.build > build => {
            return Err(stop(Some(build))(Stop::Replan(head.build)));
        }
        snapshot => snapshot.map_err(stop(Some(build)))?,
    };
    if build == head.build && snapshot.root != head.root {
        return Err(PinError::Fork {
            channel: channel.clone(),
            build,
        });
    }
    if aim.named().is_none() {
        inner
            .state
            .keep_newest_build(inner.directory.url(), channel, build);
    }
    watch.tell(Event::Pinned { channel, build });
    Ok(Pinned {
        session,
        wish,
        snapshot,
        pages: Cache::default(),
    })
}

/// Who may have the build. Where nobody is offered at it yet, those who have others are asked: it may come to them.
async fn list(
    inner: &Inner,
    channel: &ChannelId,
    named: Option<Build>,
    watch: &dyn Watch,
) -> Result<List, DirectoryError> {
    let listed = match inner.directory.mirrors(channel, named, watch).await {
        Ok(list) if list.has_mirrors() || named.is_none() => return Ok(list),
        // Whether there is such a build says the signed head.
        // And its last list has mirrors, when it is away.
        Err(DirectoryError::Unknown { .. } | DirectoryError::Down { .. }) if named.is_some() => {
            None
        }
        list => Some(list?),
    };
    let usual = inner.directory.mirrors(channel, None, watch).await?;
    // What the directory knows of the named build stays known.
    let build = listed.and_then(|list| list.build).or(usual.build);
    Ok(List { build, ..usual })
}

async fn snapshot_of(session: &Session, quest: Quest<'_>, build: Build) -> Result<Snapshot, Stop> {
    let Inner { web, options, .. } = &*session.inner;
    let attempt = |_, source: Source| async move {
        let signed = source.snapshot(web, &session.channel, build).await?;
        let Statement::Snapshot(snapshot) = open(&signed, &options.trust, session)? else {
            return Err(Trouble::Answer(Answer::Corrupt));
        };
        if snapshot.channel != session.channel || snapshot.build != build {
            return Err(Trouble::Answer(Answer::Corrupt));
        }
        Ok(snapshot)
    };
    Ok(session.climb(quest, attempt).await?.found)
}

/// The newest head that counts: what a source gives, or what an earlier run kept. `least`: one of an older build is
/// behind, for the directory knows this one.
async fn head(session: &Session, quest: Quest<'_>, least: Option<Build>) -> Result<Head, PinError> {
    let Inner {
        web,
        options,
        state,
        directory,
        ..
    } = &*session.inner;
    let kept = state.head(directory.url(), &session.channel);
    let kept = kept.and_then(|signed| head_of(&signed, &options.trust, session).ok());
    let counts = |head: &Head| {
        options.expired == ExpiredHeads::Accept || now().ms_since(head.expires) <= CLOCK_SKEW_MS
    };
    let expired = AtomicBool::new(false);
    let (kept_head, expired_seen, counts) = (&kept, &expired, &counts);
    let attempt = |_, source: Source| async move {
        let signed = source.head(web, &session.channel).await?;
        let head = head_of(&signed, &options.trust, session)?;
        // One that was seen before was newer: this source is behind, or holds something back.
        if kept_head
            .as_ref()
            .is_some_and(|kept| kept.issued > head.issued && kept.build > head.build)
        {
            return Err(Answer::Older.into());
        }
        if !counts(&head) {
            expired_seen.store(true, Ordering::Relaxed);
            return Err(Answer::Older.into());
        }
        if least.is_some_and(|least| least > head.build) {
            return Err(Answer::Older.into());
        }
        Ok((signed, head))
    };
    match session.climb(quest, attempt).await {
        Ok(Climbed {
            found: (signed, head),
            ..
        }) => {
            if kept.as_ref().is_none_or(|kept| kept.issued < head.issued) {
                state.keep_head(directory.url(), &session.channel, &signed);
            }
            Ok(head)
        }
        Err(_) if expired.load(Ordering::Relaxed) => Err(PinError::Expired {
            channel: session.channel.clone(),
        }),
        Err(Stop::GaveUp(Verdict::Corrupt)) if session.stranger().is_some() => {
            let (channel, signer) = (
                session.channel.clone(),
                session.stranger().unwrap_or_default(),
            );
            Err(PinError::Key { channel, signer })
        }
        Err(source) => {
            let (channel, build) = (session.channel.clone(), least);
            Err(PinError::Stop {
                channel,
                build,
                source,
            })
        }
    }
}

fn head_of(signed: &[u8], trust: &Trust, session: &Session) -> Result<Head, Answer> {
    let Statement::Head(head) = open(signed, trust, session)? else {
        return Err(Answer::Corrupt);
    };
    if head.channel != session.channel {
        return Err(Answer::Corrupt);
    }
    Ok(head)
}

/// Verifies a statement, then reads it. What does not verify is as bad as a damaged file.
fn open(signed: &[u8], trust: &Trust, session: &Session) -> Result<Statement, Answer> {
    let signed = Signed::from_signify(signed).map_err(|_| Answer::Corrupt)?;
    match trust.archive() {
        Some(keys) => signed.open(&keys).map_err(|error| {
            if let OpenError::Signature(SignatureError::UnknownKey(stranger)) = error {
                session.signed_by(stranger);
            }
            Answer::Corrupt
        }),
        None => wire::statement::decode(&signed.statement).map_err(|_| Answer::Corrupt),
    }
}

impl Pinned {
    /// Of which channel.
    pub fn channel(&self) -> &ChannelId {
        &self.session.channel
    }

    /// Which build.
    pub fn build(&self) -> Build {
        self.snapshot.build
    }

    /// What was signed of it.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The file at a path; symlinks are followed inside the build.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn file(&self, path: &[u8], watch: &dyn Watch) -> Result<WantedFile, FindError> {
        match self.find(path, watch).await? {
            Found::File(file) => Ok(file),
            Found::Folder(_) => Err(FindError::Folder {
                path: shown(path),
                channel: self.channel().clone(),
                build: self.build(),
            }),
        }
    }

    /// What a path leads to.
    pub(crate) async fn find(&self, path: &[u8], watch: &dyn Watch) -> Result<Found, FindError> {
        let tree = Tree {
            channel: self.channel().clone(),
            build: self.build(),
            root: self.snapshot.root,
            selection: mirrorlog_core::view::Selection::ALL,
        };
        let scope = Scope(vec![tree]);
        let place = self
            .read(watch, |pages, _| scope.place(pages, path))
            .await?;
        match place {
            Place::File(_, path, entry) => Ok(Found::File(WantedFile { path, entry })),
            Place::Folder(path) => Ok(Found::Folder(path)),
            Place::Nothing => Err(FindError::Absent {
                path: shown(path),
                channel: self.channel().clone(),
                build: self.build(),
            }),
        }
    }

    /// Every file below a folder; symlinks in it are left out.
    pub(crate) async fn below(
        &self,
        folder: &[u8],
        watch: &dyn Watch,
    ) -> Result<Vec<WantedFile>, FindError> {
        let mut prefix = folder.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let files = self.read(watch, |pages, root| {
            let mut files = Vec::new();
            for entry in manifest::iter(pages, root, &prefix, None) {
                let (_, path, entry) = entry?;
                if let Entry::File(entry) = entry {
                    files.push(WantedFile { path, entry });
                }
                if files.len() > FOLDER_FILES_MAX {
                    break;
                }
            }
            Ok(files)
        });
        let files = files.await?;
        if files.len() > FOLDER_FILES_MAX {
            return Err(FindError::TooMany {
                path: shown(folder),
            });
        }
        Ok(files)
    }

    /// Reads the manifest, fetching pages until the reading comes to its end.
    pub(crate) async fn read<T>(
        &self,
        watch: &dyn Watch,
        read: impl Fn(&Cache, &Digest) -> Result<T, ManifestError<Absent>>,
    ) -> Result<T, FindError> {
        loop {
            match read(&self.pages, &self.snapshot.root) {
                Ok(found) => return Ok(found),
                Err(ManifestError::Read(Absent(digest))) => self.bring(digest, watch).await?,
                Err(_damaged) => {
                    let (channel, build) = (self.channel().clone(), self.build());
                    return Err(FindError::Manifest { channel, build });
                }
            }
        }
    }

    async fn bring(&self, digest: Digest, watch: &dyn Watch) -> Result<(), FindError> {
        let Inner { web, .. } = &*self.session.inner;
        let attempt = |_, source: Source| async move {
            let bytes = source.page(web, self.channel(), &digest).await?;
            if self.pages.put(digest, &bytes) {
                Ok(())
            } else {
                Err(Trouble::Answer(Answer::Corrupt))
            }
        };
        let climbed = self
            .session
            .climb(self.quest("the manifest", watch), attempt)
            .await;
        climbed.map(|_| ()).map_err(FindError::Stop)
    }

    /// Builds that the nearest mirror that answers still holds, oldest first; by its own word.
    pub(crate) async fn retained(&self) -> Vec<Build> {
        let Inner { web, .. } = &*self.session.inner;
        let attempt =
            |_, source: Source| async move { Ok(source.retained(web, self.channel()).await?) };
        let quest = self.quest("the builds that are held", &crate::watch::Quiet);
        let climbed = self.session.climb(quest, attempt).await;
        climbed.map(|climbed| climbed.found).unwrap_or_default()
    }

    pub(crate) fn quest<'a>(&self, what: &'a str, watch: &'a dyn Watch) -> Quest<'a> {
        Quest {
            build: self.build(),
            wish: self.wish,
            what,
            watch,
        }
    }
}

/// A path for people.
pub(crate) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}
