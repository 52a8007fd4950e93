//! `/<mount>/<path>`: 302 to a mirror that holds the file in a complete build.
//!
//! The target is pinned: whatever the mirror does meanwhile, the client gets bytes of that build or an error. One
//! client stays on one build through a run ([`mirrorlog_core::directory::visit`]). A path that the build lacks and
//! an older one still has is answered from there where its layout says that it never changes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HeaderName, LINK, LOCATION, RANGE, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mirrorlog_core::channel::Channel;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::offer::PlaceKind;
use mirrorlog_core::directory::place::Place;
use mirrorlog_core::directory::visit::Visits;
use mirrorlog_core::id::{Build, ChannelId, Mount};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::limits::PATH_MAX_BYTES;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::tree::{Scope, Tree};
use mirrorlog_core::url::{Asked, encode, encode_path};
use runtime::boot::now;

use super::ask::Peer;
use super::offers::Offered;
use super::refusal::Refusal;
use super::{Client, Face};
use crate::trees::Found;
use crate::trees::holders::HOLDERS_MAX;

const DIGEST: HeaderName = HeaderName::from_static("digest");
const MIRRORLOG_BUILD: HeaderName = HeaderName::from_static("mirrorlog-build");
/// Mirrors that are named beside the one in `Location`.
const DUPLICATES_MAX: usize = 4;
/// Older builds that are looked into for a path that the wanted one lacks.
const OLDER_MAX: usize = 8;

pub(super) async fn answer(
    State(face): State<Arc<Face>>,
    Peer(peer): Peer,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let answered = respond(&face, peer, &method, &uri, &headers).await;
    face.counted("redirect", answered).into_response()
}

async fn respond(
    face: &Face,
    peer: Option<std::net::IpAddr>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    if ![Method::GET, Method::HEAD].contains(method) {
        return Err(Refusal::method(method));
    }
    let asked = Asked::parse(uri.path())?;
    let (view, now) = (face.site.view(), now());
    let place = face.site.place(peer, None);
    let (mount, rest) =
        mounted(&view, &asked.path).ok_or_else(|| Refusal::unknown_path(&asked.path))?;
    if rest.len() > PATH_MAX_BYTES {
        return Err(Refusal::unknown_path(&asked.path));
    }
    let request = Request {
        face,
        view: &view,
        now,
        kind: view.kind_of(&place),
        place,
        client: Client { peer, headers },
        asked: &asked,
        channels: channels_of(&view, &mount),
        rest,
    };
    request.answer().await
}

/// The longest mount that the path is below, and the path there.
fn mounted<'a>(view: &View, path: &'a [u8]) -> Option<(Mount, &'a [u8])> {
    let below = |mount: &Mount| {
        let prefix = &mount.as_str().as_bytes()[1..];
        let rest = path.strip_prefix(prefix)?;
        if rest.is_empty() {
            return Some(rest);
        }
        rest.strip_prefix(b"/")
    };
    let mounts = view.channels().filter_map(|(_, carried)| carried.mount());
    let found = mounts.filter_map(|mount| Some((mount, below(mount)?)));
    found
        .min_by_key(|(_, rest)| rest.len())
        .map(|(mount, rest)| (mount.clone(), rest))
}

/// The channels of a mount; the first that has a path wins it.
fn channels_of<'v>(view: &'v View, mount: &Mount) -> Vec<(&'v ChannelId, &'v Channel)> {
    let here = view.channels().filter_map(|(id, carried)| {
        let last = carried.channel.last()?;
        (last.mount == *mount).then_some((last.precedence, id, &carried.channel))
    });
    let mut here: Vec<_> = here.collect();
    here.sort_by_key(|(precedence, id, _)| (*precedence, *id));
    here.into_iter()
        .map(|(_, id, channel)| (id, channel))
        .collect()
}

/// One request for a path of a mount.
struct Request<'a> {
    face: &'a Face,
    view: &'a View,
    now: Timestamp,
    place: Place,
    kind: PlaceKind,
    client: Client<'a>,
    asked: &'a Asked,
    channels: Vec<(&'a ChannelId, &'a Channel)>,
    rest: &'a [u8],
}

/// The build of a channel that a client is to have, and who has it.
struct Pick {
    tree: Tree,
    offered: Arc<Offered>,
}

