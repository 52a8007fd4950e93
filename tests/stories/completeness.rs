//! What "complete" is worth: mirrors that lie, auditors that are killed or cut off, mirrors that lag, builds that wait
//! for a word.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use e2e::{Network, Setup, Tree, log, noise, sha256, until, until_within};
use serde_json::json;

const CHANNEL: &str = "c";

fn publish(network: &Network, tree: &Tree, number: u64, wait: &[&str]) -> u64 {
    tree.write("number", number.to_string());
    tree.write(&format!("d/{number}"), noise(number, 2_000));
    network.publish(CHANNEL, tree.path(), wait).ok().build()
}

/// A server in front of a mirror that changes answers.
struct Liar {
    address: SocketAddr,
    lies: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

/// What comes out in place of the mirror's answer to a path; `None`: the true one.
type Lie = fn(path: &str, truth: &[u8]) -> Option<Vec<u8>>;
/// Where else a path is asked for.
type Detour = fn(path: &str) -> String;

impl Liar {
    fn before(mirror: String, lie: Lie, detour: Detour) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let lies = Arc::new(AtomicBool::new(false));
        let lying = Arc::clone(&lies);
        let client = reqwest::Client::new();
        let forward = move |request: Request| {
            let (client, lying, mirror) = (client.clone(), Arc::clone(&lying), mirror.clone());
            async move {
                pass(
                    client,
                    &mirror,
                    request,
                    lying.load(Ordering::Relaxed),
                    lie,
                    detour,
                )
                .await
            }
        };
        let router = axum::Router::new().fallback(forward);
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            lies,
            _runtime: runtime,
        }
    }

    /// Puts it where the consistency service and the directory look for the mirror.
    fn stand_in(&self, network: &Network, mirror: &str) {
        let url = format!("http://{}", self.address);
        for service in ["consistency", "directory"] {
            network.kill(service);
            network.configure(service, |config| {
                let mirrors = config["mirrors"].as_array_mut().unwrap();
                let mut found = mirrors.iter_mut();
                let found = found.find(|one| one["id"].as_str() == Some(mirror));
                let table = found.unwrap().as_table_mut().unwrap();
                table.insert("url".to_owned(), toml::Value::String(url.clone()));
            });
            network.restart(service);
        }
    }

    fn lie(&self, lies: bool) {
        self.lies.store(lies, Ordering::Relaxed);
    }
}

async fn pass(
    client: reqwest::Client,
    mirror: &str,
    request: Request,
    lies: bool,
    lie: Lie,
    detour: Detour,
) -> Response {
    let asked = request.uri().to_string();
    let path = if lies { detour(&asked) } else { asked.clone() };
    let method = request.method().clone();
    let sent = client.request(method, format!("{mirror}{path}")).send();
    let Ok(answer) = sent.await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await.unwrap_or_default();
    headers.remove("transfer-encoding");
    let told = lies.then(|| lie(&asked, &body)).flatten();
    let mut response = (status, told.map_or(body, Bytes::from)).into_response();
    for name in ["etag", "mirrorlog-build", "last-modified", "content-type"] {
        if let Some(value) = headers.get(name) {
            response
                .headers_mut()
                .insert(axum::http::HeaderName::from_static(name), value.clone());
        }
    }
    response
}

fn straight(path: &str) -> String {
    path.to_owned()
}

/// The same length, the same tag, other bytes, for one file only.
fn one_rotten(path: &str, truth: &[u8]) -> Option<Vec<u8>> {
    path.ends_with("/d/2").then(|| vec![b'x'; truth.len()])
}

