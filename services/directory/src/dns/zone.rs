//! What of the zone does not change, and which names it has.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{Name, RData, Record};
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::pool::PoolName;
use mirrorlog_core::time::Timestamp;

use super::pools::Edition;
use crate::config::DnsSection;

/// How long resolvers may remember that there is nothing, at most.
const NOTHING_MAX_S: u32 = 60;
/// How long resolvers may keep what only the configuration changes.
const FIXED_S: u32 = 3600;
/// Secondaries' times: there are none, for nobody may copy the zone.
const REFRESH_S: i32 = 3600;
const RETRY_S: i32 = 600;
const EXPIRE_S: i32 = 604_800;
/// RFC 2181, 8.
const TTL_MAX_S: u32 = i32::MAX as u32;

/// What a name of the zone is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owner {
    /// The zone's own.
    Apex,
    /// A pool's.
    Pool(PoolName),
    /// A server's.
    Server,
    /// It has nothing itself, but there are names below it.
    Between,
}

/// The zone.
pub(super) struct Zone {
    name: Name,
    servers: Vec<Name>,
    contact: Name,
    addresses: Vec<IpAddr>,
    ttl_s: u32,
    serial: Serial,
}

impl Zone {
    /// Reads the section's names.
    ///
    /// # Errors
    /// Which of them is none.
    pub(super) fn new(section: &DnsSection) -> anyhow::Result<Self> {
        let name = absolute(&section.zone).context("dns.zone")?;
        ensure!(!name.is_root(), "dns.zone is empty");
        let servers = match &section.servers[..] {
            [] => vec![name.prepend_label("ns").context("dns.zone")?],
            servers => {
                let servers = servers.iter().map(|server| absolute(server));
                servers
                    .collect::<Result<Vec<_>, _>>()
                    .context("dns.servers")?
            }
        };
        // Its addresses would be those of mirrors.
        ensure!(
            !servers.contains(&name),
            "dns.servers names the zone itself: a server needs a name of its own"
        );
        let contact = match &section.contact {
            Some(contact) => mailbox(contact).context("dns.contact")?,
            None => name.prepend_label("hostmaster").context("dns.zone")?,
        };
        let mut addresses = section.addresses.clone();
        let listen = section.listen.ip();
        if addresses.is_empty() && !listen.is_unspecified() {
            addresses.push(listen);
        }
        let inside = servers.iter().any(|server| name.zone_of(server));
        if inside && addresses.is_empty() {
            tracing::warn!(zone = %name, "dns.addresses is empty: the zone's servers have no address in it");
        }
        let ttl_s = u32::try_from(section.ttl.0.as_secs()).unwrap_or(TTL_MAX_S);
        Ok(Self {
            name,
            servers,
            contact,
            addresses,
            ttl_s: ttl_s.min(TTL_MAX_S),
            serial: Serial::default(),
        })
    }

    /// How long resolvers may keep what a pool is, in seconds.
    pub(super) fn ttl_s(&self) -> u32 {
        self.ttl_s
    }

    /// True for the zone's name and all below it, whether they exist or not.
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.name.zone_of(name)
    }

    /// What a name in the zone is; none when there is no such name.
    pub(super) fn owner(&self, name: &Name, view: &View) -> Option<Owner> {
        if *name == self.name {
            return Some(Owner::Apex);
        }
        if self.servers.contains(name) {
            return Some(Owner::Server);
        }
        if let Some(pool) = self.pool_name(name)
            && view.has_pool(&pool)
        {
            return Some(Owner::Pool(pool));
        }
        let above = self.servers.iter().any(|server| name.zone_of(server));
        above.then_some(Owner::Between)
    }

    fn pool_name(&self, name: &Name) -> Option<PoolName> {
        let count = name.iter().count().checked_sub(self.name.iter().count())?;
        let lower = |label: &[u8]| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        let labels = name.iter().take(count).map(lower);
        let labels = labels.collect::<Option<Vec<String>>>()?;
        PoolName::parse(&labels.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The SOA as an answer.
    pub(super) fn soa(&self, edition: Edition, now: Timestamp) -> Record {
        let minimum = self.ttl_s.min(NOTHING_MAX_S);
        let soa = SOA::new(
            self.servers.first().unwrap_or(&self.name).clone(),
            self.contact.clone(),
            self.serial.of(edition, now),
            REFRESH_S,
            RETRY_S,
            EXPIRE_S,
            minimum,
        );
        Record::from_rdata(self.name.clone(), self.ttl_s, RData::SOA(soa))
    }

    /// The SOA that goes with "there is nothing": its TTL says for how long (RFC 2308, 3).
    pub(super) fn nothing(&self, edition: Edition, now: Timestamp) -> Record {
        let mut soa = self.soa(edition, now);
        soa.ttl = soa.ttl.min(NOTHING_MAX_S);
        soa
    }

    /// The zone's servers.
    pub(super) fn ns(&self) -> impl Iterator<Item = Record> {
        self.servers.iter().map(|server| {
            let data = RData::NS(NS(server.clone()));
            Record::from_rdata(self.name.clone(), FIXED_S, data)
        })
    }

    /// Addresses of those servers that are in the zone.
    pub(super) fn glue(&self) -> impl Iterator<Item = Record> {
        let inside = self.servers.iter().filter(|server| self.contains(server));
        inside.flat_map(|server| self.server(server))
    }

    /// A server's addresses, under the name that was asked for.
    pub(super) fn server(&self, name: &Name) -> impl Iterator<Item = Record> {
        let addresses = self.addresses.iter();
        addresses.map(|at| Record::from_rdata(name.clone(), FIXED_S, RData::from(*at)))
    }
}

fn absolute(text: &str) -> anyhow::Result<Name> {
    let mut name =
        Name::from_utf8(text).with_context(|| format!("{text:?} is no name in the DNS"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// A mailbox as a name: what stands before the `@` is one label, dots and all (RFC 1035, 8).
fn mailbox(text: &str) -> anyhow::Result<Name> {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return absolute(text);
    };
    let name = absolute(domain)?.prepend_label(local.as_bytes());
    name.with_context(|| format!("{text:?} is no mailbox"))
}

/// Moves whenever the pools may answer something else; ahead of the last process's by the clock.
#[derive(Default)]
struct Serial(Mutex<(Option<Edition>, u32)>);

impl Serial {
    fn of(&self, edition: Edition, now: Timestamp) -> u32 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, serial) = *last;
        // Whoever still holds an older view moves nothing.
        let moved = seen.is_none_or(|seen| edition.replaces(seen));
        if moved {
            let clock = u32::try_from(now.as_seconds()).unwrap_or_default();
            *last = (Some(edition), clock.max(serial.wrapping_add(1)));
        }
        last.1
    }
}
