//! Pools of mirrors as names: an authoritative DNS server, UDP and TCP, for one zone.
//!
//! | module | what it does |
//! | --- | --- |
//! | `zone` | names, servers and the SOA |
//! | `pools` | members of the pools, remembered for a moment |
//! | `reply` | one message in, one message out |
//! | [`Responder`] | the same without sockets |
//!
//! hickory reads and writes the messages. The sockets are served here: hickory's own server logs the address of
//! whoever asks, and bounds neither connections nor messages under way.
//!
//! What a resolver tells of its clients (RFC 7871) is not looked at. A machine with several addresses should name
//! one in `dns.listen`, else the system picks the one that UDP answers come from.

mod pools;
mod reply;
mod responder;
#[cfg(test)]
mod tests;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use runtime::boot::{Networks, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use responder::Responder;

use crate::config::DnsSection;
use crate::gauges::Gauges;
use crate::site::Site;
use reply::{Carrier, Desk};
use zone::Zone;

/// How long an address that is in use is tried: a process that was just killed may hold it.
const BIND_FOR: Duration = Duration::from_secs(5);
const BIND_EVERY: Duration = Duration::from_millis(50);
/// Longest question that is read over UDP, in bytes.
const QUESTION_MAX_BYTES: usize = 4096;
/// UDP messages that are answered at once; the system's buffer holds the next ones.
const UDP_MAX: usize = 256;
/// TCP connections at once; the system's backlog holds the next ones.
const TCP_MAX: usize = 256;
/// Longest wait for a question, or for an answer to be taken.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Longest life of a connection, so that nobody keeps a place for good.
const TCP_LIFE: Duration = Duration::from_secs(60);
/// Pause after a socket's error.
const PAUSE: Duration = Duration::from_millis(20);

/// The zone and its sockets, before anybody is answered.
pub(crate) struct Bound {
    zone: Zone,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Bound {
    /// Where it listens, UDP and TCP.
    #[cfg(test)]
    fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// Checks zone, servers and contact, before anything binds.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn check(section: &DnsSection) -> anyhow::Result<()> {
    Zone::new(section).map(drop)
}

/// Checks the zone and binds UDP and TCP. Port 0 is one free port for both.
///
/// # Errors
/// A name that is none, or an address that cannot be had.
pub(crate) async fn bind(section: &DnsSection) -> anyhow::Result<Bound> {
    let zone = Zone::new(section)?;
    let until = Instant::now() + BIND_FOR;
    loop {
        match sockets(section.listen).await {
            Ok((udp, tcp)) => return Ok(Bound { zone, udp, tcp }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                sleep(BIND_EVERY).await;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    let listen = section.listen;
                    format!("dns.listen: cannot listen on {listen}; is another process using it?")
                });
            }
        }
    }
}

async fn sockets(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(listen).await?;
    let tcp = TcpListener::bind(udp.local_addr()?).await?;
    Ok((udp, tcp))
}

/// Answers until `shutdown`.
///
/// # Errors
/// None so far: a socket that fails is tried again.
pub(crate) async fn serve(
    bound: Bound,
    section: &DnsSection,
    site: Arc<Site>,
    gauges: Gauges,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let desk = Arc::new(Desk::new(bound.zone, section, site, gauges));
    let networks = Networks::new(section.limits.clone());
    // What is under way ends with these futures; resolvers ask again.
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = serve_udp(bound.udp, Arc::clone(&desk), networks.clone()) => Ok(()),
        () = serve_tcp(bound.tcp, desk, networks) => Ok(()),
    }
}

async fn serve_udp(socket: UdpSocket, desk: Arc<Desk>, networks: Networks) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; QUESTION_MAX_BYTES];
    let mut tasks = JoinSet::new();
    loop {
        make_room(&mut tasks, UDP_MAX).await;
        let (count, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a DNS question could not be received");
                sleep(PAUSE).await;
                continue;
            }
        };
        let carrier = match networks.ask(from.ip()) {
            Ok(()) => Carrier::Udp,
            Err(_wait) => Carrier::Brief,
        };
        // A task each, so that a message that breaks something breaks nothing else.
        let (desk, socket) = (Arc::clone(&desk), Arc::clone(&socket));
        let question = buffer[..count].to_vec();
        tasks.spawn(async move {
            if let Some(answer) = desk.answer(&question, from.ip(), carrier, now())
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(%error, "a DNS answer could not be sent");
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, desk: Arc<Desk>, networks: Networks) {
    let mut tasks = JoinSet::new();
    loop {
        make_room(&mut tasks, TCP_MAX).await;
        match listener.accept().await {
            Ok((stream, from)) => {
                // Whose network has its share is closed without a word.
                let Some(place) = networks.enter(from.ip()) else {
                    continue;
                };
                let desk = Arc::clone(&desk);
                tasks.spawn(async move {
                    let _place = place;
                    // Ends by silence, by an error or by age: nothing is amiss, and the other end knows.
                    timeout(TCP_LIFE, converse(stream, from, &desk)).await.ok();
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a DNS connection could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Waits until fewer than `max` tasks are under way.
async fn make_room(tasks: &mut JoinSet<()>, max: usize) {
    while let Some(ended) = tasks.try_join_next() {
        complain(ended);
    }
    while tasks.len() >= max
        && let Some(ended) = tasks.join_next().await
    {
        complain(ended);
    }
}

fn complain(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a DNS question could not be answered");
    }
}

/// Answers one question after the other; each message has its length in front (RFC 1035, 4.2.2).
async fn converse(mut stream: TcpStream, from: SocketAddr, desk: &Desk) -> io::Result<()> {
    // Answers to questions that came together wait for nothing.
    stream.set_nodelay(true)?;
    loop {
        let question = timeout(TCP_IDLE, async {
            let mut question = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut question).await?;
            io::Result::Ok(question)
        });
        let question = question.await??;
        let Some(answer) = desk.answer(&question, from.ip(), Carrier::Tcp, now()) else {
            return Ok(());
        };
        let Ok(length) = u16::try_from(answer.len()) else {
            return Ok(());
        };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
}
