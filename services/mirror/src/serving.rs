//! What is served right now. A flip makes a new table and swaps one pointer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mirrorlog_core::id::{Build, ChannelId, Digest, Mount};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::tree::Scope;
use mirrorlog_core::view::Selection;
use tokio::sync::watch;

/// All channels, as they are served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Serving {
    /// By id.
    pub(crate) channels: BTreeMap<ChannelId, Arc<ServedChannel>>,
}

/// One channel, as it is served.
#[derive(Clone, Debug)]
pub(crate) struct ServedChannel {
    /// Where.
    pub(crate) mount: Mount,
    /// Shape of its tree: says which removed paths stay for the grace time.
    pub(crate) layout: Layout,
    /// What of its live build is carried here; of the newest one when nothing is live.
    pub(crate) selection: Selection,
    /// Order within the mount: the lowest wins a path.
    pub(crate) precedence: u32,
    /// The build at the mount; one of `builds`.
    pub(crate) live: Option<Build>,
    /// Every build that is whole here and not retracted, live included, newer staged ones too.
    pub(crate) builds: BTreeMap<Build, ServedBuild>,
    /// Builds taken back, first and last.
    pub(crate) retracted: Vec<(Build, Build)>,
    /// The newest build known here; perhaps still on its way.
    pub(crate) newest_known: Option<Build>,
    /// The newest signed head, as signify's embedded format.
    pub(crate) head: Option<Bytes>,
    /// When that head expires.
    pub(crate) head_expires: Option<Timestamp>,
    /// How live came here, for the trace file.
    pub(crate) flip: Option<Flip>,
}

/// One build, as it is served.
#[derive(Clone, Debug)]
pub(crate) struct ServedBuild {
    /// Digest of the manifest's top page.
    pub(crate) root: Digest,
    /// What of it is carried here.
    pub(crate) selection: Selection,
    /// When it was signed.
    pub(crate) created: Timestamp,
    /// The signed snapshot, as signify's embedded format.
    pub(crate) snapshot: Bytes,
    /// It was published on the priority lane.
    pub(crate) urgent: bool,
}

/// How the live build came here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flip {
    /// When its sync began.
    pub(crate) started: Timestamp,
    /// When it went live.
    pub(crate) finished: Timestamp,
    /// Content bytes that were fetched for it.
    pub(crate) received_bytes: u64,
}

impl ServedChannel {
    /// True when `build` was taken back.
    pub(crate) fn is_retracted(&self, build: Build) -> bool {
        self.retracted
            .iter()
            .any(|(first, last)| *first <= build && build <= *last)
    }
}

/// The pointer that a flip swaps: one writer, any number of readers.
#[derive(Clone, Debug)]
pub(crate) struct ServingReader(watch::Receiver<Arc<Serving>>);

impl ServingReader {
    /// The table of this moment. Hold it for the whole of one request.
    pub(crate) fn current(&self) -> Arc<Serving> {
        Arc::clone(&self.0.borrow())
    }
}

/// The writer's end. With export trees, what they show is what is served: a channel's row is moved to its next live
/// build when the tree is, not before. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ServingWriter(Arc<Written>);

#[derive(Debug)]
struct Written {
    /// As the engine wants it.
    wanted: watch::Sender<Arc<Serving>>,
    /// As it is served.
    shown: watch::Sender<Arc<Serving>>,
    exported: Mutex<Exported>,
}

/// What export trees show.
#[derive(Debug, Default)]
struct Exported {
    gated: bool,
    /// Mounts that get no trees.
    ungated: BTreeSet<Mount>,
    /// Served before there were trees: these do not stop being served until one is made. `None` while they are read.
    unexported: Option<BTreeSet<ChannelId>>,
    mounts: BTreeMap<Mount, Scope>,
}

impl ServingWriter {
    /// An empty table and its reader.
    pub(crate) fn new() -> (Self, ServingReader) {
        let (shown, receiver) = watch::channel(Arc::new(Serving::default()));
        let wanted = watch::Sender::new(Arc::new(Serving::default()));
        let written = Written {
            wanted,
            shown,
            exported: Mutex::default(),
        };
        (Self(Arc::new(written)), ServingReader(receiver))
    }

    /// The table as the engine wants it.
    pub(crate) fn wanted(&self) -> watch::Receiver<Arc<Serving>> {
        self.0.wanted.subscribe()
    }

    /// From now on rows wait for export trees.
    pub(crate) fn gate(&self) {
        self.exports().gated = true;
    }

