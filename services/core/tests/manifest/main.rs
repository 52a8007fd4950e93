//! The manifest, seen from outside: invariants over random entries and changes, and golden bytes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bounds;
mod conflicts;
mod cost;
mod format;
mod history;
mod reading;
mod trees;
