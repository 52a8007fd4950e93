//! Packages of OpenBSD, with all that is said of them: what is published is what pkg_add can use.

use e2e::{Ended, Network, OpenBsdRepo, sha256};
use serde_json::Value;

const CHANNEL: &str = "openbsd-amd64";

/// Path and rule of every fault of a tree that was refused.
fn refused(network: &Network, repo: &OpenBsdRepo, more: &[&str]) -> Vec<(String, String)> {
    let ended = network.publish(CHANNEL, &repo.tree(), more).code_is(65);
    assert_eq!(ended.json["refused"], true, "{}", ended.stdout);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let faults = ended.json["faults"].as_array().unwrap().iter();
    let faults: Vec<_> = faults
        .map(|fault| (text(&fault["path"]), text(&fault["what"])))
        .collect();
    for (path, _) in &faults {
        assert!(
            ended.stderr.contains(path.as_str()),
            "{path}: {}",
            ended.stderr
        );
    }
    faults
}

fn fault(name: &str, rule: &str) -> (String, String) {
    (OpenBsdRepo::at(name), rule.to_owned())
}

/// What pkg_add takes from a listing: what follows the last slash of each HREF that ends in `.tgz`.
fn listed(network: &Network, mirror: &str, url: &str) -> Vec<String> {
    let page = network.get(mirror, url);
    assert_eq!(page.status, 200, "{url}");
    let page = page.text();
    let hrefs = page.lines().filter_map(|line| {
        let (href, _) = line.strip_prefix("<A HREF=\"")?.split_once("\">")?;
        href.strip_suffix(".tgz")
    });
    hrefs
        .map(|href| href.rsplit('/').next().unwrap().replace("%2B", "+"))
        .collect()
}

fn changed(network: &Network, repo: &OpenBsdRepo, paths: &[String]) -> Ended {
    let list = network.scratch().join("changed");
    std::fs::write(&list, paths.join("\n")).unwrap();
    let list = list.to_str().unwrap();
    let wait = ["--changed", list, "--wait", "all", "--timeout", "60"];
    network.publish(CHANNEL, &repo.tree(), &wait)
}

#[test]
fn packages_reach_every_mirror_and_are_listed_as_pkg_add_reads_them() {
    let network = Network::up(2);
    let repo = OpenBsdRepo::new();
    let wait = ["--wait", "all", "--timeout", "60"];
    let first = network.publish(CHANNEL, &repo.tree(), &wait).ok();
    assert_eq!((first.build(), &first.json["files"]), (1, &9.into()));
    let shown = network.run(["show", CHANNEL]).ok();
    assert_eq!(shown.json["layout"], "openbsd", "it was recognised");
    let folder = format!("/{CHANNEL}/{}", OpenBsdRepo::at(""));
    let names = [
        "gettext-runtime-0.22.5",
        "gtk+3-3.24.41",
        "libiconv-1.17",
        "quirks-7.14",
        "vim-9.1.0-gtk3",
        "vim-9.1.0-no_x11",
    ];
    for mirror in network.mirrors() {
        assert_eq!(listed(&network, mirror, &folder), names);
        for (path, content) in repo.files() {
            let got = network.get(mirror, &format!("/{CHANNEL}/{path}"));
            assert_eq!(
                (got.status, sha256(&got.body)),
                (200, sha256(&content)),
                "{path}"
            );
        }
    }

    // A newer library in place of the old one, said path by path.
    let iconv = "converters/libiconv:libiconv-*:libiconv-1.17";
    repo.remove("libiconv-1.17.tgz");
    repo.add("libiconv-1.18", &[]);
    repo.add("nano-8.0", &[iconv]);
    let mut paths = repo.write_lists();
    paths.extend(["libiconv-1.17.tgz", "libiconv-1.18.tgz", "nano-8.0.tgz"].map(OpenBsdRepo::at));
    let second = changed(&network, &repo, &paths).ok();
    let counts = ["added", "changed", "removed"].map(|name| second.json[name].as_u64().unwrap());
    assert_eq!((second.build(), counts), (2, [2, 3, 1]));
    for mirror in network.mirrors() {
        let found = listed(&network, mirror, &folder);
        assert!(found.contains(&"libiconv-1.18".to_owned()), "{found:?}");
        assert!(!found.contains(&"libiconv-1.17".to_owned()), "{found:?}");
        let pinned = format!("/@/{CHANNEL}/1/{}", OpenBsdRepo::at(""));
        assert_eq!(listed(&network, mirror, &pinned), names);
    }
    let whole = network.publish(CHANNEL, &repo.tree(), &[]).ok();
    assert_eq!(whole.json["unchanged"], true, "a scan finds nothing else");

    // Who needs what goes did not change, and is found all the same.
    repo.remove("libiconv-1.18.tgz");
    let mut paths = repo.write_lists();
    paths.push(OpenBsdRepo::at("libiconv-1.18.tgz"));
    let broken = changed(&network, &repo, &paths).code_is(65);
    let faults = broken.json["faults"].as_array().unwrap();
    let needy = ["gettext-runtime-0.22.5", "gtk+3-3.24.41", "nano-8.0"];
    let needy = needy.map(|name| OpenBsdRepo::at(&format!("{name}.tgz")));
    let found: Vec<&str> = faults
        .iter()
        .map(|fault| fault["path"].as_str().unwrap())
        .collect();
    assert_eq!(found, needy, "{}", broken.stdout);
    assert_eq!(network.run(["log", CHANNEL]).ok().lines().len(), 2);
}

