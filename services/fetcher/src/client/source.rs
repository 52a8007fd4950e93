//! A host that content is fetched from.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirrorlog_core::id::Lane;
use runtime::tls::Tls;
use tonic::transport::{Channel, Endpoint};

use crate::protocol::{CONNECTION_WINDOW_BYTES, FRAME_MAX_BYTES, STREAM_WINDOW_BYTES};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why an address cannot be a source.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not an address: use host:port")]
pub struct SourceError {
    address: String,
    #[source]
    source: tonic::transport::Error,
}

/// One archive or mirror. Connects when it is first needed, once per lane, and is cheap to clone.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    address: String,
    endpoint: Endpoint,
    priority: Mutex<Option<Channel>>,
    bulk: Mutex<Option<Channel>>,
}

impl Source {
    /// Makes a source of `host:port` (or of a URL) without TLS of ours. Does not connect yet.
    ///
    /// # Errors
    /// [`SourceError`] when that is no address.
    pub fn new(address: &str) -> Result<Self, SourceError> {
        Self::of(address, None)
    }

    /// As [`Source::new`], with TLS where it is given.
    ///
    /// # Errors
    /// As [`Source::new`].
    pub fn of(address: &str, tls: Option<&Tls>) -> Result<Self, SourceError> {
        let endpoint = runtime::tls::endpoint(address, tls);
        let endpoint = endpoint.map_err(|source| SourceError {
            address: address.to_owned(),
            source,
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(KEEPALIVE))
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_MAX_BYTES);
        let address = address.to_owned();
        Ok(Self(Arc::new(Inner {
            address,
            endpoint,
            priority: Mutex::default(),
            bulk: Mutex::default(),
        })))
    }

    /// The address as it was given.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// The lane's connection, made if need be when it is first used.
    pub(super) fn channel(&self, lane: Lane) -> Channel {
        let mut slot = self
            .slot(lane)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert_with(|| self.0.endpoint.connect_lazy())
            .clone()
    }

    /// Forgets the lane's connection: the next use makes a new one.
    pub(super) fn reset(&self, lane: Lane) {
        *self
            .slot(lane)
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn slot(&self, lane: Lane) -> &Mutex<Option<Channel>> {
        match lane {
            Lane::Priority => &self.0.priority,
            Lane::Bulk => &self.0.bulk,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.0.address).finish()
    }
}
