//! Publishing from another machine, with a token.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{DebianRepo, Ended, Network, Setup, Tree, noise, sha256, until};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use wire::v1;
use wire::v1::publisher_client::PublisherClient;
use wire::v1::submit_request::{End, Kind};

/// A network in which channel `c` is declared by a first build.
fn network(tree: &Tree) -> Network {
    let network = Network::start(&Setup::mirrors(2).secure());
    tree.write("number", "1");
    assert_eq!(network.publish_everywhere("c", tree.path()), 1);
    network
}

/// A token's file.
fn token(network: &Network, publisher: &str, may: &str) -> PathBuf {
    let file = network.scratch().join(format!("{publisher}.token"));
    let args = ["token", "issue", publisher, "--channel", "c", "--may", may];
    let mut command = network.command(args);
    network.run_command(command.arg("--out").arg(&file)).ok();
    file
}

/// A command of a machine that has no configuration.
fn there<'a>(network: &Network, token: &Path, args: impl IntoIterator<Item = &'a str>) -> Ended {
    let mut command = Command::new(e2e::binary());
    command.arg("--json").args(args);
    command.arg("--token-file").arg(token);
    command.arg("--cache").arg(network.scratch().join("cache"));
    network.run_command(&mut command)
}

fn publish(network: &Network, token: &Path, tree: &Tree, more: &[&str]) -> Ended {
    let tree = tree.path().to_str().unwrap();
    let args = ["publish", "c", tree]
        .into_iter()
        .chain(more.iter().copied());
    there(network, token, args)
}

#[test]
fn a_build_host_publishes_what_is_new_and_sends_no_more() {
    let tree = Tree::new();
    let network = network(&tree);
    let token = token(&network, "nightly", "publish");
    let large = noise(1, 5 << 20);
    tree.write("number", "2");
    tree.write("pool/large", &large);
    tree.write("pool/empty", "");
    for number in 0..2000 {
        tree.write(&format!("pool/{number:04}"), number.to_string());
    }
    std::os::unix::fs::symlink("number", tree.path().join("link")).unwrap();

    let rehearsed = publish(&network, &token, &tree, &["--dry-run"]).ok();
    assert_eq!(rehearsed.json["dry_run"], true);
    assert_eq!(rehearsed.build(), 2);
    assert_eq!(network.live("nz1", "c"), Some(1));

    let done = publish(&network, &token, &tree, &["--wait", "all"]).ok();
    assert_eq!(done.build(), 2);
    let (added, changed) = (&done.json["added"], &done.json["changed"]);
    assert_eq!((added, changed), (&2003.into(), &1.into()), "{}", done.json);
    assert_eq!(done.json["complete"].as_array().unwrap().len(), 2);
    let numbers: usize = (0..2000).map(|number: u32| number.to_string().len()).sum();
    // "1" is there of the first build; "2", of `number` and of pool/0002, goes once.
    assert_eq!(
        done.json["sent"],
        large.len() + numbers - 1,
        "{}",
        done.json
    );
    for mirror in ["nz1", "nz2"] {
        assert_eq!(network.get(mirror, "/c/pool/large").body, large);
        assert_eq!(network.get(mirror, "/c/link").text(), "2");
        assert_eq!(network.get(mirror, "/c/pool/1999").text(), "1999");
    }
    // The same as a build of the archive's own machine: there is nothing to add.
    let here = network.publish("c", tree.path(), &[]).ok();
    assert_eq!(here.json["unchanged"], true, "{}", here.json);
    let again = publish(&network, &token, &tree, &[]).ok();
    assert_eq!(again.json["unchanged"], true, "{}", again.json);
    until("what the files were is remembered", || {
        publish(&network, &token, &tree, &[]).ok().json["files_read"] == 0
    });

    // Only what is listed is looked at: the other change stays out.
    tree.write("number", "3");
    tree.write("pool/0000", "not listed");
    tree.remove("pool/0001");
    let list = network.scratch().join("changed");
    std::fs::write(&list, "number\npool/0001\n").unwrap();
    let listed = ["--changed", list.to_str().unwrap(), "--wait", "all"];
    let done = publish(&network, &token, &tree, &listed).ok();
    assert_eq!(done.build(), 3);
    let counted = ["added", "changed", "removed", "sent"].map(|what| done.json[what].as_u64());
    // What `number` is now, the archive has as pool/0003.
    assert_eq!(
        counted,
        [Some(0), Some(1), Some(1), Some(0)],
        "{}",
        done.json
    );
    assert_eq!(network.get("nz1", "/c/number").text(), "3");
    assert_eq!(network.get("nz1", "/c/pool/0000").text(), "0");
    assert_eq!(network.get("nz1", "/c/pool/0001").status, 404);
}

