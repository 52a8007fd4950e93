//! A network as strangers run it: users at nats-server, TLS between services, a root document; and those who try.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Ended, Network, Setup, Tree, until};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use wire::v1::ChannelsRequest;
use wire::v1::journal_client::JournalClient;

const CHANNEL: &str = "c";

fn secure() -> Network {
    Network::start(&Setup::mirrors(2).secure())
}

fn publish(network: &Network, tree: &Tree, number: u64) -> u64 {
    tree.write("number", number.to_string());
    network.publish_everywhere(CHANNEL, tree.path())
}

/// The folder of the root keys and documents.
fn trust(network: &Network) -> PathBuf {
    network.dir().join("access/trust")
}

fn root(network: &Network, version: u64) -> PathBuf {
    trust(network).join(format!("root-{version}.mlr"))
}

/// `mirrorlog key …`, run by whoever holds root keys.
fn key(network: &Network, args: &[&str], files: &[&Path]) -> Ended {
    let mut command = network.command(["key"]);
    command.args(args).args(files);
    network.run_command(&mut command)
}

/// Signs a document with two root keys.
fn sign(network: &Network, version: u64, signers: &[&str]) {
    for signer in signers {
        let mut command = network.command(["key", "sign"]);
        command
            .arg(root(network, version))
            .arg("--key")
            .arg(trust(network).join(format!("{signer}.sec")))
            .arg("--previous")
            .arg(root(network, version - 1));
        network.run_command(&mut command).ok();
    }
}

/// `get` of a file, by somebody who pinned the first root document.
fn get(network: &Network, name: &str, what: &[&str]) -> Ended {
    let mut command = network.command(["get"]);
    command
        .args(what)
        .arg("--output")
        .arg(network.scratch().join("get").join(name))
        .args(["--country", "nz", "--directory", network.directory()])
        .arg("--key")
        .arg(root(network, 1))
        .env("MIRRORLOG_CLIENT_STATE", network.scratch().join("client"));
    network.run_command(&mut command)
}

fn number_of(public: &Path, network: &Network) -> String {
    let shown = key(network, &["show"], &[public]).ok();
    shown.json["number"].as_str().unwrap().to_owned()
}

/// Who signed.
fn signer(signed: &[u8]) -> String {
    let signed = wire::Signed::from_signify(signed).unwrap();
    signed.signature.key.to_string()
}

#[test]
fn nobody_without_a_certificate_or_a_user_is_let_in() {
    let network = secure();
    let tree = Tree::new();
    assert_eq!(publish(&network, &tree, 1), 1);
    assert_eq!(network.get("nz2", "/c/number").text(), "1");
    network.await_offered("channel=c", &["nz1", "nz2"]);
    get(&network, "first", &["c", "number"]).ok();

    let tls = network.dir().join("access/tls");
    let read = |name: &str| std::fs::read(tls.join(name)).unwrap();
    let ca = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ca.pem")));
    let own = ca().identity(Identity::from_pem(read("nz1.pem"), read("nz1.key")));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let asks = |address: &str, tls: Option<ClientTlsConfig>| {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).unwrap();
        let endpoint = match tls {
            Some(tls) => endpoint.tls_config(tls).unwrap(),
            None => endpoint,
        };
        runtime.block_on(async {
            let channel = endpoint
                .connect()
                .await
                .map_err(|error| error.to_string())?;
            let asked = JournalClient::new(channel)
                .channels(ChannelsRequest {})
                .await;
            asked
                .map(|reply| reply.into_inner().channels)
                .map_err(|status| status.to_string())
        })
    };
    let archive = network.fetch_addresses()[0].to_owned();
    assert_eq!(asks(&archive, Some(own.clone())), Ok(vec!["c".to_owned()]));
    asks(&archive, Some(ca())).expect_err("without a certificate");
    asks(&archive, None).expect_err("without TLS");
    // Who is known may fetch; commands of the archive are for its own machine.
    let status = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("https://{archive}")).unwrap();
        let channel = endpoint.tls_config(own).unwrap().connect().await.unwrap();
        let mut admin = wire::v1::admin_client::AdminClient::new(channel);
        let request = wire::v1::DescribeRequest {
            channel: CHANNEL.to_owned(),
            declare: None,
        };
        admin.describe(request).await.unwrap_err()
    });
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    for mirror in ["nz1", "nz2"] {
        let config = std::fs::read_to_string(network.config(mirror)).unwrap();
        assert!(!config.contains("keys = ["), "{config}");
    }
    // Another's credentials are no use, and would only be refused one thing after the other.
    let credentials = network.dir().join("access/creds");
    for (service, user) in [("mirror", "directory"), ("directory", "consistency")] {
        let name = if service == "mirror" { "nz1" } else { service };
        network.configure(name, |config| {
            let file = credentials.join(format!("{user}.creds"));
            let nats = config["nats"].as_table_mut().unwrap();
            nats.insert("credentials".into(), file.display().to_string().into());
        });
        let mut serve = Command::new(e2e::binary());
        serve.arg("--config").arg(network.config(name));
        serve.args([service, "serve"]);
        let refused = network.run_command(&mut serve).code_is(64);
        let expected = format!("are those of {user}, and this is {name}");
        assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    }
}

