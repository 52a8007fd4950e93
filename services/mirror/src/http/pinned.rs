//! `/@/…`: one build exactly, and what anyone needs to verify it.

use axum::response::Response;
use bytes::Bytes;
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use mirrorlog_core::manifest::Page;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::trust::RootVersion;
use mirrorlog_core::view::Selection;
use runtime::store::StoreError;

use super::Desk;
use super::body::{Content, Keep, redirect};
use super::listing::Listing;
use super::mounts;
use super::probe;
use super::refusal::{Refusal, shown};
use crate::serving::{ServedChannel, Serving};
use mirrorlog_core::tree::{Place, Scope};
use mirrorlog_core::url::Asked;

const BINARY: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// Answers what is below `/@`. `page`, `probe` and `root` win over channels of these names where both could be meant.
///
/// # Errors
/// 404 and 410, each with its reason; 503 when the store fails.
pub(super) fn answer(
    desk: Desk<'_>,
    table: &Serving,
    asked: &Asked,
    below: &[&[u8]],
) -> Result<Response, Refusal> {
    let file = !asked.slash;
    match below {
        [] if file => Ok(redirect(b"@", [])),
        [] => json(asked, &all_channels(table)).answer(desk, &[]),
        [b"page", digest] if file => page(desk, digest),
        [b"probe", nonce] if file => probe::answer(desk.head, nonce),
        [b"root", version] if file => root(desk, version),
        [name, rest @ ..] => {
            let id = std::str::from_utf8(name)
                .ok()
                .and_then(|text| ChannelId::new(text).ok());
            let found = id.and_then(|id| table.channels.get_key_value(&id));
            let Some((channel, served)) = found else {
                return Err(Refusal::unknown_channel(name));
            };
            let request = Request {
                desk,
                asked,
                channel,
                served,
            };
            match rest {
                [] => request.status(),
                [b"head"] if file => request.signed_head(),
                [build, path @ ..] => request.build(build, &path.join(&b'/')),
            }
        }
    }
}

/// One request about one channel.
struct Request<'a> {
    desk: Desk<'a>,
    asked: &'a Asked,
    channel: &'a ChannelId,
    served: &'a ServedChannel,
}

impl Request<'_> {
    fn live(&self) -> Option<(&ChannelId, Build)> {
        self.served.live.map(|live| (self.channel, live))
    }

    fn status(&self) -> Result<Response, Refusal> {
        let live: Vec<_> = self.live().into_iter().collect();
        json(self.asked, &channel_status(self.channel, self.served)).answer(self.desk, &live)
    }

    fn signed_head(&self) -> Result<Response, Refusal> {
        let live: Vec<_> = self.live().into_iter().collect();
        let Some(signed) = &self.served.head else {
            return Err(Refusal::unknown_head(self.channel).of(live));
        };
        let content = Content::memory(&self.asked.path, BINARY, signed.clone(), Keep::Checked);
        content.answer(self.desk, &live)
    }

    fn build(&self, text: &[u8], path: &[u8]) -> Result<Response, Refusal> {
        let build = self.number(text)?;
        let refused = |refusal: Refusal| refusal.of(self.live());
        if self.served.is_retracted(build) {
            return Err(refused(Refusal::retracted(self.channel, build)));
        }
        let tree = mounts::tree(self.channel, self.served, build);
        let row = self.served.builds.get(&build);
        let (Some(tree), Some(row)) = (tree, row) else {
            // What is newer than all that is whole here may still come, known or not.
            let newest = self.served.builds.keys().next_back();
            let refusal = if newest.is_some_and(|newest| build < *newest) {
                Refusal::collected(self.channel, build)
            } else {
                let coming = self
                    .served
                    .newest_known
                    .is_some_and(|newest| build <= newest);
                Refusal::unknown_build(self.channel, text, coming)
            };
            return Err(refused(refusal));
        };
        self.desk.face.leases.touch(self.channel, build);
        if path == b"snapshot" && !self.asked.slash {
            let signed = row.snapshot.clone();
            // The statement stays; after a change of keys its signature is another one.
            let content = Content::memory(&self.asked.path, BINARY, signed, Keep::Checked);
            return content.answer(self.desk, &[(self.channel, build)]);
        }
        self.tree(Scope(vec![tree]), build, path)
    }

    /// The build's number; only its plain spelling names it.
    fn number(&self, text: &[u8]) -> Result<Build, Refusal> {
        let number = std::str::from_utf8(text).ok();
        let build = number.and_then(|number| number.parse::<Build>().ok());
        let plain = build.filter(|build| build.to_string().as_bytes() == text);
        plain.ok_or_else(|| Refusal::unknown_build(self.channel, text, false).of(self.live()))
    }

    fn tree(&self, scope: Scope, build: Build, path: &[u8]) -> Result<Response, Refusal> {
        let from = [(self.channel, build)];
        match self.desk.place(&scope, path)? {
            Place::File(_, _, file) if !self.asked.slash => {
                let store = self.desk.store();
                let content = Content::file(store, &self.asked.path, &file, Keep::Forever);
                content.answer(self.desk, &from)
            }
            Place::Folder(_) if !self.asked.slash => Ok(redirect(self.asked.name(), from)),
            Place::Folder(folder) => {
                self.desk.leisurely()?;
                Listing::of_trees(&self.asked.path, scope, folder).answer(self.desk)
            }
            Place::File(..) | Place::Nothing => {
                let (channel, served) = (self.channel, self.served);
                if let Some(text) = not_carried(&served.selection, path) {
                    return Err(Refusal::not_carried(text).of(from));
                }
                let text = format!("{} is not in build {build} of {channel}", shown(path));
                Err(Refusal::unknown_path(text).of(from))
            }
        }
    }
}

