//! Who asks, and for what: the client's address behind proxies, and the parameters that all outputs share.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts, Query};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::place::{Country, Place};
use mirrorlog_core::id::{Build, ChannelId};
use serde::Deserialize;

use super::Face;
use super::refusal::Refusal;
use crate::site::Site;

/// Mirrors in an answer that does not say how many.
const LIMIT_USUAL: usize = 20;
/// Mirrors in one answer.
const LIMIT_MAX: usize = 1000;

/// Where a request came from, as far as the proxies in front are believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) Option<IpAddr>);

impl FromRequestParts<std::sync::Arc<Face>> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        face: &std::sync::Arc<Face>,
    ) -> Result<Self, Self::Rejection> {
        let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = info.map(|ConnectInfo(peer)| peer.ip().to_canonical());
        Ok(Self(
            peer.map(|peer| behind(&face.site, peer, &parts.headers)),
        ))
    }
}

/// Goes back from the peer through the addresses that trusted proxies wrote down, to the first that is none.
fn behind(site: &Site, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = |at: IpAddr| site.trusted_proxies.iter().any(|net| net.contains(&at));
    if site.trusted_proxies.is_empty() || !trusted(peer) {
        return peer;
    }
    let mut client = peer;
    let values = headers.get_all("x-forwarded-for").iter();
    let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    for text in texts.iter().rev().flat_map(|text| text.rsplit(',')) {
        let Ok(address) = text.trim().parse::<IpAddr>() else {
            break;
        };
        client = address.to_canonical();
        if !trusted(client) {
            break;
        }
    }
    client
}

/// The parameters that all outputs share.
#[derive(Debug, Default, Deserialize)]
struct Written {
    channel: Option<String>,
    build: Option<String>,
    country: Option<String>,
    client_ip: Option<String>,
    limit: Option<String>,
    path: Option<String>,
}

/// What is asked, checked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) channel: Option<ChannelId>,
    pub(super) build: Option<Build>,
    pub(super) place: Place,
    pub(super) limit: usize,
    pub(super) path: Option<String>,
}

impl FromRequestParts<std::sync::Arc<Face>> for Asked {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut Parts,
        face: &std::sync::Arc<Face>,
    ) -> Result<Self, Refusal> {
        let Ok(Peer(peer)) = Peer::from_request_parts(parts, face).await;
        let written = Query::<Written>::try_from_uri(&parts.uri);
        let Query(written) = written.map_err(|error| Refusal::bad_request(error.to_string()))?;
        Self::read(&face.site, written, peer)
    }
}

impl Asked {
    fn read(site: &Site, written: Written, peer: Option<IpAddr>) -> Result<Self, Refusal> {
        let bad = |text: String| Refusal::bad_request(text);
        // An empty value is no value: forms send such.
        let given = |value: Option<String>| value.filter(|text| !text.is_empty());
        let channel = given(written.channel).map(|text| text.parse::<ChannelId>());
        let build = given(written.build).map(|text| text.parse::<Build>());
        let country = given(written.country).map(|text| text.parse::<Country>());
        let country = country
            .transpose()
            .map_err(|error| bad(error.to_string()))?;
        let address = match given(written.client_ip) {
            Some(text) => Some(
                text.parse::<IpAddr>()
                    .map_err(|_not_one| bad(format!("client_ip: {text:?} is no IP address")))?,
            ),
            None => peer,
        };
        let limit = match given(written.limit) {
            Some(text) => text
                .parse::<usize>()
                .map_err(|_not_one| bad(format!("limit: {text:?} is no whole number")))?,
            None => LIMIT_USUAL,
        };
        Ok(Self {
            channel: channel
                .transpose()
                .map_err(|error| bad(error.to_string()))?,
            build: build.transpose().map_err(|error| bad(error.to_string()))?,
            place: site.place(address.map(|at| at.to_canonical()), country),
            limit: limit.min(LIMIT_MAX),
            path: written.path,
        })
    }

    /// The channel that is asked for; the only one, when there is only one.
    pub(super) fn channel<'a>(&'a self, view: &'a View) -> Result<&'a ChannelId, Refusal> {
        if let Some(channel) = &self.channel {
            return Ok(channel);
        }
        let mut channels = view.channels().map(|(id, _)| id);
        match (channels.next(), channels.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Refusal::unavailable("no channel is known here yet")),
            (Some(_), Some(_)) => {
                let names: Vec<&str> = view.channels().map(|(id, _)| id.as_str()).collect();
                let text = format!("say which channel: ?channel={}", names.join(", "));
                Err(Refusal::bad_request(text))
            }
        }
    }
}
