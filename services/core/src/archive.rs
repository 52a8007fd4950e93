//! Which build comes next: numbers, bases, heads and retractions of one channel.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`history`] | what was published and taken back, which build is the head, what the log lacks |
//! | [`numbering`] | the next build number, or why none can be given |
//! | [`plan`] | whether a publication or a retraction is allowed, and what it amounts to |
//!
//! The archive's journal is the truth; [`History`] is its index. Nothing enters the history
//! that does not continue it: a second root for a number, or a second successor of a snapshot, is a fork.

pub mod history;
pub mod numbering;
pub mod plan;

#[cfg(test)]
mod race;
#[cfg(test)]
mod tests;

pub use history::{Admitted, History, HistoryError, Item, Published, Withdrawal};
pub use numbering::{Behind, Counted, Counter, Note, Series, Witness};
pub use plan::{Planned, Refusal, Split, Step, check_retraction, plan, split};
