#![allow(clippy::unwrap_used)]

use axum::body::Body;
use axum::http::{Request, StatusCode};
use mirrorlog_core::directory::health::Probed;
use tower::ServiceExt as _;

use super::super::feeds;
use super::super::origin::Origin;
use super::super::sample::{HOSTILE, MINUTE, Sample};
use super::super::status;
use super::*;

/// All that anybody can read, by name.
fn everything(sample: &Sample) -> Vec<(String, String)> {
    let (site, view, now) = (sample.site(), sample.view(), sample.now);
    let origin = Origin::of(&site, None);
    let status = status::document(&site, view, now, &origin);
    let mut all = vec![
        ("index.html".to_owned(), dashboard(&site, view, now)),
        ("mirrors.html".to_owned(), list(&site, view, now)),
        (
            "mirrors.atom".to_owned(),
            feeds::mirrors(&site, view, now, &origin),
        ),
        (
            "builds.atom".to_owned(),
            feeds::builds(&site, view, now, &origin),
        ),
        ("status.json".to_owned(), format!("{status:#}")),
    ];
    for (_, profile) in view.mirrors() {
        let id = profile.mirror.as_str();
        let page = mirror(&site, view, id, now);
        all.extend(page.map(|page| (format!("mirrors/{id}.html"), page)));
    }
    all
}

fn page(sample: &Sample, name: &str) -> String {
    let mut all = everything(sample).into_iter();
    all.find(|(one, _)| one == name).unwrap().1
}

#[test]
fn a_private_mirror_is_nowhere() {
    let sample = Sample::story();
    let all = everything(&sample);
    assert_eq!(all.len(), 5 + 12);
    for (name, text) in all {
        assert!(!text.contains("corp1"), "{name} names it");
        assert!(!text.contains("10.20."), "{name} says where it is");
    }
}

#[test]
fn what_operators_write_is_text() {
    let sample = Sample::story().named(&format!("{HOSTILE}\u{1b}"));
    for (name, text) in everything(&sample) {
        assert!(!text.contains("<script"), "{name}");
        assert!(!text.contains("& "), "{name}");
    }
    let shown = "&#60;script&#62;alert(&#39;x&#39;)&#60;/script&#62; &#38; &#34;Sons&#34;";
    let sponsored = format!("<dd>{shown}</dd>");
    assert!(page(&sample, "mirrors/us-west1.html").contains(&sponsored));
    assert!(page(&sample, "mirrors.html").contains(shown));
    // XML cannot write an escape.
    let feed = page(&sample, "builds.atom");
    assert!(feed.contains(&format!("<name>{shown}\u{fffd}</name>")));
}

#[test]
fn the_dashboard_says_who_is_offered_and_why_not_the_others() {
    let dashboard = page(&Sample::story(), "index.html");
    for text in [
        "10 of 12 mirrors answer. 3 channels.",
        "9 of 12 mirrors offered",
        "0 of 10 mirrors offered",
        r#"<div>41: <span class="whole">au</span></div>"#,
        "<strong>Expired.</strong>",
        r#"title="behind: the mirror is complete at build 41">behind<"#,
        r#"title="unreachable: the mirror does not answer">unreachable<"#,
        r#"title="returning: the mirror answers again, 1 of 2 checks passed">returning<"#,
        r#"title="offered at build 41">41<"#,
        "not measured",
        "112 MB/s",
    ] {
        assert!(dashboard.contains(text), "{text}");
    }
    let position = |text: &str| dashboard.find(text).unwrap();
    let places = ["Asia", "Europe", "Oceania"].map(position);
    assert!(places.is_sorted());
    let mirrors = [">de1<", ">de2<", ">de3<", ">ch1<", ">us-east1<", ">nz2<"].map(position);
    assert!(mirrors.is_sorted(), "by continent, country and id");
}

#[test]
fn a_mirror_has_its_reasons() {
    let sample = Sample::story();
    let revoked = page(&sample, "mirrors/au2.html");
    for text in [
        "digest-mismatch: pool/main/o/openssl/openssl_3.0.13-0ubuntu3_amd64.deb",
        "expired: the channel&#39;s head has expired",
        "Wanted in its country: build 41.",
        "offered at build 41",
        "<dd>50</dd>",
        "38 ms, deviation",
    ] {
        assert!(revoked.contains(text), "{text}");
    }
    let returning = page(&sample, "mirrors/us-east1.html");
    assert!(returning.contains("<dd>1 of 2 checks</dd>"));
    assert!(returning.contains("<dd>noble, noble-security</dd>"));
    assert!(!returning.contains("channel-openbsd-amd64"), "not carried");
    let down = page(&sample, "mirrors/de3.html");
    assert!(down.contains("<dt>Down</dt><dd>since 2026-11-21 23:38 UTC"));
}

