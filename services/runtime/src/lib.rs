//! IO that every service shares: the log, the store, small control state, start-up.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`log`] | NATS JetStream as mirrorlog uses it |
//! | [`feed`] | what archive and consistency service say, verified |
//! | [`doubt`] | events signed by keys of before, which the archive's journal has as they are signed now |
//! | [`early`] | messages that came before the root document which names their key |
//! | [`store`] | pages and blobs as content-addressed files |
//! | [`state`] | small control state in sled |
//! | [`key`] | key files in signify's format |
//! | [`beneath`] | folders that no name leads out of |
//! | [`package`] | packing lists out of OpenBSD's packages |
//! | [`boot`] | configuration, telemetry, shutdown, health, metrics, the clock |
//! | [`tls`] | TLS on gRPC, and a network's own authority |
//! | [`trust`] | whom a service believes: keys, or root documents |
//! | [`trace`] | one trace over NATS headers and gRPC metadata |
#![warn(missing_docs)]

pub mod beneath;
pub mod boot;
pub mod doubt;
pub mod early;
pub mod feed;
pub mod key;
pub mod log;
pub mod package;
pub mod state;
pub mod store;
pub mod tls;
pub mod trace;
pub mod trust;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Wait and try again, here or elsewhere: it passes.
    Retry,
    /// Put the thing at fault aside and go on with others: trying it again does not help.
    Park,
    /// Stop this work and say so: a person or the system has to change something.
    Halt,
}

/// An error with its causes on one line, `a: b: c`, for logs. A cause that its error repeats is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}
