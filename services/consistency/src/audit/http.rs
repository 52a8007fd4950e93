//! One mirror's URL, and a client for it.

use std::sync::Arc;
use std::time::Duration;

use fetcher::manifests::PageSource;
use mirrorlog_core::consistency::Reach;
use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use reqwest::{Client, Response};
use tokio::time::timeout;

use super::connections::is_own_fault;

/// Slowest that a mirror may send, in bytes a second: a body that drips must not hold an audit for ever.
const SLOWEST_BYTES_PER_S: u64 = 16 * 1024;
/// What an answer may take on top of that, in timeouts for a single read.
const GRACE_TIMEOUTS: u32 = 3;

/// One mirror.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client,
    url: Arc<str>,
    grace: Duration,
}

impl Http {
    /// `timeout`: longest wait for a single read.
    pub(crate) fn new(client: Client, url: Arc<str>, timeout: Duration) -> Self {
        let grace = timeout * GRACE_TIMEOUTS;
        Self { client, url, grace }
    }

    /// Longest that an answer with so many bytes may take.
    pub(super) fn patience(&self, size_bytes: u64) -> Duration {
        self.grace + Duration::from_secs(size_bytes / SLOWEST_BYTES_PER_S)
    }

    /// Asks for a path (encoded already, with its slash); a connection that was kept and turns out
    /// closed is made anew once.
    pub(super) async fn get(
        &self,
        path: &str,
        range: Option<&str>,
    ) -> Result<Response, reqwest::Error> {
        let ask = || {
            let request = self.client.get(format!("{}{path}", self.url));
            match range {
                Some(range) => request.header(reqwest::header::RANGE, range),
                None => request,
            }
        };
        match ask().send().await {
            Err(error) if !error.is_timeout() => ask().send().await,
            answer => answer,
        }
    }

    /// Whether the mirror answers at all; none when it cannot be asked for want of something here.
    pub(super) async fn reach(&self, path: &str) -> Option<Reach> {
        match timeout(self.patience(0), self.get(path, None)).await {
            Ok(Ok(answer)) if !answer.status().is_server_error() => Some(Reach::Answered),
            Ok(Err(error)) if is_own_fault(&error) => None,
            Ok(_) | Err(_) => Some(Reach::Silent),
        }
    }

    /// A whole small answer; none when there is no such thing, or it is larger than `max_bytes`.
    pub(super) async fn bytes(&self, path: &str, max_bytes: usize) -> Option<Vec<u8>> {
        let patience = self.patience(max_bytes as u64);
        timeout(patience, self.read(path, max_bytes)).await.ok()?
    }

    async fn read(&self, path: &str, max_bytes: usize) -> Option<Vec<u8>> {
        let mut answer = self
            .get(path, None)
            .await
            .ok()
            .filter(|answer| answer.status().is_success())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            if bytes.len() + chunk.len() > max_bytes {
                return None;
            }
            bytes.extend_from_slice(&chunk);
        }
        Some(bytes)
    }
}

impl PageSource for Http {
    async fn page(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.bytes(&format!("/@/page/{digest}"), PAGE_MAX_BYTES)
            .await
    }
}
