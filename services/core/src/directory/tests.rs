//! Each invariant is a function of its own, over random inputs; stories and rankings stand beside them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use super::health::Probed;
use super::offer::{Question, Tier};
use super::place::{Asn, Continent, Country, Network, Place};
use super::*;
use crate::consistency::Audience;
use crate::id::{Lane, MirrorId, Mount};
use crate::layout::Layout;
use crate::statement::{RevokeReason, VerdictState};
use crate::time::Timestamp;

mod builds;
mod climbing;
mod fences;
mod inputs;
mod offered;
mod orders;
mod pools;
mod rankings;
mod world;

use inputs::{LAST, Op, ops};
use world::{Asked, Saying, World};

/// In order of id, as the view has them.
const MIRRORS: [&str; 8] = ["au1", "au2", "ch1", "nz1", "nz2", "nz3", "us1", "us2"];
const POOLS: [&str; 5] = ["au", "ch", "nz", "us-east", "us-west"];
const CHANNELS: [&str; 2] = ["jammy", "noble"];
const NOBLE: &str = "noble";

fn mirror(name: &str) -> MirrorId {
    MirrorId::new(name).unwrap()
}

fn pool(name: &str) -> PoolId {
    PoolId::new(name).unwrap()
}

fn pool_of(name: &str) -> PoolId {
    pool(match name {
        "us1" => "us-west",
        "us2" => "us-east",
        other => &other[..2],
    })
}

fn channel(name: &str) -> ChannelId {
    ChannelId::new(name).unwrap()
}

fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

fn country(code: &str) -> Country {
    code.parse().unwrap()
}

fn root(number: u64) -> Digest {
    Digest::of(&number.to_be_bytes())
}

fn at(address: &str, code: &str) -> Place {
    Place {
        address: Some(address.parse().unwrap()),
        ..Place::in_country(country(code))
    }
}

fn place(code: &str) -> Place {
    Place::in_country(country(code))
}

/// One of each kind of client.
fn places() -> Vec<Place> {
    vec![
        Place::default(),
        place("NZ"),
        place("US"),
        place("DE"),
        Place::on_continent(Continent::Oceania),
        Place {
            asn: Some(Asn(64_500)),
            ..at("10.7.7.7", "NZ")
        },
        at("10.7.1.1", "AU"),
        at("2001:db8::1", "CH"),
        at("192.0.2.1", "AQ"),
    ]
}

fn snapshot(name: &str, number: u64, root: Digest) -> Input {
    Input::Snapshot(Snapshot {
        channel: channel(name),
        build: build(number),
        base: None,
        root,
        previous: None,
        created: Timestamp::from_seconds(1_000),
        entries: 10,
        bytes: 1,
        lane: Lane::Bulk,
        mount: Mount::new("/ubuntu").unwrap(),
        layout: Layout::Debian,
        precedence: 0,
        notices: Vec::new(),
    })
}

fn retraction(name: &str, sequence: u64, first: u64, last: u64) -> Input {
    Input::Retraction(Retraction {
        channel: channel(name),
        sequence,
        first: build(first),
        last: build(last),
        reason: "bad".into(),
        replacement: None,
        created: Timestamp::EPOCH,
    })
}

fn head(name: &str, issued: Timestamp, expires: Timestamp) -> Input {
    Input::Head(Head {
        channel: channel(name),
        build: build(1),
        root: root(1),
        retractions: root(0),
        issued,
        expires,
    })
}

fn verdict(saying: &Saying, issued: Timestamp, lease_revision: u64) -> Verdict {
    Verdict {
        mirror: mirror(saying.mirror),
        pool: pool_of(saying.mirror),
        channel: channel(saying.channel),
        build: build(saying.build),
        root: saying.root,
        view: crate::view::View::All,
        state: saying.state.clone(),
        issued,
        lease_revision,
        audited_files: 0,
        new_files: 0,
    }
}

/// The names of mirrors.
fn names(view: &View, mirrors: impl IntoIterator<Item = MirrorIndex>) -> Vec<&str> {
    let name = |mirror| view.profile(mirror).mirror.as_str();
    mirrors.into_iter().map(name).collect()
}
