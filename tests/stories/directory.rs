//! Everybody who asks is told the same, and nobody is told of a mirror that cannot keep it.

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::{Network, Record, Response, Setup, Tree, mmdb, run, tool, until, until_within};
use reqwest::Method;
use serde_json::{Value, json};

/// What `local up` sets.
const PROBE_EVERY: Duration = Duration::from_secs(2);

fn dig(network: &Network, words: &[&str]) -> String {
    let dns = network.dns();
    let mut dig = tool("dig");
    dig.arg(format!("@{}", dns.ip()))
        .args(["-p", &dns.port().to_string(), "+norec", "+tries=1"]);
    String::from_utf8(run(dig.args(words))).unwrap()
}

/// Addresses of a pool, sorted.
fn pool(network: &Network, name: &str) -> Vec<String> {
    let said = dig(network, &["+short", "A", &format!("{name}.mirrors.test")]);
    let mut addresses: Vec<String> = said.lines().map(str::to_owned).collect();
    addresses.sort();
    addresses
}

fn host(network: &Network, mirror: &str) -> String {
    let url = network.url(mirror).trim_start_matches("http://").to_owned();
    url.split(':').next().unwrap().to_owned()
}

/// Ids of the mirrors whose URL is somewhere in a text.
fn named(network: &Network, text: &str) -> Vec<String> {
    let mut named: Vec<String> = network
        .mirrors()
        .iter()
        .map(|id| (*id).to_owned())
        .collect();
    // `:80` is no `:8080`: what follows the URL is no digit.
    named.retain(|id| {
        let url = network.url(id);
        text.match_indices(url)
            .any(|(at, _)| !text[at + url.len()..].starts_with(|c: char| c.is_ascii_digit()))
    });
    named.sort();
    named
}

#[test]
fn all_outputs_are_of_one_truth() {
    let network = Network::start(&Setup::pools("nz=2,au=1,ch=1"));
    let tree = Tree::new();
    tree.write("sub/file", "content");
    network.publish_everywhere("noble", tree.path());
    network.await_offered("channel=noble", &["au1", "ch1", "nz1", "nz2"]);
    network.kill("nz1");
    network.await_offered("channel=noble", &["au1", "ch1", "nz2"]);
    let offered = ["au1", "ch1", "nz2"];

    let list = network.ask_directory("/mirrors.txt?channel=noble").text();
    assert_eq!(named(&network, &list), offered);
    let metalink = network.ask_directory("/metalink?channel=noble&path=sub/file");
    assert_eq!(named(&network, &metalink.text()), offered);
    let redirect = network.ask_directory("/noble/sub/file");
    let targets = format!("{} {}", redirect.header("location"), links(&redirect));
    assert_eq!(named(&network, &targets), offered);
    let status = network.ask_directory("/status.json").json();
    let active = status["urls"].as_array().unwrap().iter();
    let active = active.filter(|one| one["active"] == true && one["completion_pct"] == 1.0);
    let active: Vec<&str> = active.map(|one| one["url"].as_str().unwrap()).collect();
    assert_eq!(named(&network, &active.join(" ")), offered);
    let hosts = offered.map(|id| host(&network, id));
    assert_eq!(pool(&network, "world"), hosts);
    assert_eq!(pool(&network, "nz"), [host(&network, "nz2")]);
    assert_eq!(
        pool(&network, "oceania"),
        [host(&network, "au1"), host(&network, "nz2")]
    );
    let txt = dig(&network, &["+short", "TXT", "nz.mirrors.test"]);
    assert_eq!(txt.trim(), "\"noble=1\"");

    why_says_it(&network);
    people_and_feeds_see_it(&network);
    exported_files_say_it(&network, &list);
}

fn links(response: &Response) -> String {
    let links = response.headers.get_all("link").iter();
    let links: Vec<&str> = links.map(|link| link.to_str().unwrap()).collect();
    links.join(" ")
}