/// Why a path that a build may well have is not on a mirror that carries a part.
pub(super) fn not_carried(selection: &Selection, path: &[u8]) -> Option<String> {
    let has = EntryPath::new(path).is_ok_and(|path| selection.has(&path));
    let view = selection.view();
    (!selection.is_all() && !has).then(|| {
        format!(
            "{} is not carried here: this mirror carries {view}",
            shown(path)
        )
    })
}

fn json<'a>(asked: &'a Asked, value: &serde_json::Value) -> Content<'a> {
    let text = Bytes::from(format!("{value}\n"));
    Content::memory(&asked.path, JSON, text, Keep::Checked)
}

fn all_channels(table: &Serving) -> serde_json::Value {
    let rows = table.channels.iter();
    let rows: Vec<_> = rows
        .map(|(id, served)| channel_status(id, served))
        .collect();
    serde_json::json!({ "channels": rows })
}

fn channel_status(channel: &ChannelId, served: &ServedChannel) -> serde_json::Value {
    let held = || {
        served
            .builds
            .keys()
            .filter(|build| !served.is_retracted(**build))
    };
    let root = served
        .live
        .and_then(|live| served.builds.get(&live))
        .map(|row| row.root);
    serde_json::json!({
        "channel": channel.as_str(),
        "mount": served.mount.as_str(),
        "live": served.live.map(Build::get),
        "staged": held().next_back().map(|build| build.get()),
        "retained": held().map(|build| build.get()).collect::<Vec<_>>(),
        "root": root.map(|root| root.to_hex()),
        "expires": served.head_expires.and_then(rfc3339),
        "view": served.selection.view().to_string(),
    })
}

fn rfc3339(at: Timestamp) -> Option<String> {
    let at = jiff::Timestamp::from_second(at.as_seconds()).ok()?;
    Some(at.to_string())
}

/// A root document by its number, as it was signed. Whoever has an older one checks the step.
fn root(desk: Desk<'_>, name: &[u8]) -> Result<Response, Refusal> {
    desk.leisurely()?;
    let number = std::str::from_utf8(name).ok();
    let number = number.and_then(|number| number.parse().ok());
    let version = number.and_then(RootVersion::new);
    let version = version.filter(|version| version.to_string().as_bytes() == name);
    let document = version.and_then(|version| desk.face.trust.document(version));
    let document = document.ok_or_else(|| Refusal::unknown_root(name))?;
    Content::memory(name, BINARY, document.into(), Keep::Checked).answer(desk, &[])
}

/// Bytes of a page by digest; other blobs are not given out by digest.
fn page(desk: Desk<'_>, name: &[u8]) -> Result<Response, Refusal> {
    desk.leisurely()?;
    let unknown = || Refusal::unknown_page(name);
    let text = std::str::from_utf8(name).map_err(|_| unknown())?;
    let digest: Digest = text.parse().map_err(|_| unknown())?;
    let bytes = match desk.store().read(&digest, PAGE_MAX_BYTES) {
        Ok(bytes) => bytes.ok_or_else(unknown)?,
        Err(StoreError::TooLarge { .. }) => return Err(unknown()),
        Err(error @ StoreError::Mismatch { .. }) => {
            tracing::error!(%error, "a blob is damaged");
            return Err(Refusal::lost("damaged", name, &digest));
        }
        Err(error) => return Err(error.into()),
    };
    Page::decode(&bytes).map_err(|_| unknown())?;
    Content::memory(name, BINARY, bytes.into(), Keep::Forever).answer(desk, &[])
}
