//! What stories are told with: a network of real processes, a real Debian repository, a real apt.
//!
//! Nothing here links a crate of ours: the binary, HTTP and files are all that users have.
//! Whatever is started is stopped on drop. Waiting is always for a condition, with a limit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod apt;
mod archive_tree;
mod debian;
mod directory;
mod http;
pub mod log;
mod mmdb;
mod network;
mod nginx;
mod openbsd;
mod process;
mod terminal;
mod tree;
mod usage;
mod wait;
mod wrk;

pub use apt::Apt;
pub use archive_tree::{ArchiveTree, Change, Shape};
pub use debian::DebianRepo;
pub use http::{Http, Response};
pub use mmdb::{Record, mmdb};
pub use network::{Ended, Network, Setup};
pub use nginx::{Nginx, unpacked_tools};
pub use openbsd::OpenBsdRepo;
pub use process::{Kept, binary, command, run, signal, tool, use_binary};
pub use terminal::Terminal;
pub use tree::{Tree, noise, sha256};
pub use usage::Group;
pub use wait::{until, until_within};
pub use wrk::{Ask, Measured, Wrk, median};
