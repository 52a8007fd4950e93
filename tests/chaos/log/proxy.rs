//! Stands between the services and nats-server, and plays faults on whole messages. Never alters a byte of one.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::faults::{Fault, HOLD_MAX, OVERTAKE_MAX, OVERTAKE_WITHIN, Odds, Played, STALL_MAX};
use super::protocol::{Frame, client_name, first_frame};
use crate::load::Chance;

/// How long a read may keep held messages from going on.
const TICK: Duration = Duration::from_millis(10);
const READ_BYTES: usize = 1 << 16;

/// A running proxy; it ends its connections on drop.
pub(super) struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    server_port: u16,
    seed: u64,
    odds: RwLock<Odds>,
    played: Played,
    ended: AtomicBool,
    /// How often each client has connected.
    connections: Mutex<BTreeMap<String, u64>>,
}

impl Proxy {
    /// In front of the server at a port of this machine; plays nothing yet.
    pub(super) fn start(server_port: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server_port,
            seed,
            odds: RwLock::default(),
            played: Played::default(),
            ended: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &accepting));
        Self {
            shared,
            port,
            acceptor: Some(acceptor),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Plays these faults from now on.
    pub(super) fn play(&self, odds: Odds) {
        *self.shared.odds.write().unwrap() = odds;
    }

    /// Plays nothing any more. Connections that were left half open stay so until they are noticed.
    pub(super) fn heal(&self) {
        self.play(Odds::default());
    }

    pub(super) fn played(&self) -> &Played {
        &self.shared.played
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while let Ok((client, _)) = listener.accept() {
        if shared.ended.load(Ordering::Relaxed) {
            break;
        }
        // The server may be away: so is this.
        let Ok(server) = TcpStream::connect(("127.0.0.1", shared.server_port)) else {
            continue;
        };
        let line = Arc::new(Line::default());
        for way in [Way::ToServer, Way::ToClient] {
            let (from, to) = match way {
                Way::ToServer => (&client, &server),
                Way::ToClient => (&server, &client),
            };
            let pump = Pump::new(way, from, to, Arc::clone(&line), Arc::clone(shared));
            connections.push(std::thread::spawn(move || pump.run()));
        }
    }
    for connection in connections {
        connection.join().ok();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// What both ways of a connection share.
#[derive(Default)]
struct Line {
    /// The client's name and which of its connections this is; known once it has introduced itself.
    client: OnceLock<(String, u64)>,
    silent_until: Mutex<Option<Instant>>,
    /// The client is answered no more, and not told.
    half_open: AtomicBool,
    ended: AtomicBool,
}

/// A message that others overtake.
struct Held {
    bytes: Vec<u8>,
    overtakers: Option<u64>,
    until: Instant,
}

/// One way of one connection.
struct Pump {
    way: Way,
    from: TcpStream,
    to: TcpStream,
    line: Arc<Line>,
    shared: Arc<Shared>,
    chance: Option<Chance>,
    buffer: Vec<u8>,
    held: Vec<Held>,
}

/// The connection is over.
struct Over;

impl Pump {
    fn new(
        way: Way,
        from: &TcpStream,
        to: &TcpStream,
        line: Arc<Line>,
        shared: Arc<Shared>,
    ) -> Self {
        from.set_read_timeout(Some(TICK)).unwrap();
        to.set_nodelay(true).unwrap();
        Self {
            way,
            from: from.try_clone().unwrap(),
            to: to.try_clone().unwrap(),
            line,
            shared,
            chance: None,
            buffer: Vec::new(),
            held: Vec::new(),
        }
    }

    fn run(mut self) {
        while self.turn().is_ok() {}
        let half_open = self.line.half_open.load(Ordering::Relaxed);
        self.line.ended.store(true, Ordering::Relaxed);
        // The client's side stays as it is while it is half open: the other way takes what it says.
        let client_too = !half_open || self.way == Way::ToServer;
        for (stream, is_client) in [
            (&self.from, self.way == Way::ToServer),
            (&self.to, self.way == Way::ToClient),
        ] {
            if client_too || !is_client {
                stream.shutdown(Shutdown::Both).ok();
            }
        }
    }

    /// Releases what was held long enough, reads a little, passes whole frames on.
    fn turn(&mut self) -> Result<(), Over> {
        let half_open = self.line.half_open.load(Ordering::Relaxed);
        let over = self.line.ended.load(Ordering::Relaxed) && !half_open;
        if over || self.shared.ended.load(Ordering::Relaxed) {
            return Err(Over);
        }
        let silent = *self.line.silent_until.lock().unwrap();
        if silent.is_some_and(|until| Instant::now() < until) {
            std::thread::sleep(TICK);
            return Ok(());
        }
        self.release()?;
        let mut bytes = [0; READ_BYTES];
        let count = match self.from.read(&mut bytes) {
            Ok(0) => return Err(Over),
            Ok(count) => count,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => 0,
            Err(_) => return Err(Over),
        };
        if half_open {
            return Ok(());
        }
        self.buffer.extend_from_slice(&bytes[..count]);
        while let Some(frame) = first_frame(&self.buffer) {
            let bytes: Vec<u8> = self.buffer.drain(..frame.bytes).collect();
            self.pass(frame, bytes)?;
        }
        Ok(())
    }

    fn pass(&mut self, frame: Frame, bytes: Vec<u8>) -> Result<(), Over> {
        if !frame.is_message {
            if let Some(name) = client_name(&bytes) {
                let mut connections = self.shared.connections.lock().unwrap();
                let number = connections.entry(name.clone()).or_default();
                *number += 1;
                self.line.client.get_or_init(|| (name, *number));
            }
            return self.send(&bytes);
        }
        let Some(fault) = self.choose() else {
            self.send(&bytes)?;
            return self.overtaken();
        };
        self.shared.played.count(fault);
        let chance = self.chance.as_mut().ok_or(Over)?;
        let hold = Duration::from_millis(chance.below(HOLD_MAX.as_millis() as u64));
        match fault {
            Fault::Drop => Ok(()),
            Fault::Double => {
                self.send(&bytes)?;
                self.send(&bytes)
            }
            Fault::Reorder | Fault::Delay => {
                let overtakers = 1 + chance.below(OVERTAKE_MAX);
                self.held.push(Held {
                    bytes,
                    overtakers: (fault == Fault::Reorder).then_some(overtakers),
                    // With nobody to overtake it, it goes on all the same.
                    until: Instant::now()
                        + if fault == Fault::Reorder {
                            OVERTAKE_WITHIN
                        } else {
                            hold
                        },
                });
                Ok(())
            }
            Fault::Cut => Err(Over),
            Fault::Stall if chance.one_in(2) => {
                self.line.half_open.store(true, Ordering::Relaxed);
                Ok(())
            }
            Fault::Stall => {
                let silence = Duration::from_millis(chance.below(STALL_MAX.as_millis() as u64));
                *self.line.silent_until.lock().unwrap() = Some(Instant::now() + silence);
                self.send(&bytes)
            }
            Fault::All | Fault::Wipe | Fault::Rollback => self.send(&bytes),
        }
    }

    /// What befalls the next message. Each way of each connection has choices of its own.
    fn choose(&mut self) -> Option<Fault> {
        if self.chance.is_none() {
            let (name, number) = self.line.client.get()?;
            let name = format!("{name} {:?}", self.way);
            self.chance = Some(Chance::of(self.shared.seed, &name, *number));
        }
        let odds = *self.shared.odds.read().unwrap();
        odds.choose(self.chance.as_mut()?)
    }

    /// One more message has overtaken those that are held.
    fn overtaken(&mut self) -> Result<(), Over> {
        for held in &mut self.held {
            held.overtakers = held.overtakers.map(|left| left.saturating_sub(1));
        }
        self.release()
    }

    fn release(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        let free = |held: &mut Held| held.overtakers == Some(0) || held.until <= now;
        let released: Vec<Held> = self.held.extract_if(.., free).collect();
        for held in released {
            self.send(&held.bytes)?;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.to.write_all(bytes).map_err(|_| Over)
    }
}
