//! Connections to mirrors: their number is bounded, however many mirrors there are.
//!
//! A mirror's connections last as long as its audit, and longer only for the mirrors audited last. Otherwise a
//! thousand mirrors at dozens of connections each would use up the files that a process may have open, and an auditor
//! that cannot connect takes mirrors for dead that are not.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mirrorlog_core::id::MirrorId;
use reqwest::Client;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most audits that run at the same time, all mirrors together.
const AUDITS_AT_ONCE_MAX: usize = 64;
/// Mirrors whose connections are kept for their next audit.
const KEPT_MIRRORS: usize = 16;
/// Files that a service has open beside its connections to mirrors.
const OTHER_FILES: u64 = 256;

/// One client for each mirror that is audited now or was lately.
pub(super) struct Connections {
    timeout: Duration,
    per_mirror: usize,
    /// The one used last is at the end.
    kept: Mutex<VecDeque<(MirrorId, Client)>>,
}

impl Connections {
    /// `timeout`: longest wait for a connection, and for the next bytes of an answer.
    pub(super) fn new(timeout: Duration, per_mirror: usize) -> Self {
        Self {
            timeout,
            per_mirror,
            kept: Mutex::default(),
        }
    }

    /// Connections to a mirror: those of its last audit where they were kept. They last as long as they are used here.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn to(&self, mirror: &MirrorId) -> Result<Client, reqwest::Error> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(known, _)| known == mirror);
        let client = match place.and_then(|place| kept.remove(place)) {
            Some((_, client)) => client,
            None => fetcher::web::client(self.timeout, self.per_mirror)?,
        };
        kept.push_back((mirror.clone(), client.clone()));
        if kept.len() > KEPT_MIRRORS {
            kept.pop_front();
        }
        Ok(client)
    }
}

/// How many audits may run at the same time, of so many connections each, when so many files may be open.
/// A request may begin a connection and then be answered through another one: each counts twice. Those that are kept for
/// mirrors audited lately count too.
pub(super) fn audits_at_once(open_files_max: u64, per_mirror: usize) -> usize {
    let per_mirror = per_mirror.max(1) as u64;
    let kept = (KEPT_MIRRORS as u64).saturating_mul(per_mirror);
    let files = open_files_max.saturating_sub(OTHER_FILES.saturating_add(kept));
    let audits = files / per_mirror.saturating_mul(2);
    usize::try_from(audits)
        .unwrap_or(usize::MAX)
        .clamp(1, AUDITS_AT_ONCE_MAX)
}

/// Lets this process have as many files open as it may, and says how many those are.
pub(crate) fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let open_files_max = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, ?maximum, "the limit of open files cannot be raised");
            current
        }
    };
    // None: no limit.
    open_files_max.unwrap_or(u64::MAX)
}

/// True when a request failed for want of files or memory here: it says nothing about the mirror.
///
/// An address that cannot be used is no such failure. It may be the mirror's: of a family that this machine does not
/// speak, which a dead mirror could name to hide behind.
pub(super) fn is_own_fault(error: &(dyn Error + 'static)) -> bool {
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let mut cause = Some(error);
    while let Some(error) = cause {
        let code = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::raw_os_error);
        if code.is_some_and(|code| own.iter().any(|own| own.raw_os_error() == code)) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const PER_MIRROR: usize = 4;

    #[test]
    fn as_many_audits_as_files_may_be_open() {
        assert_eq!(audits_at_once(u64::MAX, 24), AUDITS_AT_ONCE_MAX);
        assert_eq!(audits_at_once(1024, 24), 8);
        assert_eq!(audits_at_once(1024, 1000), 1);
        assert_eq!(audits_at_once(10, 24), 1);
        assert_eq!(audits_at_once(1024, 0), AUDITS_AT_ONCE_MAX);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn what_is_wanting_here_is_not_the_mirrors_fault() {
        let fault = |error: Errno| is_own_fault(&Outer(error.into()));
        assert!(fault(Errno::MFILE) && fault(Errno::NFILE) && fault(Errno::NOBUFS));
        assert!(
            !fault(Errno::ADDRNOTAVAIL),
            "a mirror chooses its addresses"
        );
        assert!(!fault(Errno::CONNREFUSED) && !fault(Errno::CONNRESET) && !fault(Errno::TIMEDOUT));
    }

    /// Answers everything with one byte, for as long as the client keeps the connection.
    async fn answer(mut connection: TcpStream, open: Arc<AtomicUsize>) {
        let mut request = [0; 4096];
        while connection
            .read(&mut request)
            .await
            .is_ok_and(|length| length > 0)
        {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
            connection.write_all(answer).await.unwrap();
        }
        open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn serve(open: Arc<AtomicUsize>) -> u16 {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(connection, open.clone()));
            }
        });
        port
    }

    #[tokio::test]
    async fn connections_do_not_grow_with_the_number_of_mirrors() {
        let open = Arc::new(AtomicUsize::new(0));
        let port = serve(open.clone()).await;
        let connections = Connections::new(Duration::from_secs(10), PER_MIRROR);
        for mirror in 1..=4 * KEPT_MIRRORS {
            let client = connections
                .to(&format!("m{mirror}").parse().unwrap())
                .unwrap();
            let url = format!("http://127.0.0.{mirror}:{port}/");
            let asked = join_all((0..PER_MIRROR).map(|_| client.get(&url).send())).await;
            for answer in asked {
                assert_eq!(answer.unwrap().bytes().await.unwrap().len(), 1);
            }
        }
        // Those of mirrors that were not audited lately are closed, long before they would be for being idle.
        let bound = KEPT_MIRRORS * PER_MIRROR;
        let closed = async {
            while open.load(Ordering::SeqCst) > bound {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed)
            .await
            .unwrap();
        assert_eq!(connections.kept.lock().unwrap().len(), KEPT_MIRRORS);
    }

    #[test]
    fn a_mirrors_next_audit_finds_its_connections() {
        let connections = Connections::new(Duration::from_secs(1), PER_MIRROR);
        let [first, second]: [MirrorId; 2] = ["nz1", "nz2"].map(|id| id.parse().unwrap());
        for mirror in [&first, &second, &first] {
            connections.to(mirror).unwrap();
        }
        let kept: Vec<MirrorId> = connections
            .kept
            .lock()
            .unwrap()
            .iter()
            .map(|(id, _)| id.clone())
            .collect();
        assert_eq!(kept, [second, first]);
    }
}
