//! `/status.json`: the mirrors in the form of Arch Linux's status (version 3), which rankers read.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::member::{MirrorIndex, Profile};
use mirrorlog_core::id::ChannelId;
use mirrorlog_core::statement::VerdictState;
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;
use serde_json::{Value, json};

use super::Face;
use super::origin::{Notation, Origin};
use super::pages::told::{Around, public};
use super::pages::{country, protocol, show};
use crate::site::Site;

/// The form's version.
const VERSION: u32 = 3;
/// Seconds that figures look back, as Arch has it; newer ones count more here.
const CUTOFF_S: u32 = 24 * 60 * 60;

pub(super) async fn answer(State(face): State<Arc<Face>>, headers: HeaderMap) -> Response {
    let (view, now) = (face.site.view(), now());
    let around = (&*face.site, &*view, now);
    let make = |origin: &Origin| document(&face.site, &view, now, origin).to_string();
    let document = face
        .memo
        .of_origin("status.json", around, &headers, Notation::Json, make);
    face.gauges.answered("json", "ok");
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, document).into_response()
}

/// The whole document.
pub(crate) fn document(site: &Site, view: &View, now: Timestamp, origin: &Origin) -> Value {
    let mut around: Vec<(&ChannelId, Around<'_>)> = view
        .channels()
        .map(|(id, _)| (id, Around::new(view, id, now)))
        .collect();
    let all = || public(view).map(|(mirror, _)| view.health(mirror));
    let last_check = all().filter_map(|health| health.checked).max();
    let num_checks = all().map(|health| health.probes).max().unwrap_or(0);
    let urls: Vec<Value> = public(view)
        .map(|(mirror, profile)| {
            let held = held(view, &mut around, mirror, profile, now);
            url(site, view, mirror, profile, &held, origin)
        })
        .collect();
    json!({
        "cutoff": CUTOFF_S,
        "last_check": last_check.map(show::iso),
        "num_checks": num_checks,
        "check_frequency": site.probe_every_s,
        "urls": urls,
        "version": VERSION,
    })
}

/// What a mirror has of what it should.
struct Held {
    /// When it was last said to be complete.
    last_sync: Option<Timestamp>,
    /// Channels that it is complete in, of those with a wanted build; none when there are none.
    completion: Option<f64>,
    /// Seconds; none while it is complete in no channel.
    delay_s: Option<i64>,
}

fn held(
    view: &View,
    around: &mut [(&ChannelId, Around<'_>)],
    mirror: MirrorIndex,
    profile: &Profile,
    now: Timestamp,
) -> Held {
    let (mut last_sync, mut delay_s) = (None, None);
    let (mut complete, mut wanted) = (0_u32, 0_u32);
    for (id, around) in around {
        let carried = view.channel(id).filter(|_| profile.carries(id));
        let Some(carried) = carried else {
            continue;
        };
        if let Some(build) = around.build(mirror) {
            wanted += 1;
            complete += u32::from(carried.is_complete(mirror, build));
        }
        // A channel that it never had says nothing of how late it is: that is what its completion tells.
        let Some(newest) = carried.newest_complete(mirror) else {
            continue;
        };
        let (_, lag_ms) = carried.channel.lag(Some(newest), now);
        delay_s = delay_s.max(Some(lag_ms.max(0) / 1000));
        let word = carried.word(mirror, newest);
        let word = word.filter(|word| word.state == VerdictState::Complete);
        last_sync = last_sync.max(word.map(|word| word.issued));
    }
    Held {
        last_sync,
        completion: (wanted > 0).then(|| f64::from(complete) / f64::from(wanted)),
        delay_s,
    }
}

fn url(
    site: &Site,
    view: &View,
    mirror: MirrorIndex,
    profile: &Profile,
    held: &Held,
    origin: &Origin,
) -> Value {
    let health = view.health(mirror);
    let url = &site.mirror(mirror).url;
    let mean_s = health.latency_ms.map(|ms| ms / 1000.0);
    let deviation_s = mean_s.map(|_| health.deviation_ms / 1000.0);
    let addresses = site.addresses.of(mirror);
    json!({
        "url": format!("{url}/"),
        "protocol": protocol(url),
        "last_sync": held.last_sync.map(show::iso),
        "completion_pct": held.completion,
        "delay": held.delay_s,
        "duration_avg": mean_s.map(rounded),
        "duration_stddev": deviation_s.map(rounded),
        "score": score(held, mean_s, deviation_s).map(rounded),
        "active": health.is_up(),
        "country": profile.country.map_or_else(String::new, country::title),
        "country_code": profile.country.map_or_else(String::new, |country| country.to_string()),
        "isos": false,
        "ipv4": addresses.iter().any(|address| address.is_ipv4()),
        "ipv6": addresses.iter().any(|address| address.is_ipv6()),
        "details": format!("{}/mirrors/{}.html", origin.url(), profile.mirror),
    })
}

/// Lower is better: (hours of delay + mean + deviation) / completion. None for one that has nothing or says nothing.
fn score(held: &Held, mean_s: Option<f64>, deviation_s: Option<f64>) -> Option<f64> {
    let completion = held.completion.filter(|share| *share > 0.0)?;
    let hours = held.delay_s? as f64 / 3600.0;
    Some((hours + mean_s? + deviation_s?) / completion)
}

/// To microseconds: more digits say nothing.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use expect_test::expect;

    use super::super::sample::{MINUTE, Sample};
    use super::*;

    fn status(sample: &Sample) -> Value {
        let site = sample.site();
        document(&site, sample.view(), sample.now, &Origin::of(&site, None))
    }

    #[test]
    fn fields_are_those_of_arch() {
        let mut sample = Sample::new(&[
            (
                "ch1",
                "ch",
                "https://ch1.example/pub",
                "addresses = ['192.0.2.9', '2001:db8::9']",
            ),
            ("nz1", "nz", "http://[2001:db8::1]:8080", ""),
        ]);
        for (number, ago_ms) in [(1, 90 * MINUTE), (2, 60 * MINUTE), (3, 30 * MINUTE)] {
            sample.publish("noble", number, ago_ms);
        }
        sample.publish("jammy", 1, 50 * MINUTE);
        sample.complete("ch1", "noble", 1, 89 * MINUTE);
        sample.complete("ch1", "jammy", 1, 49 * MINUTE);
        for (channel, build) in [("noble", 3), ("jammy", 1)] {
            sample.wanted(channel, "ch", build);
        }
        sample.answers("ch1", 20.0, MINUTE);
        sample.answers("ch1", 30.0, 0);
        expect![[r#"
            {
              "check_frequency": 30,
              "cutoff": 86400,
              "last_check": "2026-11-21T23:50:30Z",
              "num_checks": 2,
              "urls": [
                {
                  "active": true,
                  "completion_pct": 0.5,
                  "country": "Switzerland",
                  "country_code": "CH",
                  "delay": 3600,
                  "details": "http://localhost/mirrors/ch1.html",
                  "duration_avg": 0.022,
                  "duration_stddev": 0.004,
                  "ipv4": true,
                  "ipv6": true,
                  "isos": false,
                  "last_sync": "2026-11-21T23:01:30Z",
                  "protocol": "https",
                  "score": 2.052,
                  "url": "https://ch1.example/pub/"
                },
                {
                  "active": false,
                  "completion_pct": 0.0,
                  "country": "New Zealand",
                  "country_code": "NZ",
                  "delay": null,
                  "details": "http://localhost/mirrors/nz1.html",
                  "duration_avg": null,
                  "duration_stddev": null,
                  "ipv4": false,
                  "ipv6": true,
                  "isos": false,
                  "last_sync": null,
                  "protocol": "http",
                  "score": null,
                  "url": "http://[2001:db8::1]:8080/"
                }
              ],
              "version": 3
            }"#]]
        .assert_eq(&format!("{:#}", status(&sample)));
    }

    #[test]
    fn a_mirror_at_the_newest_build_has_no_delay() {
        let mut sample = Sample::new(&[("ch1", "ch", "https://ch1.example", "")]);
        sample.publish("noble", 1, 90 * MINUTE);
        sample.complete("ch1", "noble", 1, MINUTE);
        sample.wanted("noble", "ch", 1);
        sample.answers("ch1", 20.0, 0);
        let mirror = &status(&sample)["urls"][0];
        assert_eq!(
            (&mirror["delay"], &mirror["score"]),
            (&json!(0), &json!(0.02))
        );
    }
}