/// `nz1` lies to the world and not in its reports, which say that all is there.
#[test]
fn a_mirror_that_lies_never_becomes_complete() {
    let network = Network::up(2);
    let tree = Tree::new();
    publish(&network, &tree, 1, &["--wait", "all"]);
    let liar = Liar::before(network.url("nz1").to_owned(), one_rotten, straight);
    liar.stand_in(&network, "nz1");
    network.await_complete(&["nz1", "nz2"], CHANNEL, 1);
    liar.lie(true);
    publish(&network, &tree, 2, &["--wait", "1"]);
    until("the lie is seen", || {
        let standing = network.standing("nz1", CHANNEL);
        let reason = standing["reason"].as_str().unwrap_or_default().to_owned();
        standing["state"] == "revoked" && reason == "digest-mismatch: d/2"
    });
    assert!(network.is_complete("nz2", CHANNEL, 2));
    until("nobody is sent to it", || {
        let why = network.run(["why", "nz1", CHANNEL, "--build", "2"]).ok();
        why.json["offered"] == false
    });
    let never = network.status(CHANNEL);
    assert_ne!(
        never["channels"][0]["wanted"]["nz"], 2,
        "one of two is no majority: {never}"
    );
    liar.lie(false);
    network.await_complete(&["nz1"], CHANNEL, 2);
}

/// A file that is one of many, found good when it was new, and bad later.
#[test]
fn a_lie_told_after_complete_is_found_and_ends_it() {
    let network = Network::up(1);
    let tree = Tree::new();
    publish(&network, &tree, 2, &["--wait", "all"]);
    let liar = Liar::before(network.url("nz1").to_owned(), one_rotten, straight);
    liar.stand_in(&network, "nz1");
    network.await_complete(&["nz1"], CHANNEL, 1);
    liar.lie(true);
    until("an audit finds it", || {
        network.standing("nz1", CHANNEL)["state"] == "revoked"
    });
    liar.lie(false);
    network.await_complete(&["nz1"], CHANNEL, 1);
}

/// Asked for the newest build by number, it answers with the one before.
fn the_one_before(path: &str) -> String {
    path.replace("/@/c/3/", "/@/c/2/")
}

fn truth(_path: &str, _truth: &[u8]) -> Option<Vec<u8>> {
    None
}

#[test]
fn another_build_under_a_pinned_url_is_never_complete() {
    let network = Network::up(1);
    let tree = Tree::new();
    publish(&network, &tree, 1, &["--wait", "all"]);
    let liar = Liar::before(network.url("nz1").to_owned(), truth, the_one_before);
    liar.stand_in(&network, "nz1");
    publish(&network, &tree, 2, &["--wait", "all"]);
    liar.lie(true);
    assert_eq!(publish(&network, &tree, 3, &[]), 3);
    until("it is revoked", || {
        network.standing("nz1", CHANNEL)["state"] == "revoked"
    });
    liar.lie(false);
    network.await_complete(&["nz1"], CHANNEL, 3);
}

/// What a damaged disk does to a file: gone, shorter, other bytes of the same length, another file's content.
#[test]
fn every_kind_of_damage_is_found_revoked_healed_and_complete_again() {
    let network = Network::up(2);
    let tree = Tree::new();
    let content = noise(7, 50_000);
    tree.write("d/file", &content);
    publish(&network, &tree, 1, &["--wait", "all"]);
    let digest = sha256(&content);
    let store = network.mirror_dir("nz1").join("store");
    let blob = store.join(&digest[..2]).join(&digest[2..]);
    let mut rotten = content.clone();
    rotten[25_000] ^= 0x40;
    let other = noise(8, 50_000);
    let damages: [(&str, Option<&[u8]>); 4] = [
        ("lost", None),
        ("truncated", Some(&content[..20_000])),
        ("altered", Some(&rotten)),
        ("replaced", Some(&other)),
    ];
    let seen = Arc::new(Mutex::new(Vec::new()));
    for (name, bytes) in damages {
        match bytes {
            None => std::fs::remove_file(&blob).unwrap(),
            Some(bytes) => std::fs::write(&blob, bytes).unwrap(),
        }
        let begun = Instant::now();
        until_within(Duration::from_secs(60), &format!("{name}: healed"), || {
            std::fs::read(&blob).is_ok_and(|bytes| bytes == content)
        });
        network.await_complete(&["nz1", "nz2"], CHANNEL, 1);
        seen.lock()
            .unwrap()
            .push((name, begun.elapsed().as_secs_f64()));
    }
    eprintln!("complete again after (s): {seen:?}");
}

