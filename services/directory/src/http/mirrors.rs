//! `/v1/mirrors`: the mirrors for a client, and why not the others, as JSON.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::offer::{Question, Ranked};
use mirrorlog_core::path::EntryPath;
use runtime::boot::now;
use serde_json::{Value, json};

use super::Face;
use super::ask::Asked;
use super::channels::universe;
use super::refusal::Refusal;
use crate::site::Site;

pub(super) async fn answer(
    State(face): State<Arc<Face>>,
    asked: Asked,
) -> Result<Response, Refusal> {
    let view = face.site.view();
    let document = face.counted("json", document(&face.site, &view, &asked))?;
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, format!("{document}\n")).into_response())
}

/// The answer to a client.
pub(super) fn document(site: &Site, view: &View, asked: &Asked) -> Result<Value, Refusal> {
    let channel = asked.channel(view)?;
    let path = asked
        .path
        .as_deref()
        .unwrap_or_default()
        .trim_start_matches('/');
    let path = EntryPath::new(path.as_bytes()).ok();
    let question = Question {
        channel,
        build: asked.build,
        needs: asked.needs(path.as_ref()),
        place: &asked.place,
        now: now(),
    };
    let offer = view.offer(&question)?;
    let ranked = offer.ranked.iter().take(asked.limit);
    let mirrors = ranked.map(|ranked| mirror(site, view, &question, &offer.build, ranked));
    let excluded = view.excluded(&question)?;
    let excluded = excluded.iter().map(|(mirror, reason)| {
        json!({ "id": view.profile(*mirror).mirror.as_str(), "reason": reason.to_string() })
    });
    let place = &asked.place;
    Ok(json!({
        "channel": channel.as_str(),
        "build": offer.build.map(|build| build.get()),
        "client": {
            "country": place.country.map(|country| country.as_str().to_owned()),
            "continent": place.continent.map(|continent| continent.as_str()),
            "asn": place.asn.map(|asn| asn.0),
        },
        "offered": offer.ranked.len(),
        "mirrors": mirrors.collect::<Vec<_>>(),
        "excluded": excluded.collect::<Vec<_>>(),
        "universe": universe(site),
    }))
}

fn mirror(
    site: &Site,
    view: &View,
    question: &Question<'_>,
    build: &Option<mirrorlog_core::id::Build>,
    ranked: &Ranked,
) -> Value {
    let Ranked {
        mirror,
        tier,
        score,
    } = *ranked;
    let profile = view.profile(mirror);
    let url = &site.mirror(mirror).url;
    let carried = view.channel(question.channel);
    let mount = carried.and_then(|carried| carried.mount());
    let overall = view.speeds().overall(mirror);
    json!({
        "id": profile.mirror.as_str(),
        "pool": profile.pool.as_str(),
        "url": url,
        "tier": tier.as_str(),
        "score": (score * 10.0).round() / 10.0,
        "country": profile.country.map(|country| country.as_str().to_owned()),
        "asn": profile.asn.map(|asn| asn.0),
        "weight": profile.weight,
        "dns_reason": site.dns_reason(mirror).map(|reason| reason.to_string()),
        "bytes_per_s": overall.and_then(|overall| overall.speed).map(f64::round),
        "live": mount.map(|mount| format!("{url}{mount}/")),
        "view": build.zip(carried).and_then(|(build, carried)| Some(carried.word(mirror, build)?.part.view().to_string())),
        "pinned": build.map(|build| format!("{url}/@/{}/{build}/", question.channel)),
    })
}