#[test]
fn a_token_is_for_what_it_says_and_no_more() {
    let tree = Tree::new();
    let network = network(&tree);
    let nightly = token(&network, "nightly", "publish");
    let security = token(&network, "security", "priority,retract");
    tree.write("number", "2");
    // Each of them on its lane.
    let refused = publish(&network, &security, &tree, &[]).code_is(77);
    assert!(
        refused.stderr.contains("not for publish"),
        "{}",
        refused.stderr
    );
    publish(&network, &nightly, &tree, &["--priority"]).code_is(77);
    publish(&network, &nightly, &tree, &["--allow-retracted"]).code_is(77);
    assert_eq!(
        publish(&network, &nightly, &tree, &["--wait", "all"])
            .ok()
            .build(),
        2
    );
    tree.write("number", "3");
    let urgent = publish(&network, &security, &tree, &["--priority", "--wait", "all"]).ok();
    assert_eq!(
        (urgent.build(), &urgent.json["lane"]),
        (3, &"priority".into())
    );

    // Who may retract may not publish otherwise by it.
    let retractor = token(&network, "retractor", "retract");
    let other = Tree::new();
    other.write("number", "anything");
    let anything = other.path().to_str().unwrap();
    let args = [
        "retract",
        "c",
        "1",
        "--reason",
        "x",
        "--replace-with",
        anything,
    ];
    let refused = there(&network, &retractor, args).code_is(77);
    assert!(
        refused.stderr.contains("not for priority"),
        "{}",
        refused.stderr
    );

    // Taken back, for an older build, for nothing, and for another tree.
    let retract = |token: &Path, args: &[&str]| {
        let args = ["retract", "c"].into_iter().chain(args.iter().copied());
        there(&network, token, args.chain(["--reason", "bad"]))
    };
    retract(&nightly, &["3", "--no-replacement"]).code_is(77);
    retract(&security, &["9", "--no-replacement"]).code_is(66);
    retract(&security, &["3", "--replace-with", "3"]).code_is(2);
    let older = retract(&security, &["3", "--replace-with", "2"]).ok();
    assert_eq!(older.json["replacement"], 4, "{}", older.json);
    network.await_complete(&["nz1", "nz2"], "c", 4);
    assert_eq!(network.get("nz1", "/c/number").text(), "2");
    assert_eq!(network.get("nz1", "/@/c/3/number").status, 410);
    // Retracted content comes back only for who may retract.
    publish(&network, &nightly, &tree, &[]).code_is(65);
    tree.write("number", "cured");
    let cure = tree.path().to_str().unwrap();
    let cured = retract(&security, &["4", "--replace-with", cure]).ok();
    assert_eq!(cured.json["replacement"], 5, "{}", cured.json);
    network.await_complete(&["nz1", "nz2"], "c", 5);
    assert_eq!(network.get("nz2", "/c/number").text(), "cured");

    // Other channels are not its business, nor is anything after it was revoked.
    let other = there(&network, &nightly, ["publish", "d", cure]).code_is(77);
    assert!(
        other.stderr.contains("not for channel d"),
        "{}",
        other.stderr
    );
    let listed = network.run(["token", "list"]).ok().lines();
    let names: Vec<&str> = listed
        .iter()
        .filter_map(|token| token["publisher"].as_str())
        .collect();
    assert_eq!(names, ["nightly", "retractor", "security"]);
    network.run(["token", "revoke", "nightly"]).ok();
    network.run(["token", "revoke", "nightly"]).code_is(66);
    let revoked = publish(&network, &nightly, &tree, &[]).code_is(77);
    assert!(revoked.stderr.contains("was revoked"), "{}", revoked.stderr);

    // A token that others may read is none.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&security, std::fs::Permissions::from_mode(0o644)).unwrap();
    publish(&network, &security, &tree, &["--priority"]).code_is(64);
}