fn why_says_it(network: &Network) {
    let why = network.run(["why", "nz1", "noble"]).ok().json;
    assert_eq!((&why["offered"], &why["build"]), (&json!(false), &json!(1)));
    assert!(
        why["reason"].as_str().unwrap().starts_with("unreachable"),
        "{why}"
    );
    let why = network
        .run(["why", "nz2", "noble", "--country", "nz"])
        .ok()
        .json;
    assert_eq!(
        (&why["offered"], &why["place"], &why["tier"]),
        (&json!(true), &json!(1), &json!("country"))
    );
    network.run(["why", "nobody", "noble"]).code_is(66);
    network.run(["why", "nz1", "nothing"]).code_is(66);
}

fn people_and_feeds_see_it(network: &Network) {
    for (path, kind) in [
        ("/", "text/html"),
        ("/mirrors.html", "text/html"),
        ("/mirrors/nz1.html", "text/html"),
        ("/mirrors.atom", "application/atom+xml"),
        ("/builds.atom", "application/atom+xml"),
        ("/metrics", "application/openmetrics-text"),
    ] {
        let page = network.ask_directory(path);
        assert_eq!(page.status, 200, "{path}");
        assert!(page.header("content-type").starts_with(kind), "{path}");
    }
    let page = network.ask_directory("/mirrors/nz1.html").text();
    assert!(page.contains("unreachable"), "{page}");
    assert_eq!(network.ask_directory("/mirrors/nobody.html").status, 404);
}

fn exported_files_say_it(network: &Network, list: &str) {
    let out = network.scratch().join("static");
    let mut text = String::new();
    // The state on disk may be two seconds old.
    until("the files say it too", || {
        let exported = network.run_command(
            Command::new(e2e::binary())
                .args(["--json", "--config"])
                .arg(network.config("directory"))
                .args(["directory", "export"])
                .arg(&out),
        );
        let exported = exported.ok().json;
        assert!(exported["files"].as_u64().unwrap() > 10, "{exported}");
        text = std::fs::read_to_string(out.join("noble/mirrors.txt")).unwrap();
        named(network, &text) == named(network, list)
    });
    let text = std::fs::read_to_string(out.join("noble/nz/mirrors.txt")).unwrap();
    let first = text.lines().nth(1).unwrap();
    let pinned = format!("{}/@/noble/1/\tpriority:1 type:index", network.url("nz2"));
    assert_eq!(first, pinned);
    for name in [
        "index.html",
        "mirrors.html",
        "mirrors/nz1.html",
        "status.json",
        "builds.atom",
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let json: Value =
        serde_json::from_slice(&std::fs::read(out.join("noble/mirrors.json")).unwrap()).unwrap();
    assert_eq!(
        (&json["build"], &json["excluded"][0]["id"]),
        (&json!(1), &json!("nz1"))
    );
}

#[test]
fn a_dead_mirror_is_out_in_two_intervals_and_back_when_checked() {
    let network = Network::start(&Setup::pools("nz=2"));
    let tree = Tree::new();
    tree.write("file", "one");
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["nz1", "nz2"]);
    // A clean death and one that hangs.
    for (hurt, heal) in [
        (
            Network::kill as fn(&Network, &str),
            Network::restart as fn(&Network, &str),
        ),
        (Network::pause, Network::resume),
    ] {
        hurt(&network, "nz1");
        let hurt_at = Instant::now();
        network.await_offered("channel=c", &["nz2"]);
        // An interval more than promised for the machine that the test shares.
        assert!(
            hurt_at.elapsed() < 3 * PROBE_EVERY,
            "{:?}",
            hurt_at.elapsed()
        );
        let reason = reason(&network, "nz1", "channel=c");
        assert!(reason.starts_with("unreachable"), "{reason}");
        tree.write("file", format!("{hurt_at:?}"));
        let build = network.publish("c", tree.path(), &[]).ok().build();
        network.await_complete(&["nz2"], "c", build);
        heal(&network, "nz1");
        // It has to catch up before anybody is sent to it.
        until("nz1 is offered again", || {
            let answer = network.ask_directory("/v1/mirrors?channel=c").json();
            let mut offered = answer["mirrors"].as_array().unwrap().iter();
            let offered = offered.any(|one| one["id"] == "nz1");
            let named = answer["build"].as_u64().unwrap();
            if offered {
                let answer = network.get("nz1", &format!("/@/c/{named}/file"));
                assert_eq!(
                    answer.status, 200,
                    "offered, and does not have build {named}"
                );
            }
            offered && named == build
        });
    }
}

