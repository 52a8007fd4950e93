//! `/<mount>/…`: what is live, and for the grace time what was.

use axum::response::Response;
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::path::EntryPath;

use super::Desk;
use super::body::{Content, Keep, redirect};
use super::listing::Listing;
use super::mounts::{Mounted, mounts_below};
use super::pinned;
use super::refusal::{Refusal, shown};
use super::trace::{self, Trace};
use crate::serving::Serving;
use mirrorlog_core::tree::{Place, Scope};
use mirrorlog_core::url::Asked;

/// Answers from the longest mount that knows the path.
///
/// # Errors
/// 404 when none does; 503 when the store fails.
pub(super) fn answer(desk: Desk<'_>, table: &Serving, asked: &Asked) -> Result<Response, Refusal> {
    let mounts = Mounted::of(table, &asked.path);
    for (mounted, rest) in &mounts {
        let request = Request {
            desk,
            table,
            asked,
            mounted,
            rest,
        };
        if let Some(response) = request.answer()? {
            return Ok(response);
        }
    }
    let names = mounts_below(table, &asked.path);
    if !names.is_empty() || asked.path.is_empty() {
        if !asked.slash {
            return Ok(redirect(asked.name(), []));
        }
        desk.leisurely()?;
        return Listing::of_folders(&asked.path, names).answer(desk);
    }
    let not_carried = mounts.iter().find_map(|(mounted, rest)| {
        let mut served = mounted.channels.iter().map(|(_, served)| served);
        served.find_map(|served| pinned::not_carried(&served.selection, rest))
    });
    let unknown = match not_carried {
        Some(text) => Refusal::not_carried(text),
        None => Refusal::unknown_path(format!("nothing is at {}", shown(&asked.path))),
    };
    let live = mounts.first().map(|(mounted, _)| mounted.live());
    Err(unknown.of(live.iter().flat_map(Scope::builds)))
}

/// One request in one mount.
struct Request<'a> {
    desk: Desk<'a>,
    table: &'a Serving,
    asked: &'a Asked,
    mounted: &'a Mounted<'a>,
    /// The path below the mount.
    rest: &'a [u8],
}

impl Request<'_> {
    /// `None` when the mount does not know the path.
    fn answer(&self) -> Result<Option<Response>, Refusal> {
        let live = self.mounted.live();
        let trace = Trace::of(&self.desk.face.site, self.mounted);
        if let Some(trace) = trace.as_ref().filter(|trace| trace.path() == self.rest)
            && !self.asked.slash
        {
            self.desk.leisurely()?;
            let content = trace.content(&self.desk.face.pages, &self.asked.path)?;
            return content.answer(self.desk, &[trace.build()]).map(Some);
        }
        match self.desk.place(&live, self.rest)? {
            Place::File(index, _, file) if !self.asked.slash => {
                let tree = &live.0[index];
                let store = self.desk.store();
                let content = Content::file(store, &self.asked.path, &file, self.keep());
                return content
                    .answer(self.desk, &[(&tree.channel, tree.build)])
                    .map(Some);
            }
            Place::File(..) => return Ok(None),
            Place::Folder(folder) => return self.folder(live, folder, trace.as_ref()).map(Some),
            Place::Nothing => {}
        }
        if trace.is_some() && trace::FOLDERS.contains(&self.rest) {
            return self
                .folder(live, self.rest.to_vec(), trace.as_ref())
                .map(Some);
        }
        if self.asked.slash {
            Ok(None)
        } else {
            self.grace()
        }
    }

    fn folder(
        &self,
        live: Scope,
        folder: Vec<u8>,
        trace: Option<&Trace<'_>>,
    ) -> Result<Response, Refusal> {
        if !self.asked.slash {
            return Ok(redirect(self.asked.name(), live.builds()));
        }
        self.desk.leisurely()?;
        let mut listing = Listing::of_trees(&self.asked.path, live, folder);
        if self.rest == listing.folder() {
            listing.add_folders(mounts_below(self.table, &self.asked.path));
        }
        if let Some((trace, line)) = trace.and_then(|t| Some((t, t.line_in(self.rest)?))) {
            match line {
                trace::Line::Folder(name) => listing.add_folders([name.as_bytes().to_vec()]),
                trace::Line::Trace(name) => {
                    let size_bytes = trace.content(&self.desk.face.pages, b"")?.size_bytes;
                    listing.add_file(name.as_bytes(), size_bytes, trace.date().as_seconds());
                }
            }
        }
        listing.answer(self.desk)
    }

    /// A path that never gets other content, from any build that is still held.
    fn grace(&self) -> Result<Option<Response>, Refusal> {
        let Ok(path) = EntryPath::new(self.rest) else {
            return Ok(None);
        };
        for (id, served) in &self.mounted.channels {
            if !served.layout.is_immutable(&path) {
                continue;
            }
            for tree in Mounted::others(id, served) {
                let build = tree.build;
                let place = self.desk.place(&Scope(vec![tree]), self.rest)?;
                let Place::File(_, _, file) = place else {
                    continue;
                };
                let store = self.desk.store();
                let content = Content::file(store, &self.asked.path, &file, Keep::Forever);
                let from: [(&ChannelId, Build); 1] = [(id, build)];
                return content.answer(self.desk, &from).map(Some);
            }
        }
        Ok(None)
    }

    fn keep(&self) -> Keep {
        let path = EntryPath::new(self.rest);
        let mut layouts = self
            .mounted
            .channels
            .iter()
            .map(|(_, served)| served.layout);
        let immutable = |layout: Layout| path.as_ref().is_ok_and(|path| layout.is_immutable(path));
        // Every layout of the mount has to promise it: another channel may win the path one day.
        if layouts.all(immutable) {
            Keep::Forever
        } else {
            Keep::Checked
        }
    }
}
