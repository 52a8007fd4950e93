//! Which channels a path belongs to.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use mirrorlog_core::id::{Build, ChannelId, Mount};

use crate::serving::{ServedChannel, Serving};
use mirrorlog_core::tree::{Scope, Tree};

/// The channels of one mount, in the order in which they win a path.
pub(crate) struct Mounted<'a> {
    pub(super) mount: &'a Mount,
    pub(crate) channels: Vec<(&'a ChannelId, &'a ServedChannel)>,
}

impl<'a> Mounted<'a> {
    /// The channels that are served at `mount`.
    pub(crate) fn at(table: &'a Serving, mount: &'a Mount) -> Self {
        let channels = table
            .channels
            .iter()
            .map(|(id, served)| (id, served.as_ref()));
        let channels = channels
            .filter(|(_, served)| served.mount == *mount)
            .collect();
        let mut mounted = Self { mount, channels };
        mounted.sort();
        mounted
    }

    fn sort(&mut self) {
        self.channels
            .sort_by_key(|(id, served)| (served.precedence, *id));
    }

    /// The mounts that `path` is in, the longest first, each with what is left of the path.
    pub(super) fn of<'p>(table: &'a Serving, path: &'p [u8]) -> Vec<(Self, &'p [u8])> {
        let mut found: Vec<(Self, &[u8])> = Vec::new();
        for (id, served) in &table.channels {
            let Some(rest) = below(&served.mount, path) else {
                continue;
            };
            let same = |(mounted, _): &&mut (Self, &[u8])| *mounted.mount == served.mount;
            match found.iter_mut().find(same) {
                Some((mounted, _)) => mounted.channels.push((id, served)),
                None => {
                    let mount = &served.mount;
                    let channels = vec![(id, served.as_ref())];
                    found.push((Self { mount, channels }, rest));
                }
            }
        }
        found.sort_by_key(|(mounted, _)| Reverse(mounted.mount.as_str().len()));
        found.iter_mut().for_each(|(mounted, _)| mounted.sort());
        found
    }

    /// The live union.
    pub(crate) fn live(&self) -> Scope {
        let trees = self.channels.iter().filter_map(|(id, served)| {
            let build = served.live?;
            tree(id, served, build)
        });
        Scope(trees.collect())
    }

    /// Held builds of one channel that are not live, the newest first.
    pub(super) fn others(id: &ChannelId, served: &ServedChannel) -> impl Iterator<Item = Tree> {
        let builds = served.builds.keys().rev().copied();
        let others = builds.filter(|&build| Some(build) != served.live);
        others.filter_map(|build| tree(id, served, build))
    }
}

/// A build that may be served; `None` when it is not held or was taken back.
pub(super) fn tree(id: &ChannelId, served: &ServedChannel, build: Build) -> Option<Tree> {
    let row = served.builds.get(&build)?;
    (!served.is_retracted(build)).then(|| Tree {
        channel: id.clone(),
        build,
        root: row.root,
        selection: row.selection.clone(),
    })
}

/// Names directly below the folder `path` on the way to mounts of live channels.
pub(super) fn mounts_below(table: &Serving, path: &[u8]) -> BTreeSet<Vec<u8>> {
    let live = table
        .channels
        .values()
        .filter(|served| served.live.is_some());
    let names = live.filter_map(|served| {
        let mount = &served.mount.as_str().as_bytes()[1..];
        let rest = match path {
            b"" => mount,
            folder => mount.strip_prefix(folder)?.strip_prefix(b"/")?,
        };
        rest.split(|&b| b == b'/').next().map(<[u8]>::to_vec)
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// What is left of `path` below the mount; empty at its top.
fn below<'p>(mount: &Mount, path: &'p [u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(&mount.as_str().as_bytes()[1..])?;
    if rest.is_empty() {
        return Some(rest);
    }
    rest.strip_prefix(b"/")
}
