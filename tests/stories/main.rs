//! Stories: whole networks of real processes, told as their users would see them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod adopt;
mod apt_method;
mod broken_tree;
mod closures;
mod completeness;
mod crash;
mod directory;
mod directory_apt;
mod directory_clients;
mod export;
mod full_disk;
mod get;
mod hooks;
mod local_up;
mod losses;
mod openbsd;
mod outage;
mod peers;
mod priority;
mod publisher;
mod publishing;
mod retract;
mod secure;
mod select;
mod slow_readers;
mod telemetry;
mod two_publishers;
mod upkeep;
mod verify_replay;
mod views;
mod whole_builds;
