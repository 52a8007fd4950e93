//! apt's acquire method: apt asks on standard input, files come from one pinned build of each channel.
//!
//! `deb mirrorlog://directory-host/ubuntu noble main` makes apt start this program, ask it for `InRelease`, the
//! indexes and the packages, and write down what it answers (apt's method.html). The first question about a channel
//! pins its build, and every index of this run comes from it, whatever is published meanwhile. A package is known by
//! its digest: one that the pinned build no longer has is looked for in the builds before.
//!
//! | module | what it does |
//! | --- | --- |
//! | `message` | apt's messages, read and written |
//! | `settings` | what apt's configuration says: key, country, proxies, time-outs, user |
//! | `mounts` | which channel a URI is of |
//! | `run` | reads questions, answers them side by side |
//! | `acquire` | one question |

mod acquire;
mod message;
mod mounts;
mod run;
mod settings;

pub use message::Message;
pub use mounts::Wanted;
pub use run::{MethodError, begin};
pub use settings::Settings;
