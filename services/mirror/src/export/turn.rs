//! One look at the table, and what follows from it. Blocks.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, Mount};
use mirrorlog_core::tree::Tree;
use tokio_util::sync::CancellationToken;

use super::trees::{Goal, Spare, Trees};
use super::{ExportError, Exports};
use crate::http::Mounted;
use crate::serving::{Serving, ServingWriter};

/// What a mount's task does next.
pub(super) enum Next {
    /// Nothing before the table changes.
    Rest,
    /// Looks again at once.
    Again,
    /// Looks again after a while.
    After(Duration),
    /// The same, and nothing is wrong meanwhile.
    Idle(Duration),
}

/// What one look needs.
pub(super) struct Turn<'a> {
    pub(super) exports: &'a Exports,
    pub(super) mount: &'a Mount,
    pub(super) serving: &'a ServingWriter,
    pub(super) stop: &'a CancellationToken,
}

impl Turn<'_> {
    /// Gives the channels of which there is something to report, too.
    pub(super) fn take(
        &self,
        trees: &mut Trees,
        table: Arc<Serving>,
    ) -> (Result<Next, ExportError>, Vec<ChannelId>) {
        let scope = Mounted::at(&table, self.mount).live();
        let goal = Goal {
            table,
            mount: self.mount.clone(),
            scope,
        };
        let before = self.exports.trouble(self.mount);
        let mut told = Vec::new();
        let next = self.step(trees, &goal, &mut told);
        self.exports.set_roots(self.mount, trees.roots());
        match &next {
            Ok(Next::Rest | Next::Idle(_)) => self.exports.set_trouble(self.mount, None),
            Ok(Next::Again | Next::After(_)) | Err(ExportError::Stopped) => {}
            Err(error) => self.exports.troubled(self.mount, error),
        }
        if self.exports.trouble(self.mount) != before {
            let mounted = Mounted::at(&goal.table, self.mount);
            told = mounted
                .channels
                .iter()
                .map(|(id, _)| (*id).clone())
                .collect();
        }
        (next, told)
    }

    fn step(
        &self,
        trees: &mut Trees,
        goal: &Goal,
        told: &mut Vec<ChannelId>,
    ) -> Result<Next, ExportError> {
        let generation = self.exports.generation();
        let relinked = self.link_again(trees, generation);
        let next = if goal.scope.0.is_empty() {
            self.clear(trees, goal, told)
        } else if trees.shown_scope() == Some(&goal.scope) {
            self.catch_up(trees, goal, generation)
        } else {
            self.flip(trees, goal, generation, told)
        };
        match next {
            // What could not be linked again is tried again, when nothing else is to be done.
            Ok(Next::Rest | Next::Idle(_)) => relinked.and(next),
            next => next,
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn link_again(&self, trees: &mut Trees, generation: u64) -> Result<(), ExportError> {
        let inner = &self.exports.0;
        let halted = || self.is_stopped();
        trees.link_again(generation, &inner.inodes, &inner.pages, &halted)
    }

    fn settle(&self) -> Duration {
        self.exports.0.section.settle.0
    }

    fn most(&self) -> usize {
        self.exports.0.section.trees.max(2)
    }

    /// Nothing is live here. That has to be known of each channel that is shown: a table that lacks one has been lost.
    fn clear(
        &self,
        trees: &mut Trees,
        goal: &Goal,
        told: &mut Vec<ChannelId>,
    ) -> Result<Next, ExportError> {
        let now = runtime::boot::now();
        if let Some(shown) = trees.shown_scope() {
            let known = |tree: &Tree| goal.table.channels.contains_key(&tree.channel);
            if !shown.0.iter().all(known) {
                return Ok(Next::Rest);
            }
        }
        if trees.shown.is_some() {
            let hidden = trees.hide(now);
            if trees.shown.is_none() {
                told.extend(self.serving.exported(self.mount, None));
                tracing::info!(mount = %self.mount, "nothing is exported any more");
            }
            hidden?;
        }
        Ok(match trees.remove_settled(self.settle(), now)? {
            Some(rest) => Next::Idle(rest),
            None => Next::Rest,
        })
    }

    /// All is shown as it should be. The next build is to find trees that lack little, and what only older builds have
    /// is let go.
    fn catch_up(
        &self,
        trees: &mut Trees,
        goal: &Goal,
        generation: u64,
    ) -> Result<Next, ExportError> {
        let number = match trees.behind(self.most(), self.settle(), runtime::boot::now()) {
            Some(Spare::Tree(number)) => number,
            Some(Spare::After(pause)) => return Ok(Next::Idle(pause)),
            None => return Ok(Next::Rest),
        };
        // Whatever else is to be shown goes first.
        let overtaken = |table: &Serving| Mounted::at(table, self.mount).live() != goal.scope;
        self.change(trees, number, goal, generation, &overtaken)?;
        Ok(Next::Again)
    }

    fn flip(
        &self,
        trees: &mut Trees,
        goal: &Goal,
        generation: u64,
        told: &mut Vec<ChannelId>,
    ) -> Result<Next, ExportError> {
        // One that is just that needs no change: after a retraction, the build before.
        if let Some(number) = trees.exact(&goal.scope, generation) {
            return self.show(trees, number, goal, told);
        }
        let shown = trees.shown_scope().map_or(&[][..], |scope| &scope.0);
        let urgent = is_urgent(&goal.table, goal.scope.0.iter(), shown);
        // Bulk builds may have taken every tree; one that overtakes them gets one more.
        let most = self.most() + usize::from(urgent);
        let number = match trees.spare(most, self.settle(), runtime::boot::now()) {
            Spare::Tree(number) => number,
            Spare::After(pause) => {
                let text = format!(
                    "export of {}: every tree may still be read; the next is free in {} s",
                    self.mount,
                    pause.as_secs() + 1
                );
                self.exports.set_trouble(self.mount, Some(text));
                return Ok(Next::After(pause));
            }
        };
        let overtaken = |table: &Serving| {
            let now = Mounted::at(table, self.mount).live();
            is_urgent(table, now.0.iter(), &goal.scope.0)
        };
        if !self.change(trees, number, goal, generation, &overtaken)? {
            return Ok(Next::Again);
        }
        let now = self.serving.wanted().borrow().clone();
        if goal.scope.0.iter().any(|tree| is_retracted(&now, tree)) {
            return Ok(Next::Again);
        }
        self.show(trees, number, goal, told)
    }

    fn show(
        &self,
        trees: &mut Trees,
        number: u32,
        goal: &Goal,
        told: &mut Vec<ChannelId>,
    ) -> Result<Next, ExportError> {
        let showing = trees.show(number, runtime::boot::now());
        // Readers of the disk are there, whatever could not be noted of it.
        if trees.shown == Some(number) {
            self.exports.set_trouble(self.mount, None);
            told.extend(self.serving.exported(self.mount, Some(goal.scope.clone())));
            for (channel, build) in goal.scope.builds() {
                tracing::info!(mount = %self.mount, %channel, %build, tree = number, "export tree shows");
            }
        }
        showing?;
        Ok(Next::Again)
    }

    /// False when the table went on so that `overtaken` holds: then the tree is left half-way.
    fn change(
        &self,
        trees: &mut Trees,
        number: u32,
        goal: &Goal,
        generation: u64,
        overtaken: &dyn Fn(&Serving) -> bool,
    ) -> Result<bool, ExportError> {
        let inner = &self.exports.0;
        // Before anything is read of it: what a tree is changed to stays until it is changed again.
        let mut roots = trees.roots();
        roots.extend(goal.scope.0.iter().map(|tree| tree.root));
        self.exports.set_roots(self.mount, roots);
        let table = RefCell::new(self.serving.wanted());
        let halted = || {
            let mut table = table.borrow_mut();
            let changed = table.has_changed().unwrap_or(true);
            self.is_stopped() || (changed && overtaken(&table.borrow_and_update()))
        };
        let means = super::trees::Means {
            inodes: &inner.inodes,
            pages: &inner.pages,
            site: &inner.site,
            generation,
            halted: &halted,
        };
        match trees.change(number, goal, &means) {
            Ok(()) => Ok(true),
            Err(ExportError::Stopped) if !self.is_stopped() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_retracted(table: &Serving, tree: &Tree) -> bool {
    let served = table.channels.get(&tree.channel);
    served.is_some_and(|served| served.is_retracted(tree.build))
}

/// Whether one of `trees` that is not among `others` came on the priority lane.
fn is_urgent<'t>(
    table: &Serving,
    mut trees: impl Iterator<Item = &'t Tree>,
    others: &[Tree],
) -> bool {
    trees.any(|tree| {
        let served = table.channels.get(&tree.channel);
        let build = served.and_then(|served| served.builds.get(&tree.build));
        !others.contains(tree) && build.is_some_and(|build| build.urgent)
    })
}
