//! A connection that somebody else opened: it has a place, speaks in time, and reads what it asked for.
//!
//! Rules, each for the attack that it stops:
//!
//! - **Greeting.** A connection that says nothing is closed. HTTP/1 has its own time for a request's head; HTTP/2 would
//!   wait for the client's preface for ever.
//! - **Reading.** Whoever does not read what it asked for is cut off: while nothing more can be sent, at least
//!   [`Reading::least_bytes`] have to go out in every [`Reading::within`]. The time is long because the system tells
//!   of room in lumps of a third of its buffer, which may be hundreds of KiB; a reader of 20 kbit/s is served to the
//!   end. What a slow reader holds meanwhile is one place of its network's, and the buffers of one connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::networks::Place;

/// How a client has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Fewest bytes that it takes while more wait for it.
    pub least_bytes: u64,
    /// In this time.
    pub within: Duration,
}

impl Default for Reading {
    /// 0.8 kbit/s.
    fn default() -> Self {
        Self {
            least_bytes: 30 * 1024,
            within: Duration::from_secs(300),
        }
    }
}

/// The first bytes of a connection, and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) bytes: usize,
    pub(super) within: Duration,
}

/// A TCP connection with its place.
pub(super) struct Guest {
    stream: TcpStream,
    _place: Place,
    reading: Reading,
    /// Bytes that went out since `full` began.
    taken_bytes: u64,
    /// Runs since there was no room to write.
    full: Option<Pin<Box<Sleep>>>,
    /// Bytes of the greeting that are to come, and until when.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Guest {
    pub(super) fn new(
        stream: TcpStream,
        place: Place,
        reading: Reading,
        greeting: Option<Greeting>,
    ) -> Self {
        let greeting = greeting.map(|Greeting { bytes, within }| {
            let until = Instant::now() + within;
            (bytes, Box::pin(sleep_until(until)))
        });
        Self {
            stream,
            _place: place,
            reading,
            taken_bytes: 0,
            full: None,
            greeting,
        }
    }

    /// What follows from one try to write.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let within = self.reading.within;
        match &wrote {
            Poll::Ready(Ok(bytes)) => {
                self.taken_bytes = self.taken_bytes.saturating_add(*bytes as u64);
                if self.taken_bytes >= self.reading.least_bytes {
                    self.full = None;
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let full = self.full.get_or_insert_with(|| {
                    self.taken_bytes = 0;
                    Box::pin(sleep_until(Instant::now() + within))
                });
                ready!(full.as_mut().poll(cx));
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client does not read what it asked for",
                )));
            }
        }
        wrote
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some((missing, until)) = &mut self.greeting else {
            return read;
        };
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.greeting = None;
            return read;
        }
        if read.is_pending() && until.as_mut().poll(cx).is_ready() {
            let silent = "the client says nothing";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, silent)));
        }
        read
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // All that there was to send is gone: what comes next has its own time.
        self.full = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Guest {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}
