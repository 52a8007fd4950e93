//! Offers that were made a moment ago: ranking a thousand mirrors for each request would be most of its cost.

use std::sync::Arc;

use mirrorlog_core::directory::member::MirrorIndex;
use mirrorlog_core::directory::offer::{Needs, PlaceKind, Question};
use mirrorlog_core::directory::place::Place;
use mirrorlog_core::directory::{Carried, View};
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Timestamp;
use quick_cache::sync::Cache;

/// Offers that are remembered.
const OFFERS_MAX: usize = 8192;
/// Mirrors of an offer that a redirect can name.
const MIRRORS_MAX: usize = 8;
/// Speeds fade: an offer is made anew after this time, in milliseconds.
const FRESH_MS: i64 = 60_000;

/// The best mirrors of an offer.
pub(super) struct Offered {
    pub(super) build: Option<Build>,
    pub(super) mirrors: Vec<MirrorIndex>,
}

/// All that an offer depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    revision: u64,
    minute: i64,
    channel: ChannelId,
    build: Option<Build>,
    kind: PlaceKind,
    /// Where some mirrors carry a part only.
    path: Option<EntryPath>,
}

pub(super) struct Offers(Cache<Key, Arc<Offered>>);

impl Offers {
    pub(super) fn new() -> Self {
        Self(Cache::new(OFFERS_MAX))
    }

    /// The offer of this view to a place of this kind. The build is the one for everybody who wants the whole channel; where
    /// some mirrors carry a part only, those are named that have the path at that build. Only where nobody has the whole, the
    /// path says which build. None for a channel or build that nobody may be asked for, or an expired head.
    pub(super) fn of(
        &self,
        view: &View,
        channel: &ChannelId,
        (build, path): (Option<Build>, Option<&EntryPath>),
        (place, kind): (&Place, PlaceKind),
        now: Timestamp,
    ) -> Option<Arc<Offered>> {
        // Time alone makes a head expire; no revision says so.
        if view.is_expired(channel, now) {
            return None;
        }
        let whole = self.made(view, channel, (build, None), (place, kind), now);
        let parts = view.channel(channel).is_some_and(Carried::has_parts);
        let Some(path) = path.filter(|_| parts) else {
            return whole;
        };
        let at = whole.as_ref().filter(|offered| !offered.mirrors.is_empty());
        let build = at.and_then(|offered| offered.build).or(build);
        self.made(view, channel, (build, Some(path)), (place, kind), now)
    }

    fn made(
        &self,
        view: &View,
        channel: &ChannelId,
        (build, path): (Option<Build>, Option<&EntryPath>),
        (place, kind): (&Place, PlaceKind),
        now: Timestamp,
    ) -> Option<Arc<Offered>> {
        let key = Key {
            revision: view.revision(),
            minute: now.as_ms().div_euclid(FRESH_MS),
            channel: channel.clone(),
            build,
            kind,
            path: path.cloned(),
        };
        if let Some(offered) = self.0.get(&key) {
            return Some(offered);
        }
        let question = Question {
            channel,
            build,
            needs: path.map_or(Needs::Everything, Needs::Path),
            place,
            now,
        };
        let offer = view.offer(&question).ok()?;
        let mirrors = offer.ranked.iter().take(MIRRORS_MAX);
        let offered = Arc::new(Offered {
            build: offer.build,
            mirrors: mirrors.map(|ranked| ranked.mirror).collect(),
        });
        self.0.insert(key, Arc::clone(&offered));
        Some(offered)
    }
}
