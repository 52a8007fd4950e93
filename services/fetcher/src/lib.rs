//! Content-addressed transfer over gRPC, both ends: pages, blobs and what is left of a blob.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`server`] | answers wants from a store, in order, while credit lasts |
//! | [`client`] | keeps credit and wants under way, checks digests, makes content durable |
//! | [`web`] | asking mirrors over HTTP |
//! | [`limit`] | shares one rate between fetches and lets the priority lane go first |
//! | [`protocol`] | the numbers that both ends count with |
//!
//! Neither end trusts the other: the server sends only what its store holds and never sees a path,
//! the client believes no byte that does not hash to what it asked for.
#![warn(missing_docs)]

pub mod client;
pub mod limit;
pub mod manifests;
pub mod protocol;
pub mod server;
pub mod web;
