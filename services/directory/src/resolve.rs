//! Addresses of the mirrors' names, for DNS pools and for their autonomous systems.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mirrorlog_core::directory::member::MirrorIndex;
use tokio::time::{MissedTickBehavior, timeout};

use crate::config::MirrorSection;

/// How often names are looked up again.
const EVERY: Duration = Duration::from_secs(300);
/// Longest wait for one name.
const PATIENCE: Duration = Duration::from_secs(10);

/// Addresses by mirror. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<RwLock<BTreeMap<MirrorIndex, Vec<IpAddr>>>>);

impl Addresses {
    /// What needs no look-up: addresses that are declared, or stand in the URL.
    pub(crate) fn declared(mirrors: &[(MirrorIndex, MirrorSection)]) -> Self {
        let known = mirrors.iter().filter_map(|(mirror, section)| {
            let declared = section.addresses.clone();
            let literal = || Some(vec![host(section)?.trim_matches(['[', ']']).parse().ok()?]);
            let addresses = (!declared.is_empty())
                .then_some(declared)
                .or_else(literal)?;
            Some((*mirror, addresses))
        });
        Self(Arc::new(RwLock::new(known.collect())))
    }

    /// A mirror's addresses; empty while none is known.
    pub(crate) fn of(&self, mirror: MirrorIndex) -> Vec<IpAddr> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&mirror).cloned().unwrap_or_default()
    }

    /// Looks the other names up, now and then, for ever. A name that is not found keeps its last addresses.
    pub(crate) async fn follow(self, mirrors: Vec<(MirrorIndex, MirrorSection)>) {
        let open = |(mirror, section): &(MirrorIndex, MirrorSection)| {
            let literal = self.0.read().unwrap_or_else(PoisonError::into_inner);
            (!literal.contains_key(mirror)).then_some((*mirror, host(section)?))
        };
        let names: Vec<(MirrorIndex, String)> = mirrors.iter().filter_map(open).collect();
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            for (mirror, name) in &names {
                let found = timeout(PATIENCE, tokio::net::lookup_host((name.as_str(), 0))).await;
                match found {
                    Ok(Ok(found)) => {
                        let mut addresses: Vec<IpAddr> = found.map(|at| at.ip()).collect();
                        addresses.sort_unstable();
                        addresses.dedup();
                        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
                        known.insert(*mirror, addresses);
                    }
                    Ok(Err(error)) => tracing::warn!(name, %error, "a mirror's name is not found"),
                    Err(_elapsed) => tracing::warn!(name, "a mirror's name is not found in time"),
                }
            }
        }
    }
}

fn host(section: &MirrorSection) -> Option<String> {
    let url = reqwest::Url::parse(&section.url).ok()?;
    url.host_str().map(str::to_owned)
}