#[test]
fn a_key_is_rotated_then_revoked_and_nobody_notices() {
    let network = secure();
    let tree = Tree::new();
    publish(&network, &tree, 1);
    network.await_offered("channel=c", &["nz1", "nz2"]);
    let home = network.dir().join("archive");
    let (old, new) = (home.join("archive.pub"), home.join("next.pub"));
    key(&network, &["generate"], &[&home.join("next")]).ok();

    // Two of three root keys make the second document; fewer make none.
    let mut rotate = network.command(["key", "rotate"]);
    rotate
        .arg(root(&network, 1))
        .arg("--out")
        .arg(root(&network, 2));
    rotate
        .arg("--add")
        .arg(format!("archive={}", new.display()));
    network.run_command(&mut rotate).ok();
    key(&network, &["install"], &[&root(&network, 2)]).code_is(65);
    sign(&network, 2, &["root-a"]);
    let refused = key(&network, &["install"], &[&root(&network, 2)]).code_is(65);
    assert!(
        refused.stderr.contains("get 1 more of"),
        "{}",
        refused.stderr
    );
    sign(&network, 2, &["root-c"]);
    let installed = key(&network, &["install"], &[&root(&network, 2)]).ok();
    assert_eq!(installed.json["version"], 2);
    let again = key(&network, &["install"], &[&root(&network, 2)]).ok();
    assert_eq!(again.json["known"], true);

    // The archive's own key cannot be taken away while it signs with it.
    let mut without = network.command(["key", "revoke"]);
    without
        .arg(root(&network, 2))
        .arg("--out")
        .arg(root(&network, 3));
    without.arg(number_of(&old, &network));
    network.run_command(&mut without).ok();
    sign(&network, 3, &["root-a", "root-b"]);
    let refused = key(&network, &["install"], &[&root(&network, 3)]).code_is(65);
    assert!(
        refused.stderr.contains("give the archive its new key"),
        "{}",
        refused.stderr
    );

    network.configure("archive", |config| {
        let archive = config["archive"].as_table_mut().unwrap();
        archive.insert("key".into(), "next.sec".into());
        archive.insert("previous_keys".into(), vec!["archive.pub"].into());
    });
    network.kill("archive");
    network.restart("archive");
    assert_eq!(publish(&network, &tree, 2), 2);
    let head = network.get("nz1", "/@/c/2/snapshot").body;
    assert_eq!(signer(&head), number_of(&new, &network));
    let first = network.get("nz1", "/@/c/1/snapshot").body;
    assert_eq!(signer(&first), number_of(&old, &network));

    // Now the old key is worth nothing: what it signed is signed again, byte for byte the same statement.
    let installed = key(&network, &["install"], &[&root(&network, 3)]).ok();
    assert_eq!(installed.json["resigned"], 1, "{}", installed.json);
    for mirror in ["nz1", "nz2"] {
        until("the mirror has the new signature", || {
            let now = network.get(mirror, "/@/c/1/snapshot").body;
            signer(&now) == number_of(&new, &network)
        });
        let now = network.get(mirror, "/@/c/1/snapshot").body;
        let statement = |signed: &[u8]| wire::Signed::from_signify(signed).unwrap().statement;
        assert_eq!(statement(&now), statement(&first));
    }
    // Somebody who knows only the first document climbs to the third, and gets both builds.
    let got = get(&network, "old", &["c@1", "number"]).ok();
    assert_eq!(got.build(), 1);
    get(&network, "new", &["c@2", "number"]).ok();
    assert_eq!(publish(&network, &tree, 3), 3);
    // A restart of everything believes the third.
    for service in ["nz1", "consistency", "archive"] {
        network.kill(service);
        network.restart(service);
    }
    assert_eq!(publish(&network, &tree, 4), 4);
    old_events_are_vouched_for(&network);
}

