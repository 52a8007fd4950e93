//! Mirrors that have a manifest, while the archive is away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fetcher::manifests::PageSource;
use mirrorlog_core::consistency::Audience;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::member::MirrorIndex;
use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use reqwest::Client;
use tokio::time::timeout;

/// Mirrors that are asked for one manifest.
pub(crate) const HOLDERS_MAX: usize = 3;
/// Longest that a mirror may take for a page.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that are kept to each.
const CONNECTIONS: usize = 4;

pub(super) fn client() -> Result<Client, reqwest::Error> {
    fetcher::web::client(PATIENCE, CONNECTIONS)
}

/// Public mirrors that answer and are complete at a build with this root. Who comes first differs from root to root.
pub(crate) fn of(view: &View, root: Digest) -> Vec<MirrorIndex> {
    let mut holders = Vec::new();
    for (_, carried) in view.channels() {
        let builds = carried.channel.builds.iter();
        for (build, _) in builds.filter(|(_, known)| known.root == root) {
            let here = view.mirrors().filter(|(mirror, profile)| {
                profile.audience == Audience::Public
                    && view.health(*mirror).is_up()
                    && carried.is_complete(*mirror, *build)
            });
            holders.extend(here.map(|(mirror, _)| mirror));
        }
    }
    if !holders.is_empty() {
        let first = usize::from(root.as_bytes()[0]) % holders.len();
        holders.rotate_left(first);
    }
    holders.truncate(HOLDERS_MAX);
    holders
}

/// Asks mirrors for pages, the one that gave the last page first.
pub(super) struct Holders {
    client: Client,
    urls: Vec<String>,
    /// Who is asked first: one that is dead costs its time once, not at each page.
    first: AtomicUsize,
}

impl Holders {
    pub(super) fn new(client: Client, mut urls: Vec<String>) -> Self {
        urls.truncate(HOLDERS_MAX);
        Self {
            client,
            urls,
            first: AtomicUsize::new(0),
        }
    }

    async fn page_from(&self, url: &str, digest: &Digest) -> Option<Vec<u8>> {
        let url = format!("{url}/@/page/{digest}");
        let answer = self.client.get(url).send().await.ok();
        let mut answer = answer.filter(|answer| answer.status().is_success())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            if bytes.len() + chunk.len() > PAGE_MAX_BYTES {
                return None;
            }
            bytes.extend_from_slice(&chunk);
        }
        // Of a mirror that gives something else, the next one may know better.
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }
}

impl PageSource for Holders {
    async fn page(&self, digest: &Digest) -> Option<Vec<u8>> {
        let first = self.first.load(Ordering::Relaxed);
        for step in 0..self.urls.len() {
            let at = (first + step) % self.urls.len();
            let asked = timeout(PATIENCE, self.page_from(&self.urls[at], digest));
            if let Ok(Some(page)) = asked.await {
                self.first.store(at, Ordering::Relaxed);
                return Some(page);
            }
        }
        None
    }
}