fn reason(network: &Network, mirror: &str, query: &str) -> String {
    let answer = network
        .ask_directory(&format!("/v1/mirrors?{query}"))
        .json();
    let mut excluded = answer["excluded"].as_array().unwrap().iter();
    let found = excluded.find(|one| one["id"] == mirror);
    found.map_or(String::new(), |one| {
        one["reason"].as_str().unwrap().to_owned()
    })
}

#[test]
fn a_mirror_behind_serves_those_who_pin() {
    let network = Network::start(&Setup::pools("nz=3"));
    let tree = Tree::new();
    tree.write("file", "one");
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["nz1", "nz2", "nz3"]);
    // nz3 serves on, and no longer hears of new builds.
    network.kill("nz3");
    network.configure("nz3", |config| {
        config["nats"]["url"] = "nats://127.0.0.1:9".into();
        config["archive"]["fetch"] = "127.0.0.1:9".into();
        config["report"]["every"] = "1s".into();
    });
    network.restart("nz3");
    tree.write("file", "two");
    network.publish("c", tree.path(), &[]).ok();
    network.await_complete(&["nz1", "nz2"], "c", 2);
    until("build 2 is wanted", || {
        network.ask_directory("/v1/mirrors?channel=c").json()["build"] == 2
    });
    network.await_offered("channel=c", &["nz1", "nz2"]);
    let behind = reason(&network, "nz3", "channel=c");
    assert!(behind.starts_with("behind: "), "{behind}");
    until("nz3 is offered for build 1", || {
        network
            .offered("channel=c&build=1")
            .contains(&"nz3".to_owned())
    });
    let unknown = network.ask_directory("/v1/mirrors?channel=c&build=9");
    assert_eq!(unknown.status, 404);
    assert!(
        unknown.text().starts_with("unknown-build"),
        "{}",
        unknown.text()
    );
    network
        .run(["retract", "c", "1", "--reason", "bad", "--no-replacement"])
        .ok();
    until("build 1 is gone", || {
        network
            .ask_directory("/v1/mirrors?channel=c&build=1")
            .status
            == 410
    });
}