/// The log keeps events of the old key. Whoever reads them from the beginning asks the archive, and need not worry.
fn old_events_are_vouched_for(network: &Network) {
    for service in ["nz2", "directory"] {
        network.kill(service);
        if service == "nz2" {
            network.wipe(service);
        }
        network.restart(service);
    }
    for (service, gauge) in [
        ("nz2", Some("mirrorlog_parked_events 0")),
        ("consistency", Some("mirrorlog_parked_messages 0")),
        ("directory", None),
    ] {
        let log = network.dir().join(format!("logs/{service}.log"));
        until("the event of the old key was read, and vouched for", || {
            let log = std::fs::read_to_string(&log).unwrap();
            log.contains("asking the archive's journal")
                && log.contains("parked message is believed now")
        });
        until("nothing is parked", || {
            let ready = network.ask_service(service, "/readyz").json();
            let metrics = network.ask_service(service, "/metrics").text();
            ready["status"] == "ready" && gauge.is_none_or(|gauge| metrics.contains(gauge))
        });
    }
}

#[test]
fn a_mirror_that_is_shut_out_says_nothing_more() {
    let network = secure();
    let tree = Tree::new();
    publish(&network, &tree, 1);
    // Its key leaves the roster: whoever stole it may report what he likes.
    let mirror = network.mirror_dir("nz2").join("nz2.pub");
    let mut revoke = network.command(["key", "revoke"]);
    revoke
        .arg(root(&network, 1))
        .arg("--out")
        .arg(root(&network, 2));
    revoke.arg(number_of(&mirror, &network));
    network.run_command(&mut revoke).ok();
    sign(&network, 2, &["root-b", "root-c"]);
    key(&network, &["install"], &[&root(&network, 2)]).ok();
    tree.write("number", "2");
    network.publish(CHANNEL, tree.path(), &["--wait", "1"]).ok();
    until("nz1 is complete, nz2 is not heard", || {
        let live = network.live("nz2", CHANNEL) == Some(2);
        live && network.is_complete("nz1", CHANNEL, 2) && !network.is_complete("nz2", CHANNEL, 2)
    });
    until("clients are sent to nz1 alone", || {
        let why = network.run(["why", "nz2", CHANNEL]).ok().json;
        let reason = why["reason"].as_str().unwrap_or_default();
        why["offered"] == false && reason.contains("not in the roster")
    });
    get(&network, "roster", &["c", "number"]).ok();
    // An older document, however well signed, brings nothing back, and asks for nothing.
    let refused = key(&network, &["install"], &[&root(&network, 1)]).code_is(65);
    assert!(refused.stderr.contains("older"), "{}", refused.stderr);
}

