//! Publishing from another machine, with a token.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Ended, Network, Setup, Tree, noise, until};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use wire::v1;
use wire::v1::publisher_client::PublisherClient;

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
    let counted = ["added", "changed", "removed"].map(|what| done.json[what].as_u64());
    assert_eq!(counted, [Some(0), Some(1), Some(1)], "{}", done.json);
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

    // Taken back, for an older build, for nothing, and for another tree.
    let retract = |token: &Path, args: &[&str]| {
        let args = ["retract", "c"].into_iter().chain(args.iter().copied());
        there(&network, token, args.chain(["--reason", "bad"]))
    };
    retract(&nightly, &["3", "--no-replacement"]).code_is(77);
    retract(&security, &["9", "--no-replacement"]).code_is(65);
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
    assert_eq!(names, ["nightly", "security"]);
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

/// Whoever has a token and writes his own client gets no further than its own channel's rules.
#[test]
fn attack_a_publisher_lies_about_what_he_sends() {
    let tree = Tree::new();
    let network = network(&tree);
    let token = token(&network, "nightly", "publish");
    let text = std::fs::read_to_string(token).unwrap();
    let json = hex::decode(text.trim().strip_prefix("mlp1.").unwrap()).unwrap();
    let token: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let word = |name: &str| token[name].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let submit = |secret: &str, kinds: Vec<v1::submit_request::Kind>| {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(word("ca")));
        let endpoint = Endpoint::from_shared(format!("https://{}", word("address"))).unwrap();
        runtime.block_on(async {
            let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
            let requests = kinds
                .into_iter()
                .map(|kind| v1::SubmitRequest { kind: Some(kind) });
            let requests: Vec<_> = requests.collect();
            let mut request = tonic::Request::new(tokio_stream::iter(requests));
            let bearer = format!("Bearer {secret}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
            let mut answers = PublisherClient::new(channel)
                .submit(request)
                .await?
                .into_inner();
            let mut last = None;
            while let Some(answer) = answers.message().await? {
                last = answer.kind;
            }
            Ok::<_, tonic::Status>(last)
        })
    };
    use v1::submit_request::{End, Kind};
    let begin = |channel: &str| {
        Kind::Begin(v1::Submission {
            channel: channel.into(),
            expected_newest: 1,
            lane: v1::Lane::Bulk.into(),
            layout: v1::Layout::Plain.into(),
            ..v1::Submission::default()
        })
    };
    let file = |path: &'static str, content: &[u8], size_bytes: u64| v1::Change {
        path: path.as_bytes().into(),
        new: Some(v1::change::New::File(v1::File {
            size_bytes,
            digest: mirrorlog_core::id::Digest::of(content)
                .as_bytes()
                .to_vec()
                .into(),
            ..v1::File::default()
        })),
    };
    let entries = |changes: Vec<v1::Change>| {
        let found = Some(v1::Delta { changes });
        Kind::Entries(v1::Entries {
            found,
            listed: Vec::new(),
        })
    };
    let content = |data: &'static [u8], last| {
        let data = data.into();
        Kind::Content(v1::Content {
            pieces: vec![v1::content::Piece { data, last }],
        })
    };
    let code = |secret: &str, kinds| submit(secret, kinds).unwrap_err().code();
    use tonic::Code;
    let secret = word("secret");
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
        Code::DataLoss
    );
    assert_eq!(
        code(
            &secret,
            vec![begin("c"), one(), content(b"good and more", true)]
        ),
        Code::DataLoss
    );
    assert_eq!(
        code(&secret, vec![begin("c"), one(), content(b"goo", true)]),
        Code::DataLoss
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