#[test]
fn places_and_networks_decide() {
    let network = Network::start(&Setup::pools("nz=1,au=1,ch=1,us=1"));
    let tree = Tree::new();
    tree.write("file", "one");
    network.publish_everywhere("c", tree.path());
    let [country, asn] = ["country.mmdb", "asn.mmdb"].map(|name| network.scratch().join(name));
    let countries = [
        ([192, 0, 2, 0], 24, Record::Country("CH")),
        ([198, 51, 100, 0], 24, Record::FlatCountry("NZ")),
    ];
    std::fs::write(&country, mmdb(&countries)).unwrap();
    std::fs::write(&asn, mmdb(&[([192, 0, 2, 0], 25, Record::As(64_496))])).unwrap();
    network.kill("directory");
    network.configure("directory", |config| {
        let mut geo = toml::Table::new();
        geo.insert("country".to_owned(), country.to_str().unwrap().into());
        geo.insert("asn".to_owned(), asn.to_str().unwrap().into());
        config.insert("geo".to_owned(), geo.into());
        for mirror in config["mirrors"].as_array_mut().unwrap() {
            let mirror = mirror.as_table_mut().unwrap();
            match mirror["id"].as_str().unwrap() {
                "us1" => mirror.insert("asn".to_owned(), 64_496.into()),
                "au1" => mirror.insert("netblocks".to_owned(), vec!["203.0.113.0/24"].into()),
                "nz1" => {
                    mirror.insert("private".to_owned(), true.into());
                    mirror.insert("netblocks".to_owned(), vec!["203.0.113.128/25"].into())
                }
                _other => None,
            };
        }
    });
    network.restart("directory");
    network.await_offered("channel=c", &["au1", "ch1", "us1"]);
    let tiers = |query: &str| {
        let answer = network
            .ask_directory(&format!("/v1/mirrors?channel=c&{query}"))
            .json();
        let mirrors = answer["mirrors"].as_array().unwrap().iter();
        let first: Vec<String> = mirrors
            .map(|one| {
                format!(
                    "{}:{}",
                    one["id"].as_str().unwrap(),
                    one["tier"].as_str().unwrap()
                )
            })
            .collect();
        first.join(" ")
    };
    assert_eq!(tiers("client_ip=192.0.2.1"), "us1:as ch1:country au1:world");
    assert!(tiers("client_ip=192.0.2.200").starts_with("ch1:country"));
    assert!(tiers("client_ip=198.51.100.7").starts_with("au1:continent"));
    assert!(tiers("country=cH").starts_with("ch1:country"));
    assert!(tiers("client_ip=203.0.113.1").starts_with("au1:netblock"));
    assert!(tiers("client_ip=203.0.113.200").starts_with("nz1:netblock au1:netblock"));
    assert!(reason(&network, "nz1", "channel=c").starts_with("private"));
    for bad in ["country=xyz", "client_ip=here", "limit=many", "build=0"] {
        let answer = network.ask_directory(&format!("/v1/mirrors?channel=c&{bad}"));
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    assert_eq!(
        network.ask_directory("/v1/mirrors?channel=nothing").status,
        404
    );
    for path in ["/", "/mirrors.html", "/status.json", "/mirrors.atom"] {
        let text = network.ask_directory(path).text();
        assert!(!text.contains("nz1"), "{path} shows a private mirror");
    }
}

#[test]
fn names_are_answered_as_resolvers_expect() {
    let network = Network::start(&Setup::pools("nz=2,au=1"));
    let tree = Tree::new();
    tree.write("file", "one");
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["au1", "nz1", "nz2"]);
    let nodata = dig(&network, &["AAAA", "nz.mirrors.test"]);
    assert!(
        nodata.contains("status: NOERROR") && nodata.contains("SOA"),
        "{nodata}"
    );
    assert!(
        nodata.contains("ANSWER: 0") && nodata.contains(" aa"),
        "{nodata}"
    );
    let absent = dig(&network, &["A", "ch.mirrors.test"]);
    assert!(
        absent.contains("status: NXDOMAIN") && absent.contains("SOA"),
        "{absent}"
    );
    let elsewhere = dig(&network, &["A", "example.org"]);
    assert!(elsewhere.contains("status: REFUSED"), "{elsewhere}");
    let tcp = dig(&network, &["+tcp", "+short", "A", "WORLD.mirrors.TEST"]);
    assert_eq!(tcp.lines().count(), 3, "{tcp}");
    let numbered: Vec<String> = (0..4)
        .flat_map(|n| pool(&network, &format!("{n}.nz")))
        .collect();
    let of_nz = pool(&network, "nz");
    assert!(
        numbered.iter().all(|address| of_nz.contains(address)),
        "{numbered:?}"
    );

    let serial = || {
        let soa = dig(&network, &["+short", "SOA", "mirrors.test"]);
        soa.split(' ').nth(2).unwrap().parse::<u32>().unwrap()
    };
    let before = serial();
    network.kill("nz1");
    until("nz1 is in no pool", || {
        pool(&network, "nz") == [host(&network, "nz2")]
    });
    assert!(serial() > before, "the serial moves with the answers");

    // A whole resolver, which starts at the zone as at any other's.
    let conf = network.scratch().join("unbound.conf");
    let dns = network.dns();
    let stub = format!(
        "server:\n do-not-query-localhost: no\n username: \"\"\n chroot: \"\"\n domain-insecure: \"mirrors.test\"\n \
         local-zone: \"test.\" nodefault\nstub-zone:\n name: \"mirrors.test\"\n stub-addr: {}@{}\n",
        dns.ip(),
        dns.port()
    );
    std::fs::write(&conf, stub).unwrap();
    let resolve = |words: &[&str]| {
        let mut resolver = tool("unbound-host");
        resolver.arg("-C").arg(&conf).args(words);
        String::from_utf8(run(&mut resolver)).unwrap()
    };
    let found = resolve(&["-t", "A", "nz.mirrors.test"]);
    assert_eq!(
        found.trim(),
        format!("nz.mirrors.test has address {}", host(&network, "nz2"))
    );
    let found = resolve(&["-t", "TXT", "world.mirrors.test"]);
    assert!(found.contains("\"c=1\""), "{found}");
    let absent = resolve(&["-t", "A", "ch.mirrors.test"]);
    assert!(absent.contains("not found: 3(NXDOMAIN)"), "{absent}");

    // What a name leads to is the live tree.
    let port = network.url("nz2").rsplit_once(':').unwrap().1.to_owned();
    let address = pool(&network, "nz").remove(0);
    let answer = network.http().ask(
        Method::GET,
        &format!("http://{address}:{port}/c/file"),
        &[("host", "nz.mirrors.test")],
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "one"));
}