#[test]
fn a_broken_tree_is_refused_with_its_faults_wherever_it_is() {
    let tree = Tree::new();
    let network = network(&tree);
    let token = token(&network, "nightly", "publish");
    // Seen here, before anything is sent.
    std::os::unix::fs::symlink("../../etc/passwd", tree.path().join("out")).unwrap();
    let refused = publish(&network, &token, &tree, &[]).code_is(65);
    assert_eq!(
        refused.json["faults"][0]["what"], "symlink",
        "{}",
        refused.json
    );
    std::fs::remove_file(tree.path().join("out")).unwrap();
    // Seen by the archive alone, which knows what was retracted.
    tree.write("number", "2");
    assert_eq!(
        publish(&network, &token, &tree, &["--wait", "all"])
            .ok()
            .build(),
        2
    );
    network
        .run(["retract", "c", "2", "--reason", "bad", "--no-replacement"])
        .ok();
    tree.write("other", "new");
    let refused = publish(&network, &token, &tree, &[]).code_is(65);
    let fault = &refused.json["faults"][0];
    assert_eq!(
        (&fault["what"], &fault["path"]),
        (&"retracted".into(), &"number".into())
    );
    assert_eq!(network.run(["show", "c"]).ok().json["build"], 1);
}

/// A client of somebody's own.
struct Client {
    token: serde_json::Value,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    fn of(token: &Path) -> Self {
        let text = std::fs::read_to_string(token).unwrap();
        let json = hex::decode(text.trim().strip_prefix("mlp1.").unwrap()).unwrap();
        Self {
            token: serde_json::from_slice(&json).unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
        }
    }

    fn word(&self, name: &str) -> String {
        self.token[name].as_str().unwrap().to_owned()
    }

    /// The archive's last answer.
    fn submit(
        &self,
        secret: &str,
        kinds: impl tokio_stream::Stream<Item = Kind> + Send + 'static,
    ) -> Result<Option<v1::submit_reply::Kind>, tonic::Status> {
        use tokio_stream::StreamExt as _;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.word("ca")));
        let endpoint = Endpoint::from_shared(format!("https://{}", self.word("address"))).unwrap();
        self.runtime.block_on(async {
            let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
            let requests = kinds.map(|kind| v1::SubmitRequest { kind: Some(kind) });
            let mut request = tonic::Request::new(requests);
            let bearer = format!("Bearer {secret}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
            let answers = PublisherClient::new(channel).submit(request).await?;
            let (mut answers, mut last) = (answers.into_inner(), None);
            while let Some(answer) = answers.message().await? {
                last = answer.kind;
            }
            Ok(last)
        })
    }
}

fn begin(channel: &str) -> Kind {
    Kind::Begin(v1::Submission {
        channel: channel.into(),
        expected_newest: 1,
        lane: v1::Lane::Bulk.into(),
        layout: v1::Layout::Plain.into(),
        ..v1::Submission::default()
    })
}

fn file(path: &'static str, content: &[u8], size_bytes: u64) -> v1::Change {
    v1::Change {
        path: path.as_bytes().into(),
        new: Some(v1::change::New::File(v1::File {
            size_bytes,
            digest: hex::decode(sha256(content)).unwrap().into(),
            ..v1::File::default()
        })),
    }
}

fn entries(changes: Vec<v1::Change>) -> Kind {
    let found = Some(v1::Delta { changes });
    let listed = Vec::new();
    Kind::Entries(v1::Entries { found, listed })
}

fn content(data: &'static [u8], last: bool) -> Kind {
    let data = data.into();
    let pieces = vec![v1::content::Piece { data, last }];
    Kind::Content(v1::Content { pieces })
}

