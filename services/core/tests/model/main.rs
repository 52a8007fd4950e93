//! The protocol of publishing, acking, auditing and retracting, checked in every interleaving of small worlds.
//!
//! The rules are core's own state machines. What is modelled is the shell around them, as the services build it:
//! what is durable, what a crash takes away, what the log may do to its messages. Each model's page says what it
//! leaves out, and its constants how far it goes.
//!
//! | model | core's part | bounds |
//! | --- | --- | --- |
//! | [`archives`] | `archive::{History, Counter, Note}`, `mirror::Channel` as the reader | two archives, some publications |
//! | [`mirrors`] | `mirror::Channel`, `archive::{History, plan}` | one or two mirrors, up to three builds and a retraction |
//! | [`verdicts`] | `consistency::Consistency`, `directory::Directory` | two replicas, one mirror, one or two builds |
//!
//! `just model` takes the larger bounds, optimised. A test that begins with `broken_` breaks one rule of the shell
//! and fails when no property notices: a model that cannot fail proves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod archives;
mod check;
mod facts;
mod mirrors;
mod verdicts;
