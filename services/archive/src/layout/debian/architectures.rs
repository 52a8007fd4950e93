//! Architectures that a Release lists and a tree leaves out.
//!
//! One Release may serve several archives: Ubuntu's lists every architecture, and its main archive
//! carries two of them, the ports the others.

use super::super::index::IndexKind;
use super::super::release::Release;
use super::super::unpack::Packing;
use super::Check;
use crate::publish::{PublishError, View};

/// A suite's architectures.
pub(super) struct Architectures<'a> {
    all: Vec<&'a str>,
    left_out: Vec<&'a str>,
}

impl<'a> Architectures<'a> {
    /// An architecture is left out when the tree has no Packages of it in any component, has those of
    /// another one, and the build before had none of it either: what was there once must not get lost.
    pub(super) fn of(
        check: &Check<'_>,
        folder: &[u8],
        release: &'a Release,
    ) -> Result<Self, PublishError> {
        let named = release
            .fields
            .get("architectures")
            .map_or("", String::as_str);
        let all: Vec<&str> = named
            .split_ascii_whitespace()
            .filter(|name| !["all", "source"].contains(name))
            .collect();
        let before = check.rules.before.as_ref().map(|root| View {
            workspace: check.view.workspace,
            root,
        });
        let mut left_out = Vec::new();
        for &name in &all {
            let was = match &before {
                Some(before) => has_packages(before, folder, release, name)?,
                None => false,
            };
            if !was && !has_packages(&check.view, folder, release, name)? {
                left_out.push(name);
            }
        }
        if left_out.len() == all.len() {
            left_out.clear();
        }
        Ok(Self { all, left_out })
    }

    /// True when a listed name, such as `main/dep11/Components-arm64.yml`, is of one that is left out.
    pub(super) fn leave_out(&self, name: &str) -> bool {
        let of = |component: &str| {
            let stem = component.split('.').next().unwrap_or(component);
            let fits = |arch: &&&str| stem.strip_suffix(**arch).is_some_and(|s| s.ends_with('-'));
            // `binary-hurd-i386` is not of i386.
            self.all.iter().filter(fits).max_by_key(|arch| arch.len())
        };
        name.split('/')
            .filter_map(of)
            .any(|arch| self.left_out.contains(arch))
    }
}

fn has_packages(
    view: &View<'_>,
    folder: &[u8],
    release: &Release,
    architecture: &str,
) -> Result<bool, PublishError> {
    let of = format!("binary-{architecture}");
    for name in release.listed.keys() {
        let (_packing, plain) = Packing::of(name);
        let is_index = IndexKind::of(plain) == Some(IndexKind::Packages);
        if is_index && plain.rsplit('/').nth(1) == Some(&of) {
            let path = [folder, b"/", name.as_bytes()].concat();
            if view.follow(&path)?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