/// Whom nats-server lets in no more is told so, and goes on serving.
#[test]
fn a_user_that_is_shut_out_is_told_so() {
    let network = secure();
    let tree = Tree::new();
    publish(&network, &tree, 1);
    let access = network.dir().join("access");
    let user = access.join("creds/nz2.creds");
    let kept = network.scratch().join("nz2.creds");
    std::fs::copy(&user, &kept).unwrap();
    let shut_out = |more: &[&str]| {
        let mut command = network.command(["nats-config"]);
        command
            .arg(&access)
            .args(["--host", "127.0.0.1", "--revoke", "nz2"]);
        network.run_command(command.args(more))
    };
    shut_out(&["--mirror", "nz2"]).code_is(64);
    assert!(user.exists());
    shut_out(&[]).ok();
    network.kill("nats");
    // From here on the accounts are others.
    let accounts = |file: &Path| {
        let text = std::fs::read_to_string(file).unwrap();
        let at = text.find("\noperator: ").unwrap();
        (text[..at].to_owned(), text[at..].to_owned())
    };
    let file = network.dir().join("nats/nats.conf");
    let (server, _) = accounts(&file);
    let (_, shut) = accounts(&access.join("nats-server.conf"));
    std::fs::write(&file, server + &shut).unwrap();
    network.restart("nats");

    let is_told = || {
        let ready = network.get("nz2", "/readyz");
        ready.text().contains("nats-server refuses the user")
    };
    until("nz2 says that it was shut out", is_told);
    tree.write("number", "2");
    network.publish(CHANNEL, tree.path(), &["--wait", "1"]).ok();
    until("nz1 has come back", || {
        network.live("nz1", CHANNEL) == Some(2)
    });
    assert!(is_told());
    assert_eq!(network.get("nz2", "/c/number").text(), "1");
    // Started again with a file that somebody kept.
    std::fs::copy(kept, &user).unwrap();
    network.kill("nz2");
    network.restart("nz2");
    until("nz2 says so again", is_told);
    // Its certificate counts still: what is public it has from the archive itself.
    until("nz2 serves what is public", || {
        network.live("nz2", CHANNEL) == Some(2)
    });
}

#[test]
fn a_mirror_joins_by_a_token_that_is_good_once() {
    let network = secure();
    let tree = Tree::new();
    publish(&network, &tree, 1);
    let invite = || {
        let invited = network
            .run(["mirror", "invite", "au9", "--pool", "au"])
            .ok();
        invited.json["token"].as_str().unwrap().to_owned()
    };
    // A mirror that is there already, by a slip of the pen.
    let slip = ["mirror", "invite", "nz1", "--pool", "nz"];
    let refused = network.run(slip).code_is(77);
    assert!(refused.stderr.contains("--again"), "{}", refused.stderr);
    network.run(slip.iter().chain(&["--again"])).ok();
    network.run(["mirror", "uninvite", "nz1"]).ok();
    let token = invite();
    let enroll = |name: &str, token: &str| {
        let mut command = network.command(["mirror", "enroll", "--token", token, "--dir"]);
        network.run_command(command.arg(network.scratch().join(name)))
    };
    let joined = enroll("au9", &token).ok();
    assert_eq!(joined.json["mirror"], "au9");
    // Another machine with the same token is not the mirror; an answer that was lost is given again.
    enroll("thief", &token).code_is(77);
    enroll("au9", &token).code_is(73);
    std::fs::remove_file(network.scratch().join("au9/mirror.toml")).unwrap();
    enroll("au9", &token).ok();
    let mut other = token.clone();
    other.truncate(token.len() - 2);
    enroll("other", &other).code_is(65);
    enroll("au9b", &invite()).ok();
    let spare = invite();
    let gone = network.run(["mirror", "uninvite", "au9"]).ok();
    assert_eq!(gone.json["withdrawn"], 3);
    enroll("late", &spare).code_is(77);

    // It follows the log and fetches with what it was given.
    let config = network.scratch().join("au9/mirror.toml");
    let address = network.free_address();
    let mut table: toml::Table = std::fs::read_to_string(&config).unwrap().parse().unwrap();
    table["http"]["listen"] = address.clone().into();
    table["grpc"]["listen"] = network.free_address().into();
    std::fs::write(&config, toml::to_string(&table).unwrap()).unwrap();
    network.add("mirror", "au9", config, address.clone());
    network.spawn("au9");
    until("au9 serves the build", || {
        let url = format!("http://{address}/@/c/1/number");
        let answer = network.http().try_ask(reqwest::Method::GET, &url, &[]);
        answer.is_ok_and(|answer| answer.status == 200)
    });
}
