//! The directory: tells clients which mirror is the right one for them, in every form that they ask for.
//!
//! `mirrorlog_core::directory` decides; this crate does.
//!
//! ```text
//!  log, heads, wanted, verdicts, journal --> desk --> work (fold) --> view --> site --> HTTP, DNS, export
//!  probes of the mirrors ------------------^   ^                        |        ^
//!  feedback --> log -----------------------+---+         state file <---+     geo, manifests
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | [`config`] | the configuration file |
//! | [`run`] | starts and stops all of it |
//! | `desk` | where inputs are handed in |
//! | `work` | owns the fold; the only place that changes it; gives each new view away |
//! | `saved` | the last state on disk, for a start without the log |
//! | `probe` | whether mirrors answer, and serve what they should |
//! | `geo` | where an address is |
//! | `resolve` | addresses of the mirrors' names |
//! | `trees` | which file a path is, in which build |
//! | `site` | all that an answer is made from |
//! | `http` | the web: lists, redirects, metalinks, feeds, pages |
//! | `dns` | pools of mirrors as names |
//! | `pieces` | digests of files' pieces |
//! | `feedback` | what clients saw, without who they are; `traces`: what the operator may look at |
//! | [`export`] | the lists as static files |
//! | `gauges` | metrics |
//!
//! A replica keeps nothing that it could not make again. Several of them need know nothing of each other: all
//! follow the same log.

pub mod config;
mod desk;
pub mod dns;
pub mod export;
mod feedback;
mod gauges;
mod geo;
#[cfg(test)]
#[path = "../../../tests/support/hostile/mod.rs"]
mod hostile;
pub mod http;
mod pieces;
mod probe;
mod resolve;
pub mod run;
mod saved;
mod site;
pub mod traces;
mod trees;
mod work;

pub use config::Config;
pub use run::serve;