/// Whoever has a token and writes his own client gets no further than its own channel's rules.
#[test]
fn attack_a_publisher_lies_about_what_he_sends() {
    let tree = Tree::new();
    let network = network(&tree);
    let token = token(&network, "nightly", "publish");
    let client = Client::of(&token);
    let submit = |secret: &str, kinds: Vec<Kind>| client.submit(secret, tokio_stream::iter(kinds));
    let code = |secret: &str, kinds| submit(secret, kinds).unwrap_err().code();
    use tonic::Code;
    let secret = client.word("secret");
    let end = || Kind::End(End {});
    let one = || entries(vec![file("f", b"good", 4)]);
    assert_eq!(
        code(&"00".repeat(32), vec![begin("c")]),
        Code::Unauthenticated
    );
    assert_eq!(code("nonsense", vec![begin("c")]), Code::Unauthenticated);
    assert_eq!(code(&secret, vec![begin("d")]), Code::PermissionDenied);
    assert_eq!(code(&secret, vec![one()]), Code::InvalidArgument);
    // Other content than was said, more of it, less of it.
    assert_eq!(
        code(&secret, vec![begin("c"), one(), content(b"evil", true)]),
        Code::Aborted
    );
    assert_eq!(
        code(
            &secret,
            vec![begin("c"), one(), content(b"good and more", true)]
        ),
        Code::Aborted
    );
    assert_eq!(
        code(&secret, vec![begin("c"), one(), content(b"goo", true)]),
        Code::Aborted
    );
    let huge = entries(vec![file("f", b"good", 1 << 40)]);
    assert_eq!(code(&secret, vec![begin("c"), huge]), Code::InvalidArgument);
    // Content that nobody asked for, or that does not come.
    assert_eq!(
        code(&secret, vec![begin("c"), content(b"good", true)]),
        Code::InvalidArgument
    );
    assert_eq!(
        code(&secret, vec![begin("c"), one(), end()]),
        Code::InvalidArgument
    );
    assert_eq!(code(&secret, vec![begin("c"), one()]), Code::Cancelled);
    // Paths that are none, twice, out of order, below a file.
    for path in ["../f", "/f", "f/../g", "@/f", "a//b", ""] {
        let bad = entries(vec![file(path, b"1", 1)]);
        assert_eq!(
            code(&secret, vec![begin("c"), bad]),
            Code::InvalidArgument,
            "{path}"
        );
    }
    let number = || file("number", b"1", 1);
    let twice = vec![
        begin("c"),
        entries(vec![number()]),
        entries(vec![number()]),
        end(),
    ];
    assert_eq!(code(&secret, twice), Code::InvalidArgument);
    let below = vec![
        begin("c"),
        entries(vec![file("a", b"1", 1), file("a/b", b"1", 1)]),
        end(),
    ];
    let refused = submit(&secret, below).unwrap();
    assert!(
        matches!(refused, Some(v1::submit_reply::Kind::Refused(_))),
        "{refused:?}"
    );
    // What is stored has its size, whatever he says.
    let size = vec![begin("c"), entries(vec![file("number", b"1", 2)]), end()];
    let refused = submit(&secret, size).unwrap();
    assert!(
        matches!(refused, Some(v1::submit_reply::Kind::Refused(_))),
        "{refused:?}"
    );
    // Somebody else was faster.
    let late = Kind::Begin(v1::Submission {
        channel: "c".into(),
        lane: v1::Lane::Bulk.into(),
        layout: v1::Layout::Plain.into(),
        ..v1::Submission::default()
    });
    assert_eq!(
        code(&secret, vec![late, entries(vec![number()]), end()]),
        Code::FailedPrecondition
    );
    assert_eq!(network.run(["show", "c"]).ok().json["build"], 1);
    // And the way it should be.
    let good = vec![
        begin("c"),
        one(),
        content(b"go", false),
        content(b"od", true),
        end(),
    ];
    let done = submit(&secret, good).unwrap();
    let Some(v1::submit_reply::Kind::Submitted(done)) = done else {
        panic!("{done:?}")
    };
    assert_eq!(done.builds, [2]);
    network.await_complete(&["nz1", "nz2"], "c", 2);
    assert_eq!(network.get("nz1", "/c/f").text(), "good");
}

/// Revoked while content is on its way: nothing is published any more, and the archive stops with the upload open.
#[test]
fn attack_a_publisher_who_was_shut_out_goes_on() {
    let tree = Tree::new();
    let network = network(&tree);
    let token = token(&network, "nightly", "publish");
    let client = Client::of(&token);
    let (kinds, requests) = tokio::sync::mpsc::channel(8);
    let send = |kind| kinds.blocking_send(kind).unwrap();
    send(begin("c"));
    send(entries(vec![file("f", b"good", 4)]));
    let status = std::thread::scope(|scope| {
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let secret = client.word("secret");
        let submitting = scope.spawn(move || client.submit(&secret, requests));
        network.run(["token", "revoke", "nightly"]).ok();
        send(content(b"good", true));
        send(Kind::End(End {}));
        submitting.join().unwrap().unwrap_err()
    });
    assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status}");
    assert_eq!(network.run(["show", "c"]).ok().json["build"], 1);
}