    /// The engine has told what it held when it started: what comes now is new.
    pub(crate) fn resumed(&self) {
        let table = self.0.shown.borrow().clone();
        let live = table.channels.iter().filter(|(_, row)| row.live.is_some());
        self.exports().unexported = Some(live.map(|(channel, _)| channel.clone()).collect());
    }

    /// A mount gets no trees: its rows wait for nobody.
    pub(crate) fn ungate(&self, mount: &Mount) {
        self.exports().ungated.insert(mount.clone());
        self.exported(mount, None);
    }

    fn exports(&self) -> MutexGuard<'_, Exported> {
        self.0
            .exported
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Swaps one channel's part.
    pub(crate) fn set(&self, channel: ChannelId, served: ServedChannel) {
        let exported = self.exports();
        let served = Arc::new(served);
        self.0.wanted.send_modify(|table| {
            let mut next = Serving::clone(table);
            next.channels.insert(channel.clone(), Arc::clone(&served));
            *table = Arc::new(next);
        });
        self.0.shown.send_modify(|table| {
            let row = exported.row(&channel, &served, table.channels.get(&channel));
            let mut next = Serving::clone(table);
            next.channels.insert(channel, row);
            *table = Arc::new(next);
        });
    }

    /// The tree of a mount shows these builds now, or nothing. Gives the channels whose live build moved with it, all
    /// at one moment.
    pub(crate) fn exported(&self, mount: &Mount, scope: Option<Scope>) -> Vec<ChannelId> {
        let mut exported = self.exports();
        match scope {
            Some(scope) => exported.mounts.insert(mount.clone(), scope),
            None => exported.mounts.remove(mount),
        };
        let wanted = Arc::clone(&self.0.wanted.borrow());
        let mut moved = Vec::new();
        self.0.shown.send_modify(|table| {
            let mut next = Serving::clone(table);
            for (channel, served) in wanted
                .channels
                .iter()
                .filter(|(_, row)| row.mount == *mount)
            {
                let before = table.channels.get(channel);
                let row = exported.row(channel, served, before);
                if before.is_none_or(|before| before.live != row.live) {
                    moved.push(channel.clone());
                }
                next.channels.insert(channel.clone(), row);
            }
            *table = Arc::new(next);
        });
        moved
    }

    /// The build of a channel that readers of the disk see.
    pub(crate) fn exported_build(&self, channel: &ChannelId) -> Option<Build> {
        let exported = self.exports();
        let mut trees = exported.mounts.values().flat_map(|scope| &scope.0);
        trees
            .find(|tree| tree.channel == *channel)
            .map(|tree| tree.build)
    }
}

impl Exported {
    /// The row as it is served: at the build that the tree of its mount shows. What was live before there were trees
    /// goes on without, and a tree that shows a build that was taken back keeps nobody waiting.
    fn row(
        &self,
        channel: &ChannelId,
        wanted: &Arc<ServedChannel>,
        before: Option<&Arc<ServedChannel>>,
    ) -> Arc<ServedChannel> {
        let shown = self.mounts.get(&wanted.mount);
        let shown = shown.and_then(|scope| scope.0.iter().find(|tree| tree.channel == *channel));
        let served = self.unexported.as_ref();
        let served = served.is_none_or(|served| served.contains(channel));
        let build = match shown.map(|tree| tree.build) {
            _ if !self.gated || self.ungated.contains(&wanted.mount) => return Arc::clone(wanted),
            Some(build) => build,
            None if served => return Arc::clone(wanted),
            None => {
                let mut row = ServedChannel::clone(wanted);
                (row.live, row.flip) = (None, None);
                return Arc::new(row);
            }
        };
        if wanted.live == Some(build) || wanted.is_retracted(build) {
            return Arc::clone(wanted);
        }
        // Live has gone on while there was no tree, or one of a build that was taken back: readers do not go back to what
        // a late one shows.
        let ahead = |row: &Arc<ServedChannel>| row.live > Some(build);
        if ahead(wanted) && before.is_some_and(ahead) {
            return Arc::clone(wanted);
        }
        let kept = before.and_then(|before| before.builds.get(&build));
        let Some(held) = wanted.builds.get(&build).or(kept).cloned() else {
            return Arc::clone(wanted);
        };
        let mut row = ServedChannel::clone(wanted);
        row.live = Some(build);
        row.builds.insert(build, held);
        row.flip = before.and_then(|before| before.flip);
        Arc::new(row)
    }
}
