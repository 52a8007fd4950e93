//! What is served right now. A flip makes a new table and swaps one pointer.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mirrorlog_core::id::{Build, ChannelId, Digest, Mount};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::time::Timestamp;
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
    /// When it was signed.
    pub(crate) created: Timestamp,
    /// The signed snapshot, as signify's embedded format.
    pub(crate) snapshot: Bytes,
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

/// The writer's end.
#[derive(Debug)]
pub(crate) struct ServingWriter(watch::Sender<Arc<Serving>>);

impl ServingWriter {
    /// An empty table and its reader.
    pub(crate) fn new() -> (Self, ServingReader) {
        let (sender, receiver) = watch::channel(Arc::new(Serving::default()));
        (Self(sender), ServingReader(receiver))
    }

    /// Swaps one channel's part.
    pub(crate) fn set(&self, channel: ChannelId, served: ServedChannel) {
        self.0.send_modify(|table| {
            let mut next = Serving::clone(table);
            next.channels.insert(channel, Arc::new(served));
            *table = Arc::new(next);
        });
    }
}
