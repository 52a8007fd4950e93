//! Ports that stay free for the server that they are meant for.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, sockopt};

/// Below what systems give to outgoing connections: those would take the port of a server that is down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
const TRIES: usize = 1000;

/// A TCP port that nobody else draws or is given while this lives, whether its server runs or not.
///
/// It is a socket that never listens. On Linux a server that sets `SO_REUSEADDR`, as they do, may listen beside it;
/// whoever asks for any port is given another; and whoever wants the port for itself, as [`HeldPort::draw`], is refused.
#[derive(Debug)]
pub struct HeldPort {
    number: u16,
    _socket: OwnedFd,
}

impl HeldPort {
    /// A port that nobody uses, of every IPv4 address, at random: others may be choosing too.
    ///
    /// # Errors
    /// The system's; [`std::io::ErrorKind::AddrInUse`] after a thousand tries.
    pub fn draw() -> std::io::Result<Self> {
        let many = u32::from(PORTS.end - PORTS.start);
        for _ in 0..TRIES {
            let drawn = getrandom::u32().map_err(std::io::Error::other)? % many;
            let number = PORTS.start + u16::try_from(drawn).unwrap_or(0);
            let socket = tcp()?;
            match bind(&socket, &every_address(number)) {
                Ok(()) => {}
                Err(Errno::ADDRINUSE) => continue,
                Err(error) => return Err(error.into()),
            }
            sockopt::set_socket_reuseaddr(&socket, true)?;
            return Ok(Self {
                number,
                _socket: socket,
            });
        }
        let text = format!("no free port between {} and {}", PORTS.start, PORTS.end);
        Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, text))
    }

    /// A port that was chosen before, of one address; connections of its last server may still be ending. It may be held
    /// more than once.
    ///
    /// # Errors
    /// The system's; [`std::io::ErrorKind::AddrInUse`] when a server could not listen there either.
    pub fn at(place: SocketAddrV4) -> std::io::Result<Self> {
        let socket = tcp()?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &place)?;
        Ok(Self {
            number: place.port(),
            _socket: socket,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

fn tcp() -> std::io::Result<OwnedFd> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    Ok(socket)
}

fn every_address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_may_listen_again_and_again_and_nobody_else_draws_it() {
        let held = HeldPort::draw().unwrap();
        assert!(PORTS.contains(&held.number()));
        for _ in 0..2 {
            for address in ["127.0.0.1", "127.0.0.2"] {
                let server = TcpListener::bind((address, held.number())).unwrap();
                // A connection that has ended is remembered by the system for a minute.
                let client = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
                drop(server.accept().unwrap());
                drop(client);
            }
            let alone = bind(tcp().unwrap(), &every_address(held.number()));
            assert_eq!(alone, Err(Errno::ADDRINUSE));
        }
        let place = SocketAddrV4::new(Ipv4Addr::LOCALHOST, held.number());
        let again = HeldPort::at(place).unwrap();
        drop(held);
        let alone = bind(tcp().unwrap(), &every_address(again.number()));
        assert_eq!(alone, Err(Errno::ADDRINUSE));
        let _server = TcpListener::bind(place).unwrap();
        let error = HeldPort::at(place).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    }

    #[test]
    fn no_two_are_the_same() {
        let held: Vec<HeldPort> = (0..500).map(|_| HeldPort::draw().unwrap()).collect();
        let numbers: std::collections::BTreeSet<u16> = held.iter().map(HeldPort::number).collect();
        assert_eq!(numbers.len(), held.len());
    }
}
