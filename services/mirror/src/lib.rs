//! A mirror: follows the log, brings builds here whole, serves them.
//!
//! | module | what |
//! | --- | --- |
//! | [`config`] | what the operator sets |
//! | [`run`] | wires everything and runs it |
//! | `engine` | the shell around `mirrorlog_core::mirror`: step, persist, perform, ack |
//! | `inbox` | events, heads and orders from the log, verified before the engine sees them |
//! | `parked` | messages that cannot be used |
//! | `journal` | what the log did not bring, asked of the archive |
//! | `roots` | root documents: who speaks for the archive |
//! | `peers` | the mirrors of its pool, which bring shares of a build for each other |
//! | `views` | the part of each channel that is carried |
//! | `sync` | pages and blobs of one build, until every byte is durable |
//! | `state` | keys and values in the control database |
//! | `serving` | what is served right now, swapped as one pointer |
//! | `http` | the public face |
//! | `report` | what the consistency service is told |
//! | `boots` | which start of this mirror it is told of |
//! | `scrub`, `collect` | what is lost is found, what is unused goes |

pub mod config;
#[cfg(test)]
#[path = "../../../tests/support/hostile/mod.rs"]
mod hostile;
pub mod run;

pub mod adopt;
mod boots;
mod collect;
mod engine;
mod export;
mod hours;
pub mod http;
mod inbox;
mod journal;
mod metrics;
mod parked;
mod peers;
mod report;
mod room;
mod roots;
mod scrub;
mod serving;
mod state;
mod suspects;
mod sync;
mod views;