/// A second consistency service with the same key and a folder of its own.
fn second(network: &Network) {
    let home = network.dir().join("consistency2");
    std::fs::create_dir_all(&home).unwrap();
    let first = network.config("consistency");
    let mut config: toml::Table = std::fs::read_to_string(&first).unwrap().parse().unwrap();
    let folder = first.parent().unwrap();
    let (http, grpc) = (network.free_address(), network.free_address());
    let set = |section: &mut toml::Value, name: &str, text: String| {
        let table = section.as_table_mut().unwrap();
        table.insert(name.to_owned(), toml::Value::String(text));
    };
    let key = folder.join("consistency.sec").display().to_string();
    set(&mut config["consistency"], "key", key);
    set(&mut config["http"], "listen", http.clone());
    set(&mut config["grpc"], "listen", grpc);
    let file = home.join("consistency.toml");
    std::fs::write(&file, config.to_string()).unwrap();
    network.add("consistency", "consistency2", file, http);
    network.restart("consistency2");
}

fn leads(network: &Network, name: &str) -> bool {
    let metrics = network.ask_service(name, "/metrics").text();
    let mut lines = metrics.lines();
    lines.any(|line| line.starts_with("mirrorlog_consistency_leader") && line.ends_with(" 1"))
}

#[test]
fn a_second_consistency_service_takes_over_within_ten_seconds() {
    let network = Network::up(2);
    let tree = Tree::new();
    publish(&network, &tree, 1, &["--wait", "all"]);
    second(&network);
    assert!(leads(&network, "consistency") && !leads(&network, "consistency2"));
    network.kill("consistency");
    let killed = Instant::now();
    until_within(Duration::from_secs(10), "the second one leads", || {
        leads(&network, "consistency2")
    });
    let taken_over = killed.elapsed();
    // Nobody waits for the one that is dead.
    assert_eq!(publish(&network, &tree, 2, &[]), 2);
    let wanted = || {
        let answer = network
            .http()
            .get(&format!("{}/v1/mirrors?channel=c", network.directory()));
        answer.json()["build"] == 2
    };
    until("build 2 is wanted by the second one's word", wanted);
    eprintln!("took over after {:.2} s", taken_over.as_secs_f64());
    // The first one comes back, and follows.
    network.restart("consistency");
    assert!(!leads(&network, "consistency") && leads(&network, "consistency2"));
    network.await_complete(&["nz1", "nz2"], CHANNEL, 2);
}

/// One that stood still while the other took over must not be believed when it goes on.
#[test]
fn verdicts_of_a_leader_that_was_replaced_are_ignored() {
    let network = Network::up(1);
    let tree = Tree::new();
    publish(&network, &tree, 1, &["--wait", "all"]);
    second(&network);
    network.pause("consistency");
    until("the second one leads", || leads(&network, "consistency2"));
    publish(&network, &tree, 2, &[]);
    let build = || {
        let url = format!("{}/v1/mirrors?channel=c", network.directory());
        network.http().get(&url).json()["build"].clone()
    };
    until("build 2 is wanted", || build() == 2);
    network.resume("consistency");
    until("the first one has seen that it is replaced", || {
        !leads(&network, "consistency")
    });
    assert!(leads(&network, "consistency2"));
    publish(&network, &tree, 3, &[]);
    until("build 3 is wanted", || build() == 3);
    network.await_complete(&["nz1"], CHANNEL, 3);
}