#[test]
fn forks_and_retractions_are_shown() {
    let mut sample = Sample::new(&[("nz1", "nz", "http://nz1.example", "")]);
    sample.publish("noble", 1, 9 * MINUTE);
    sample.publish("noble", 2, 5 * MINUTE);
    sample.retract("noble", 2);
    sample.complete("nz1", "noble", 2, 4 * MINUTE);
    sample.answers("nz1", 20.0, MINUTE);
    let dashboard = page(&sample, "index.html");
    assert!(dashboard.contains("Build 2 was retracted."));
    assert!(dashboard.contains("<b>build 1</b> published"));
    assert!(dashboard.contains("no build yet"));
    assert!(page(&sample, "mirrors/nz1.html").contains("retracted by the archive"));
    assert!(page(&sample, "builds.atom").contains("; retracted.</summary>"));
    sample.fork("noble", 1);
    let dashboard = page(&sample, "index.html");
    assert!(dashboard.contains("Build 1 was signed with two roots."));
    assert!(dashboard.contains(r#"title="fork: build 1 was signed with two roots">fork<"#));
}

#[test]
fn a_directory_that_knows_nothing_says_so() {
    let sample = Sample::empty();
    assert!(page(&sample, "index.html").contains("No channel is known here yet"));
    assert!(page(&sample, "index.html").contains("No mirror is configured."));
    assert!(page(&sample, "mirrors.html").contains("0 mirrors in 0 countries."));
    assert!(!page(&sample, "mirrors.atom").contains("<entry>"));
    let status = status::document(
        &sample.site(),
        sample.view(),
        sample.now,
        &Origin::of(&sample.site(), None),
    );
    assert_eq!(
        (&status["last_check"], status["num_checks"].as_u64()),
        (&serde_json::Value::Null, Some(0))
    );
}

#[test]
fn a_mirror_that_nobody_asked_yet_is_listed() {
    let sample = Sample::new(&[("zz1", "zz", "http://zz1.example", "")]);
    let dashboard = page(&sample, "index.html");
    assert!(dashboard.contains("not probed yet") && dashboard.contains("Elsewhere"));
    assert!(page(&sample, "mirrors/zz1.html").contains("It was not probed yet."));
}

#[tokio::test]
async fn handlers_answer_with_headers_and_refusals() {
    let mut sample = Sample::story();
    sample.probed("nz1", Probed::Wrong, 0);
    let router = sample.router();
    let ask = async |path: &str| {
        let request = Request::get(path).header("host", "m.example:8080");
        let request = request.body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts, String::from_utf8(body.to_vec()).unwrap())
    };
    for path in ["/", "/mirrors.html", "/mirrors/nz1.html"] {
        let (parts, _) = ask(path).await;
        assert_eq!(parts.status, StatusCode::OK, "{path}");
        assert_eq!(parts.headers["content-security-policy"], POLICY);
        assert_eq!(parts.headers["cache-control"], "no-cache");
        assert_eq!(parts.headers["content-type"], "text/html; charset=utf-8");
    }
    for unknown in ["corp1", "nobody", "..", "<script>"] {
        let (parts, text) = ask(&format!("/mirrors/{}.html", encode(unknown))).await;
        assert_eq!(parts.status, StatusCode::NOT_FOUND, "{unknown}");
        assert_eq!(
            text,
            format!("unknown-mirror: no mirror is called {unknown}\n")
        );
    }
    assert_eq!(ask("/mirrors/nz1").await.0.status, StatusCode::NOT_FOUND);
    let (parts, feed) = ask("/builds.atom").await;
    assert_eq!(
        parts.headers["content-type"],
        "application/atom+xml; charset=utf-8"
    );
    assert!(feed.contains(r#"href="http://m.example:8080/builds.atom""#));
    assert!(feed.contains("<id>tag:m.example,2026:build/noble/42</id>"));
    let (_, status) = ask("/status.json").await;
    assert!(status.contains("http://m.example:8080/mirrors/nz1.html"));
}

fn encode(text: &str) -> String {
    mirrorlog_core::url::encode(text.as_bytes())
}
