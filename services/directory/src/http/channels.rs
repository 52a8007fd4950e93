//! `/v1/channels`: what there is and where it is served, for clients that know a path and no channel.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::directory::View;
use serde_json::{Value, json};

use super::Face;
use crate::site::Site;

pub(super) async fn answer(State(face): State<Arc<Face>>) -> Response {
    let view = face.site.view();
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, format!("{}\n", document(&face.site, &view))).into_response()
}

/// Every channel, in order of mount and then of who wins a path.
fn document(site: &Site, view: &View) -> Value {
    let known = view.channels().filter_map(|(id, carried)| {
        let last = carried.channel.last()?;
        Some((
            &last.mount,
            last.precedence,
            id,
            last.layout,
            &carried.channel.head,
        ))
    });
    let mut known: Vec<_> = known.collect();
    known.sort_by_key(|(mount, precedence, id, ..)| (*mount, *precedence, *id));
    let channels = known
        .into_iter()
        .map(|(mount, precedence, id, layout, head)| {
            json!({
                "channel": id.as_str(),
                "mount": mount.as_str(),
                "precedence": precedence,
                "layout": layout.as_str(),
                "build": head.as_ref().map(|head| head.build.get()),
            })
        });
    json!({ "channels": channels.collect::<Vec<_>>(), "universe": universe(site) })
}

/// Where the archive gives what no mirror has; null when the operator offers no such thing.
pub(super) fn universe(site: &Site) -> Value {
    let fetch = site.universe.as_ref();
    fetch.map_or(Value::Null, |fetch| json!({ "fetch": fetch }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::Sample;
    use super::*;

    #[test]
    fn channels_come_by_mount_and_precedence() {
        let sample = Sample::story();
        let document = document(&sample.site(), sample.view());
        let channels = document["channels"].as_array().unwrap();
        let names: Vec<&str> = channels
            .iter()
            .map(|one| one["channel"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["openbsd-amd64", "noble", "noble-security"]);
        assert_eq!(channels[1]["mount"], "/ubuntu");
        assert_eq!(channels[2]["mount"], "/ubuntu");
        assert_eq!(channels[1]["layout"], "debian");
        assert!(channels[1]["build"].as_u64().is_some_and(|build| build > 0));
        assert_eq!(document["universe"], Value::Null);
    }
}