/// Both mirrors stand still at once: from where the auditor is that looks as if it were cut off itself.
#[test]
fn an_auditor_that_reaches_nobody_revokes_nobody() {
    let network = Network::up(2);
    let tree = Tree::new();
    publish(&network, &tree, 1, &["--wait", "all"]);
    let url = network.nats().to_owned();
    let revoked = || {
        let metrics = network.ask_service("consistency", "/metrics").text();
        let mut lines = metrics.lines();
        lines.any(|line| {
            line.starts_with("mirrorlog_verdict{")
                && line.contains("revoked")
                && !line.ends_with(" 0")
        })
    };
    for mirror in ["nz1", "nz2"] {
        network.pause(mirror);
    }
    // A round of each mirror, and the time-out of what was asked then.
    until_within(
        Duration::from_secs(60),
        "it knows that it reaches nobody",
        || {
            network
                .ask_service("consistency", "/readyz")
                .text()
                .contains("cut-off")
        },
    );
    assert!(!revoked(), "nobody is revoked");
    let before = log::ask(&url, "$JS.API.STREAM.INFO.MIRRORLOG_VERDICT", &json!({}));
    for mirror in ["nz1", "nz2"] {
        network.resume(mirror);
    }
    network.await_complete(&["nz1", "nz2"], CHANNEL, 1);
    let after = log::ask(&url, "$JS.API.STREAM.INFO.MIRRORLOG_VERDICT", &json!({}));
    assert_eq!(
        before["state"]["last_seq"], after["state"]["last_seq"],
        "no verdict was taken back and given again"
    );
}

#[test]
fn a_build_to_be_confirmed_waits_for_the_consistency_service() {
    let network = Network::up(1);
    network.kill("nz1");
    network.configure("nz1", |config| {
        let mirror = config["mirror"].as_table_mut().unwrap();
        mirror.insert(
            "flip".to_owned(),
            toml::Value::String("confirmed".to_owned()),
        );
    });
    network.restart("nz1");
    let tree = Tree::new();
    publish(&network, &tree, 1, &["--wait", "all"]);
    network.kill("consistency");
    publish(&network, &tree, 2, &[]);
    until("build 2 is staged", || {
        network.channel("nz1", CHANNEL)["staged"] == 2
    });
    assert_eq!(network.get("nz1", "/@/c/2/number").text(), "2", "by number");
    assert_eq!(network.live("nz1", CHANNEL), Some(1), "and not live");
    network.kill("nz1");
    network.restart("nz1");
    assert_eq!(network.live("nz1", CHANNEL), Some(1), "nor after a restart");
    network.restart("consistency");
    network.await_complete(&["nz1"], CHANNEL, 2);
    assert_eq!(network.get("nz1", "/c/number").text(), "2");
}

/// A mirror of three that is far behind holds nobody up; that is a majority. Of two it does, until the deadline.
#[test]
fn a_laggard_is_waited_for_until_the_deadline_and_not_beyond() {
    let network = Network::start(&Setup::mirrors(2));
    network.kill("consistency");
    network.configure("consistency", |config| {
        let audit = config["audit"].as_table_mut().unwrap();
        audit.insert(
            "laggard_after".to_owned(),
            toml::Value::String("6s".to_owned()),
        );
    });
    network.restart("consistency");
    network.kill("nz2");
    network.configure("nz2", |config| {
        let fetch: toml::Table = "rate = \"80kbit\"".parse().unwrap();
        config.insert("fetch".to_owned(), toml::Value::Table(fetch));
        let peers = config["peers"].as_table_mut().unwrap();
        peers.insert("enabled".to_owned(), toml::Value::Boolean(false));
    });
    network.restart("nz2");
    let tree = Tree::new();
    publish(&network, &tree, 1, &["--wait", "all"]);
    tree.write("large", noise(1, 3_000_000));
    let begun = Instant::now();
    assert_eq!(publish(&network, &tree, 2, &["--wait", "1"]), 2);
    let wanted = || network.status(CHANNEL)["channels"][0]["wanted"]["nz"].clone();
    assert_eq!(wanted(), 1, "one of two is no majority");
    until("it is no longer waited for", || wanted() == 2);
    assert!(
        begun.elapsed() >= Duration::from_secs(6),
        "it was waited for"
    );
    assert!(
        !network.is_complete("nz2", CHANNEL, 2),
        "it is still on its way"
    );
}