/// Inside a channel a fix goes out before the bulk that nobody has yet, from another machine too.
#[test]
fn a_fix_from_another_machine_makes_two_builds_over_bulk_that_is_not_wanted() {
    let tree = Tree::new();
    let network = network(&tree);
    let security = token(&network, "security", "priority");
    for mirror in ["nz1", "nz2"] {
        network.pause(mirror);
    }
    tree.write("bulk", "much");
    assert_eq!(network.publish("c", tree.path(), &[]).ok().build(), 2);
    tree.write("number", "fixed");
    let list = network.scratch().join("changed");
    std::fs::write(&list, "number\n").unwrap();
    let args = ["--priority", "--changed", list.to_str().unwrap()];
    let fixed = publish(&network, &security, &tree, &args).ok();
    assert_eq!(fixed.build(), 3, "{}", fixed.json);
    assert_eq!(fixed.json["also"], 4, "{}", fixed.json);
    for mirror in ["nz1", "nz2"] {
        network.resume(mirror);
    }
    // The fix alone, then what it overtook. A mirror that hears of the last build first has no need of the one between.
    let changes = |from, to| network.run(["diff", "c", from, to]).ok().stdout;
    let (fix, bulk) = (changes("1", "3"), changes("3", "4"));
    assert!(fix.contains("number") && !fix.contains("bulk"), "{fix}");
    assert!(bulk.contains("bulk") && !bulk.contains("number"), "{bulk}");
    network.await_complete(&["nz1", "nz2"], "c", 4);
    for mirror in ["nz1", "nz2"] {
        assert_eq!(network.get(mirror, "/c/number").text(), "fixed");
        assert_eq!(network.get(mirror, "/c/bulk").text(), "much");
    }
}

/// Real packages: the layout's rules hold wherever the tree is, and signatures by the archive's own keyring.
#[test]
fn a_debian_repository_is_checked_by_the_archives_own_keyring() {
    let mut repo = DebianRepo::bookworm();
    let tree = Tree::new();
    let network = network(&tree);
    let keyring = repo.keyring();
    network.configure("archive", |config| {
        let mut debian = toml::toml! {
            name = "bookworm"
            layout = "debian"
        };
        debian.insert("openpgp_keyring".into(), keyring.to_str().unwrap().into());
        let channels: Vec<toml::Value> = vec![debian.into()];
        config.insert("channels".into(), channels.into());
    });
    network.kill("archive");
    network.restart("archive");
    let file = network.scratch().join("debian.token");
    let mut command = network.command(["token", "issue", "debian", "--channel", "bookworm"]);
    command.args(["--may", "publish", "--out"]).arg(&file);
    network.run_command(&mut command).ok();
    let publish = |repo: &DebianRepo| {
        let tree = repo.tree();
        there(
            &network,
            &file,
            ["publish", "bookworm", tree.to_str().unwrap()],
        )
    };
    assert_eq!(publish(&repo).ok().build(), 1);
    network.await_complete(&["nz1", "nz2"], "bookworm", 1);
    // A package that its index does not name any more as it is: seen here.
    repo.upgrade();
    let name = DebianRepo::pool_path("hello", "2");
    let packages = repo.files();
    let some = packages
        .keys()
        .find(|path| path.starts_with("pool/"))
        .unwrap()
        .clone();
    repo.write_file(&some, b"broken");
    let refused = publish(&repo).code_is(65);
    assert!(
        refused.json["faults"][0]["path"].as_str().is_some(),
        "{} {name}",
        refused.json
    );
    repo.write_file(&some, &packages[&some]);
    // Signed by nobody whom the archive knows: seen by the archive.
    let stranger = DebianRepo::bookworm();
    let refused = publish(&stranger).code_is(65);
    let faults = refused.json["faults"].as_array().unwrap();
    assert!(
        faults.iter().any(|fault| fault["what"] == "signature"),
        "{}",
        refused.json
    );
    assert_eq!(publish(&repo).ok().build(), 2);
}
