//! All that an answer is made from: the view of this moment, the databases, the manifests, the configuration.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::exclude::ExcludeReason;
use mirrorlog_core::directory::member::MirrorIndex;
use mirrorlog_core::directory::place::{Continent, Country, Place};
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::url::encode_path;
use tokio::sync::watch;

use crate::config::{Config, MirrorSection};
use crate::geo::Geo;
use crate::resolve::Addresses;
use crate::trees::Trees;

/// The view of each moment. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Views(pub(crate) watch::Receiver<Arc<View>>);

impl Views {
    /// All that is known at this moment. Hold it for the whole of one answer.
    pub(crate) fn current(&self) -> Arc<View> {
        Arc::clone(&self.0.borrow())
    }
}

/// How pages lead to lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// By queries, which a running directory answers.
    Queries,
    /// By files, as an export writes them.
    Files,
}

/// What all outputs are made from.
pub(crate) struct Site {
    pub(crate) links: Links,
    /// What people read at the top.
    pub(crate) name: String,
    /// Its own public URL, when the operator says.
    pub(crate) url: Option<String>,
    /// `host:port` at which the archive gives clients what no mirror has.
    pub(crate) universe: Option<String>,
    /// In the order of [`MirrorIndex`].
    mirrors: Vec<MirrorSection>,
    /// Proxies whose word on the client's address counts.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// The port of DNS pools; none without DNS.
    dns_port: Option<u16>,
    /// Seconds between two probes.
    pub(crate) probe_every_s: u64,
    pub(crate) geo: Geo,
    pub(crate) addresses: Addresses,
    pub(crate) trees: Trees,
    views: Views,
}

impl Site {
    pub(crate) fn new(
        config: &Config,
        views: Views,
        geo: Geo,
        addresses: Addresses,
        trees: Trees,
    ) -> Self {
        let mut mirrors = config.mirrors.clone();
        mirrors.sort_by(|a, b| a.id.cmp(&b.id));
        Self {
            links: Links::Queries,
            name: config.directory.name.clone(),
            url: config.directory.url.clone(),
            universe: config.archive.universe.clone(),
            mirrors,
            trusted_proxies: config.http.trusted_proxies.clone(),
            dns_port: config.dns.as_ref().map(|dns| dns.port),
            probe_every_s: config.probe.every.0.as_secs().max(1),
            geo,
            addresses,
            trees,
            views,
        }
    }

    /// All that is known at this moment. Hold it for the whole of one answer.
    pub(crate) fn view(&self) -> Arc<View> {
        self.views.current()
    }

    /// What the operator says of a mirror.
    pub(crate) fn mirror(&self, mirror: MirrorIndex) -> &MirrorSection {
        &self.mirrors[mirror.get()]
    }

    /// A path of one build on a mirror: `<url>/@/<channel>/<build>/<path>`.
    pub(crate) fn pinned(
        &self,
        mirror: MirrorIndex,
        channel: &ChannelId,
        build: Build,
        path: &[u8],
    ) -> String {
        let url = &self.mirror(mirror).url;
        format!("{url}/@/{channel}/{build}/{}", encode_path(path))
    }

    /// Where an address is; the country that the client names wins over the database.
    pub(crate) fn place(&self, address: Option<IpAddr>, country: Option<Country>) -> Place {
        let mut place = address.map(|at| self.geo.place(at)).unwrap_or_default();
        if let Some(country) = country {
            place.country = Some(country);
            place.continent = Continent::of(country);
        }
        place
    }

    /// What keeps a mirror out of this directory's DNS pools, beside what keeps it out of everything.
    pub(crate) fn dns_reason(&self, mirror: MirrorIndex) -> Option<ExcludeReason> {
        self.unreachable_by_name(mirror, self.dns_port?)
    }

    /// What keeps a mirror out of DNS pools whose clients ask at `port`: the name of a pool says nothing of ports
    /// and paths.
    pub(crate) fn unreachable_by_name(
        &self,
        mirror: MirrorIndex,
        port: u16,
    ) -> Option<ExcludeReason> {
        let url = reqwest::Url::parse(&self.mirror(mirror).url).ok();
        let plain = url.is_some_and(|url| {
            url.scheme() == "http" && url.path() == "/" && url.port().unwrap_or(80) == port
        });
        if !plain {
            return Some(ExcludeReason::NotHttp);
        }
        let nowhere = self.addresses.of(mirror).is_empty();
        nowhere.then_some(ExcludeReason::NoAddress)
    }
}