impl Request<'_> {
    async fn answer(&self) -> Result<Response, Refusal> {
        let (mut picks, mut silent) = (Vec::new(), Vec::new());
        let mut behind = false;
        for (id, channel) in &self.channels {
            let picked = self.pick(id, channel);
            let plain = channel
                .last()
                .is_some_and(|build| build.layout == Layout::Plain);
            behind |= plain && picked.as_ref().is_some_and(|(_, current)| !current);
            match picked.map(|(pick, _)| pick) {
                Some(pick) => picks.push(pick),
                // One of which nothing was ever wanted has no clients yet.
                None if channel.wanted.is_empty() => {}
                None => silent.push(*id),
            }
        }
        if picks.is_empty() {
            let all: Vec<&ChannelId> = self.channels.iter().map(|(id, _)| *id).collect();
            return Err(nobody(&all));
        }
        let found = self.find(&picks, self.rest).await?;
        match &*found {
            Found::File { tree, path, file } if !self.asked.slash => {
                return self.file(&picks[*tree], path, file);
            }
            Found::Folder(folder) if self.asked.slash => return self.folder(&picks, folder).await,
            Found::Folder(_) => return Ok(self.with_slash()),
            Found::File { .. } | Found::Nothing => {}
        }
        if let Some(answer) = self.older().await? {
            return Ok(answer);
        }
        // Files of a plain tree stand for themselves: if the visit's build is too old for one, the visit is over. In
        // others the newer build's index would not belong to what was read before.
        if behind {
            for (id, _) in &self.channels {
                let visitor = self.face.visitor(&self.client, id);
                self.face.visits().end(visitor);
            }
            return Box::pin(self.answer()).await;
        }
        // A channel that nothing can be said of now may have it.
        if silent.is_empty() {
            Err(Refusal::unknown_path(&self.asked.path))
        } else {
            Err(nobody(&silent))
        }
    }

    async fn find(&self, picks: &[Pick], path: &[u8]) -> Result<Arc<Found>, Refusal> {
        let scope = Scope(picks.iter().map(|pick| pick.tree.clone()).collect());
        let site = &self.face.site;
        let urls = |tree: usize| {
            let holders = picks[tree].offered.mirrors.iter().take(HOLDERS_MAX);
            holders
                .map(|mirror| site.mirror(*mirror).url.clone())
                .collect()
        };
        Ok(site.trees.find(&scope, path, urls).await?)
    }

    /// With it whether the build is the one that is wanted now.
    fn pick(&self, id: &ChannelId, channel: &Channel) -> Option<(Pick, bool)> {
        let wanted = self.offered(id, None)?;
        let of = |offered: Arc<Offered>| {
            let current = offered.build == wanted.build;
            let tree = tree(id, channel, offered.build?)?;
            Some((Pick { tree, offered }, current))
        };
        // What never changes is the same in every build that has it.
        if self.is_immutable(channel) {
            return of(Arc::clone(&wanted));
        }
        let (visitor, entry) = (self.face.visitor(&self.client, id), self.entry(channel));
        let begin = |visits: &mut Visits| {
            let build = wanted.build?;
            visits.begin(visitor, build, entry, self.now);
            Some(())
        };
        let visited = {
            let mut visits = self.face.visits();
            let visited = visits.build(visitor, entry, self.now);
            if visited.is_none() {
                begin(&mut visits)?;
            }
            visited
        };
        if visited.is_none() || visited == wanted.build {
            return of(Arc::clone(&wanted));
        }
        // Nobody waits for the visits while an offer is made.
        let offered = self.offered(id, visited);
        let stands = offered.filter(|offered| !offered.mirrors.is_empty());
        if let Some(offered) = stands {
            return of(offered);
        }
        begin(&mut self.face.visits())?;
        of(Arc::clone(&wanted))
    }

    fn offered(&self, id: &ChannelId, build: Option<Build>) -> Option<Arc<Offered>> {
        self.offered_for(id, build, self.rest)
    }

    fn offered_for(
        &self,
        id: &ChannelId,
        build: Option<Build>,
        path: &[u8],
    ) -> Option<Arc<Offered>> {
        let path = EntryPath::new(path).ok();
        let (asked, place) = ((build, path.as_ref()), (&self.place, self.kind));
        self.face.offers.of(self.view, id, asked, place, self.now)
    }

    fn is_immutable(&self, channel: &Channel) -> bool {
        let path = EntryPath::new(self.rest);
        let layout = channel.last().map(|known| known.layout);
        matches!((path, layout), (Ok(path), Some(layout)) if layout.is_immutable(&path))
    }

    /// A number of the entry point that is asked for, where it is one: what a package manager reads first, and in a
    /// plain tree any path. Parts of a file are one request in several.
    fn entry(&self, channel: &Channel) -> Option<u64> {
        let names: &[&[u8]] = match channel.last()?.layout {
            Layout::Plain => &[],
            Layout::Debian => &[b"InRelease", b"Release"],
            Layout::OpenBsd => &[b"SHA256.sig", b"SHA256", b"index.txt"],
        };
        let first = names.is_empty() || names.contains(&self.asked.name());
        let whole = !self.client.headers.contains_key(RANGE);
        (first && whole).then(|| {
            let mut hasher = DefaultHasher::new();
            self.asked.path.hash(&mut hasher);
            hasher.finish()
        })
    }

    fn file(
        &self,
        pick: &Pick,
        path: &EntryPath,
        file: &mirrorlog_core::manifest::FileEntry,
    ) -> Result<Response, Refusal> {
        let mut headers = self.target(pick, path.as_bytes())?;
        let tree = &pick.tree;
        let digest = BASE64_STANDARD.encode(file.digest.as_bytes());
        set(&mut headers, DIGEST, format!("SHA-256={digest}"));
        let channel = &tree.channel;
        // Where a proxy put the directory below a path, only the operator knows that path.
        let top = self.face.site.url.as_deref().unwrap_or_default();
        let metalink = format!(
            "<{top}/metalink?channel={channel}&build={}&path={}>; rel=describedby; type=\"application/metalink4+xml\"",
            tree.build,
            encode_path(path.as_bytes())
        );
        append(&mut headers, metalink);
        Ok((StatusCode::FOUND, headers).into_response())
    }

    /// `Location`, the other mirrors, and what build it is.
    fn target(&self, pick: &Pick, path: &[u8]) -> Result<HeaderMap, Refusal> {
        let Tree { channel, build, .. } = &pick.tree;
        // What a symlink leads to may be in another part than the symlink.
        let asked_for = (path != self.rest).then(|| self.offered_for(channel, Some(*build), path));
        let offered = asked_for.flatten();
        let offered = offered.as_ref().unwrap_or(&pick.offered);
        let [first, others @ ..] = offered.mirrors.as_slice() else {
            return Err(nobody(&[channel]));
        };
        let url = |mirror| self.face.site.pinned(mirror, channel, *build, path);
        let mut headers = HeaderMap::new();
        set(&mut headers, LOCATION, url(*first));
        // The next one may be sent elsewhere, and this one too after the next build.
        set(&mut headers, CACHE_CONTROL, "no-store");
        set(&mut headers, VARY, "*");
        set(&mut headers, MIRRORLOG_BUILD, format!("{channel}={build}"));
        for (place, mirror) in others.iter().take(DUPLICATES_MAX).enumerate() {
            let country = self.view.profile(*mirror).country;
            let geo = country.map_or(String::new(), |country| {
                format!("; geo={}", country.to_lower())
            });
            let (url, place) = (url(*mirror), place + 2);
            append(
                &mut headers,
                format!("<{url}>; rel=duplicate; pri={place}{geo}"),
            );
        }
        Ok(headers)
    }

    /// A folder's listing on a mirror, of the first channel that has it.
    async fn folder(&self, picks: &[Pick], folder: &[u8]) -> Result<Response, Refusal> {
        for pick in picks {
            let found = self.find(std::slice::from_ref(pick), folder).await?;
            if matches!(&*found, Found::Folder(_)) {
                let mut path = folder.to_vec();
                if !path.is_empty() {
                    path.push(b'/');
                }
                let headers = self.target(pick, &path)?;
                return Ok((StatusCode::FOUND, headers).into_response());
            }
        }
        Err(Refusal::unknown_path(&self.asked.path))
    }

    fn with_slash(&self) -> Response {
        let mut headers = HeaderMap::new();
        set(
            &mut headers,
            LOCATION,
            format!("{}/", encode(self.asked.name())),
        );
        (StatusCode::MOVED_PERMANENTLY, headers).into_response()
    }

    /// A path that never gets other content, from the newest older build that has it and is offered.
    async fn older(&self) -> Result<Option<Response>, Refusal> {
        for (id, channel) in self
            .channels
            .iter()
            .filter(|(_, one)| self.is_immutable(one))
        {
            for (build, _) in channel.standing().take(OLDER_MAX) {
                let offered = self.offered(id, Some(build));
                let offered = offered.filter(|offered| !offered.mirrors.is_empty());
                let (Some(offered), Some(tree)) = (offered, tree(id, channel, build)) else {
                    continue;
                };
                let pick = Pick { tree, offered };
                let found = self.find(std::slice::from_ref(&pick), self.rest).await?;
                if let Found::File { path, file, .. } = &*found {
                    return self.file(&pick, path, file).map(Some);
                }
            }
        }
        Ok(None)
    }
}

fn nobody(channels: &[&ChannelId]) -> Refusal {
    let names: Vec<&str> = channels.iter().map(|id| id.as_str()).collect();
    let names = names.join(", ");
    Refusal::nobody(format!(
        "no mirror is offered for {names} now; /v1/mirrors says why"
    ))
}

fn tree(id: &ChannelId, channel: &Channel, build: Build) -> Option<Tree> {
    let known = channel.builds.get(&build)?;
    Some(Tree {
        channel: id.clone(),
        build,
        root: known.root,
        selection: mirrorlog_core::view::Selection::ALL,
    })
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: impl TryInto<HeaderValue>) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}

fn append(headers: &mut HeaderMap, link: String) {
    if let Ok(link) = HeaderValue::try_from(link) {
        headers.append(LINK, link);
    }
}

#[cfg(test)]
mod tests;