#[test]
fn ten_thousand_lies_move_nobody_out() {
    let network = Network::start(&Setup::pools("nz=2"));
    let tree = Tree::new();
    tree.write("file", "one");
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["nz1", "nz2"]);
    let lie = json!({ "mirror": "nz1", "build": 1, "outcome": "corrupt" });
    let body = json!({ "samples": vec![lie; 100] }).to_string();
    let (mut taken, mut refused) = (0, 0);
    let begun = Instant::now();
    for _ in 0..100 {
        let answer = network
            .http()
            .post(&format!("{}/v1/feedback", network.directory()), &body);
        match answer.status {
            202 => taken += answer.json()["accepted"].as_u64().unwrap(),
            429 => refused += 1,
            other => panic!("{other}: {}", answer.text()),
        }
        let mut offered = network.offered("channel=c");
        offered.sort();
        assert_eq!(offered, ["nz1", "nz2"], "lies threw a mirror out");
    }
    // Six hundred a minute of one network: those at once, and ten more each second.
    let more = 10 * (begun.elapsed().as_secs() + 1);
    assert!(
        taken <= 600 + more && refused + 6 + more >= 100,
        "{taken} taken, {refused} refused in {:?}",
        begun.elapsed()
    );

    // What was measured counts, and so does what it was measured on.
    for (mirror, time) in [("nz1", 0.05), ("nz2", 4.0)] {
        let sample = json!({ "mirror": mirror, "bytes": 4_000_000, "time": time, "outcome": "ok" });
        for small in [false, true] {
            let mut sample = sample.clone();
            if small {
                sample["bytes"] = 1000.into();
            }
            until_within(Duration::from_secs(90), "the sample is taken", || {
                let url = format!("{}/v1/feedback", network.directory());
                network.http().post(&url, &sample.to_string()).status == 202
            });
        }
    }
    let measured = |mirror: &str| {
        let answer = network.ask_directory("/v1/mirrors?channel=c").json();
        let mut mirrors = answer["mirrors"].as_array().unwrap().iter();
        mirrors.find(|one| one["id"] == mirror).unwrap()["bytes_per_s"].as_f64()
    };
    until("speeds are shown", || {
        (measured("nz1"), measured("nz2")) == (Some(80_000_000.0), Some(1_000_000.0))
    });
    for (bad, code) in [
        ("{}", 400),
        ("no json", 400),
        ("{\"mirror\":\"nobody\"}", 202),
    ] {
        let answer = network
            .http()
            .post(&format!("{}/v1/feedback", network.directory()), bad);
        assert!(
            answer.status == code || answer.status == 429,
            "{bad}: {}",
            answer.text()
        );
    }
}
