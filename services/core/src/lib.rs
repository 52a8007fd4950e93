//! The rules of mirrorlog, without IO.
//!
//! Nothing here reads a clock, a file, a socket or a random source: time, pages and
//! randomness are passed in, so every rule can be tested as a function of its inputs.
//! `tests/purity.rs` holds the manifest to that.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`id`], [`path`], [`time`], [`limits`] | the vocabulary, and how large anything may get |
//! | [`sign`] | who said it |
//! | [`trust`] | who may say what: the root document, and which one follows it |
//! | [`statement`] | what is said: snapshot, head, retraction, report, verdict, order, root |
//! | [`view`] | which part of a channel a mirror carries |
//! | [`layout`] | what a layout promises about its paths |
//! | [`manifest`] | which files a build is made of |
//! | [`openbsd`] | what OpenBSD's packages and their lists say |
//! | [`tree`], [`url`] | what a path leads to, in a build and in a URL |
//! | [`channel`] | what is published in a channel |
//! | [`archive`] | which build comes next |
//! | [`mirror`] | what a mirror does next |
//! | [`consistency`] | when a build is complete, and which build is wanted |
//! | [`drain`] | which mirrors take no clients |
//! | [`probe`] | bytes that no cache has |
//! | [`directory`] | which mirror is the right one for whom |
//! | [`client`] | where to look next, and what a download says |
#![warn(missing_docs)]

pub mod archive;
pub mod channel;
pub mod client;
pub mod consistency;
pub mod directory;
pub mod drain;
pub mod id;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod mirror;
mod mix;
pub mod openbsd;
pub mod path;
pub mod probe;
pub mod sign;
pub mod statement;
pub mod time;
pub mod tree;
pub mod trust;
pub mod url;
pub mod view;
