//! The server without its sockets.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use fetcher::client::Source;
use fetcher::manifests::Manifests;
use mirrorlog_core::directory::Directory;
use mirrorlog_core::time::Timestamp;
use runtime::store::Store;
use tokio::sync::watch;

use super::reply::{Carrier, Desk};
use super::zone::Zone;
use crate::config::Config;
use crate::gauges::Gauges;
use crate::geo::Geo;
use crate::resolve::Addresses;
use crate::run::numbered;
use crate::site::{Site, Views};
use crate::trees::Trees;

/// Answers messages from one view that stays as it is, with the addresses that the configuration has.
pub struct Responder(Desk);

impl Responder {
    /// Takes the view that `fold` has now. Pages would lie in `dir`; DNS needs none.
    ///
    /// # Errors
    /// What is wrong with the configuration, which needs a section `dns`, or with `dir`.
    pub fn new(config: &Config, fold: &Directory, dir: &Path) -> anyhow::Result<Self> {
        let section = config.dns.as_ref();
        let section = section.context("the configuration has no section dns")?;
        let (_views, seen) = watch::channel(Arc::new(fold.view().clone()));
        let addresses = Addresses::declared(&numbered(config, fold));
        let source = Source::new(&config.archive.fetch)?;
        let trees = Trees::new(Manifests::new(Store::open(dir)?, 0, source));
        let site = Site::new(config, Views(seen), Geo::default(), addresses, trees);
        let zone = Zone::new(section)?;
        Ok(Self(Desk::new(
            zone,
            section,
            Arc::new(site),
            Gauges::default(),
        )))
    }

    /// The answer to a message that came over UDP; none to what is no question at all.
    pub fn answer_udp(&self, message: &[u8], from: IpAddr, now: Timestamp) -> Option<Vec<u8>> {
        self.0.answer(message, from, Carrier::Udp, now)
    }

    /// The answer to a message that came over TCP, without its length.
    pub fn answer_tcp(&self, message: &[u8], from: IpAddr, now: Timestamp) -> Option<Vec<u8>> {
        self.0.answer(message, from, Carrier::Tcp, now)
    }
}