#[test]
fn every_fault_of_packages_and_lists_is_named() {
    let network = Network::up(1);
    let repo = OpenBsdRepo::new();
    let wait = ["--layout", "openbsd", "--wait", "all", "--timeout", "60"];
    network.publish(CHANNEL, &repo.tree(), &wait).ok();
    let good = repo.files();

    // A package whose need nobody meets, one that was built anew, one that is new: the lists are old.
    repo.add("zsh-5.9", &["devel/pcre:pcre-*:pcre-8.44"]);
    repo.add("quirks-7.14", &[]);
    let expected = [
        fault("quirks-7.14.tgz", "digest"),
        fault("zsh-5.9.tgz", "disagree"),
        fault("zsh-5.9.tgz", "disagree"),
        fault("zsh-5.9.tgz", "dependency"),
    ];
    assert_eq!(refused(&network, &repo, &[]), expected);
    let dry = refused(&network, &repo, &["--dry-run"]);
    assert_eq!(dry, expected);
    repo.write_lists();
    assert_eq!(refused(&network, &repo, &[]), expected[3..]);
    repo.remove("zsh-5.9.tgz");

    // An index of what is no longer there, and lists that say different things.
    let index = good[&OpenBsdRepo::at("index.txt")].clone();
    repo.remove("vim-9.1.0-gtk3.tgz");
    repo.write_lists();
    repo.write("index.txt", &index);
    assert_eq!(
        refused(&network, &repo, &[]),
        [fault("index.txt", "disagree")]
    );
    repo.write_lists();
    let sums = OpenBsdRepo::at("SHA256");
    let signed = repo.files()[&OpenBsdRepo::at("SHA256.sig")].clone();
    repo.write("SHA256.sig", &good[&OpenBsdRepo::at("SHA256.sig")]);
    assert_eq!(
        refused(&network, &repo, &[]),
        [fault("SHA256.sig", "disagree")]
    );
    repo.write("SHA256.sig", &repo.files()[&sums]);
    assert_eq!(
        refused(&network, &repo, &[]),
        [fault("SHA256.sig", "signature")]
    );
    repo.write("SHA256.sig", &signed);
    assert_eq!(network.run(["log", CHANNEL]).ok().lines().len(), 1);
    assert_eq!(network.publish_everywhere(CHANNEL, &repo.tree()), 2);
}

#[test]
fn lists_are_verified_with_the_configured_keys() {
    let network = Network::up(1);
    let (repo, stranger) = (OpenBsdRepo::new(), OpenBsdRepo::new());
    let declare = |keys: Vec<toml::Value>| {
        network.kill("archive");
        network.configure("archive", |config| {
            let mut channel = toml::toml! {
                name = "openbsd-amd64"
                layout = "openbsd"
            };
            channel.insert("signify_key".to_owned(), keys.into());
            config.insert("channels".to_owned(), vec![channel].into());
        });
        network.restart("archive");
    };
    let key = |repo: &OpenBsdRepo| toml::Value::from(repo.key().to_str().unwrap());
    declare(vec![key(&stranger), key(&repo)]);
    assert_eq!(network.publish_everywhere(CHANNEL, &repo.tree()), 1);
    declare(vec![key(&stranger)]);
    repo.add("zsh-5.9", &[]);
    repo.write_lists();
    assert_eq!(
        refused(&network, &repo, &[]),
        [fault("SHA256.sig", "signature")]
    );
    declare(vec![key(&repo)]);
    assert_eq!(network.publish_everywhere(CHANNEL, &repo.tree()), 2);
    repo.remove("SHA256.sig");
    let faults = refused(&network, &repo, &[]);
    assert!(
        faults.contains(&fault("SHA256.sig", "signature")),
        "{faults:?}"
    );
}
