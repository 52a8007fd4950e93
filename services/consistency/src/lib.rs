//! The consistency service: follows log and reports, audits mirrors as a client would see them, and
//! says which build is complete where and which one is wanted.
//!
//! `mirrorlog_core::consistency` decides; this crate does.
//!
//! ```text
//!  log, heads, journal --+                      +--> audit (HTTP, /@/ and live) --+
//!  reports, verdicts ----+--> inbox --> desk ---+--> verdicts, wanted builds      |
//!  lease ----------------+       ^     (fold)   +--> gRPC Status, Watch           |
//!                                +------------------------------------------------+
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | [`config`] | the configuration file |
//! | [`run`] | starts and stops all of it |
//! | `desk` | where orders are handed in |
//! | `work` | owns the fold; the only place that changes it |
//! | `inbox` | reports, checked, and all that [`runtime::feed`] hears, turned into inputs |
//! | `lease` | who leads |
//! | `limits` | how many reports of one mirror are looked at, and how many wait |
//! | `audit` | which files to ask for, and what came back |
//! | `post` | signed verdicts and wanted builds on their way out |
//! | `grpc` | `Consistency.Status` and `Consistency.Watch` |
//! | `gauges` | metrics |
//!
//! The service keeps nothing that it could not make again: its folder holds manifest pages, parked
//! messages and the name under which it takes the lease.

mod audit;
pub mod config;
mod desk;
mod gauges;
mod grpc;
mod inbox;
mod lease;
mod limits;
mod post;
pub mod run;
mod work;

pub use config::Config;
pub use run::serve;
