//! The archive: scans and publishes trees, numbers and signs builds, keeps the journal, feeds the log.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`publish`] | makes a build of a tree, in the publisher's own process |
//! | [`run`], [`config`] | the daemon: start, stop, settings |
//! | `publisher` | publishing from another machine, with a token |
//! | [`commit`] | numbers, signs, journals and announces a build or a retraction |
//! | [`signer`] | a key, or a program that has one |
//! | [`journal`] | one fsynced, signed file for each of them: the truth |
//! | [`fence`] | lets one archive give out numbers |
//! | [`outbox`], [`reconcile`] | bring the log to what the journal says |
//! | `retract` | takes builds back, with an older one in their place or without |
//! | `witness` | who is asked when the count of builds is lost |
//! | `repair` | the whole log against the journal, on request |
//! | [`layout`] | what a tree must be, and how its indexes are read |
//! | `collect` | lets content of old builds go |
//! | `enroll` | mirrors that join by a token |
//! | `roots` | root documents, and what a change of keys means for what was signed |
//! | `drains` | which mirrors take no clients |
//! | [`heads`] | signed heads, renewed on a timer |
//! | [`admin`], [`journal_service`] | gRPC for local commands, and for those who missed the log |
//! | `describe`, `answer` | what a caller is told of a channel, and of what failed |
//! | [`state`] | layout of the control state |

pub mod admin;
mod answer;
mod closure;
mod collect;
pub mod commit;
pub mod config;
pub mod daemon;
mod describe;
mod drains;
mod enroll;
pub mod fence;
pub mod gauges;
pub mod heads;
#[cfg(test)]
#[path = "../../../tests/support/hostile/mod.rs"]
mod hostile;
pub mod journal;
pub mod journal_service;
pub mod layout;
pub mod outbox;
pub mod publish;
mod publisher;
pub mod reconcile;
mod repair;
mod retract;
mod roots;
pub mod run;
mod scan;
mod sign;
pub mod signer;
mod stat_cache;
pub mod state;
mod witness;

pub use config::Config;
pub use run::serve;
