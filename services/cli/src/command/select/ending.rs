//! Signals that end the list: the terminal is as it was before the program goes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

/// A signal that asks the program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal went, or the connection to it.
    HangUp,
}

impl Ending {
    /// The exit code, as shells tell it: 128 and the signal's number.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Terminate => 143,
            Self::HangUp => 129,
        }
    }
}

/// What came so far.
#[derive(Clone, Copy, Debug)]
enum State {
    Shown(Option<Ending>),
    Gone,
}

/// Listens for signals, from the first list on.
pub(super) struct Endings(Arc<Mutex<State>>);

impl Endings {
    /// While the list is shown a signal is remembered for it; later it ends the program, as if nobody had listened.
    ///
    /// # Errors
    /// When the system does not let a program listen.
    pub(super) fn listen() -> io::Result<Self> {
        let (mut terminate, mut hang_up) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        );
        let state = Arc::new(Mutex::new(State::Shown(None)));
        let shared = state.clone();
        tokio::spawn(async move {
            loop {
                let ending = tokio::select! {
                    Some(()) = terminate.recv() => Ending::Terminate,
                    Some(()) = hang_up.recv() => Ending::HangUp,
                    else => return,
                };
                let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match *state {
                    State::Shown(_) => *state = State::Shown(Some(ending)),
                    State::Gone => std::process::exit(ending.code().into()),
                }
            }
        });
        Ok(Self(state))
    }

    /// The signal that came.
    pub(super) fn seen(&self) -> Option<Ending> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Shown(ending) => ending,
            State::Gone => None,
        }
    }

    /// The terminal is as it was: from now on a signal ends the program at once.
    pub(super) fn list_is_gone(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::Gone;
    }
}
