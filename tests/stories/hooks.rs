//! Archives with tools of their own: reprepro, aptly and rsync publish through the hooks in `deploy/hooks`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use e2e::{Apt, DebianRepo, Ended, Network, binary, run, tool};

const PACKAGES: &str = "dists/bookworm/main/binary-amd64/Packages";

/// An archive that publishes by hooks. Nothing of it is outside the network's folder.
struct Archive {
    network: Network,
    /// Gives packages, and the key.
    repo: DebianRepo,
}

impl Archive {
    /// With `anvil` and `chisel` 1.0-1, and `anvil` 1.1-1 and `drill` 3.0-1 for later.
    fn new() -> Self {
        let mut repo = DebianRepo::new();
        for (name, version) in [("anvil", "1.0-1"), ("anvil", "1.1-1"), ("chisel", "1.0-1")] {
            repo.add("bookworm", name, version, "");
        }
        repo.add("bookworm", "drill", "3.0-1", "anvil");
        Self::of(repo)
    }

    fn of(repo: DebianRepo) -> Self {
        let network = Network::up(2);
        std::fs::create_dir(network.scratch().join("home")).unwrap();
        Self { network, repo }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.network.scratch().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let file = self.at(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }

    /// A program with what hooks take from the environment; and with no home of a user.
    fn with_settings(&self, mut command: Command) -> Command {
        command
            .current_dir(self.network.scratch())
            .env("HOME", self.at("home"))
            .env("GNUPGHOME", self.repo.gnupg())
            .env("MIRRORLOG", binary())
            .env("MIRRORLOG_CONFIG", self.network.config("archive"))
            .env("PUBLISH_STATE", self.at("publish"))
            .env("PUBLISH_TRIES", "1")
            .env(
                "PUBLISH_TELL",
                format!("cat >>{}", self.at("told").display()),
            );
        command
    }

    fn hook(&self, name: &str, args: &[&str]) -> Ended {
        let mut command = self.with_settings(Command::new(hooks().join(name)));
        self.network.run_command(command.args(args))
    }

    /// What the hooks told the operator.
    fn told(&self) -> String {
        std::fs::read_to_string(self.at("told")).unwrap_or_default()
    }

    /// When the hooks last looked at all of a tree.
    fn whole_look(&self, channel: &str) -> SystemTime {
        let mark = self.at(&format!("publish/{channel}/scanned"));
        mark.metadata().unwrap().modified().unwrap()
    }

    fn builds(&self, channel: &str) -> usize {
        self.network.run(["log", channel]).ok().lines().len()
    }

    /// Every file of the tree is on all mirrors, at that build.
    fn is_everywhere(&self, channel: &str, build: u64, tree: &Path) {
        let mirrors = self.network.mirrors();
        self.network.await_complete(&mirrors, channel, build);
        for (path, content) in &tree_files(tree) {
            for mirror in &mirrors {
                let answer = self.network.get(mirror, &format!("/{channel}/{path}"));
                assert!(
                    answer.status == 200 && answer.body == *content,
                    "{mirror}: {path}: {}",
                    answer.status
                );
            }
        }
    }

    /// apt takes this version of a package from each mirror, by digests of indexes.
    fn apt_gets(&self, channel: &str, package: &str, version: &str) {
        for mirror in self.network.mirrors() {
            let url = format!("{}/{channel}", self.network.url(mirror));
            let apt = Apt::new(&self.repo, &format!("{mirror}-{version}"), &url, "bookworm");
            apt.update();
            let deb = std::fs::read(self.repo.deb(package, version)).unwrap();
            assert!(apt.download(package) == deb, "{package} {version}");
            let release = self
                .network
                .get(mirror, &format!("/{channel}/dists/bookworm/InRelease"));
            assert!(
                release.text().contains("Acquire-By-Hash: yes"),
                "{}",
                release.text()
            );
        }
    }

    /// A refusal said what is wrong and what to do, and the old build is what mirrors serve.
    fn refused(&self, ended: &Ended, channel: &str, build: u64) {
        assert!(
            ended.stderr.contains(&format!("fault: {PACKAGES}")),
            "{}",
            ended.stderr
        );
        let told = self.told();
        assert!(
            told.contains(&format!("{channel}: "))
                && told.contains("is refused")
                && told.contains("Mend the tree"),
            "{told}"
        );
        assert_eq!(self.builds(channel) as u64, build, "{}", ended.stderr);
        for mirror in self.network.mirrors() {
            assert_eq!(self.network.live(mirror, channel), Some(build));
        }
    }
}

fn hooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hooks")
}

fn tree_files(tree: &Path) -> BTreeMap<String, Vec<u8>> {
    let listed = run(tool("find")
        .arg(tree)
        .args(["-type", "f", "-printf", "%P\\0"]));
    let listed = String::from_utf8(listed).unwrap();
    let paths = listed.split_terminator('\0');
    paths
        .map(|path| (path.to_owned(), std::fs::read(tree.join(path)).unwrap()))
        .collect()
}

/// Takes all forms of an index away: any one of them would do.
fn remove_index(tree: &Path) {
    for ending in ["", ".gz", ".xz", ".bz2"] {
        std::fs::remove_file(tree.join(format!("{PACKAGES}{ending}"))).ok();
    }
}

/// Paths of a channel's newest build.
fn paths(archive: &Archive, channel: &str) -> Vec<String> {
    let entries = archive.network.run(["ls", channel]).ok().lines();
    let path = |entry: &serde_json::Value| entry["path"].as_str().unwrap().to_owned();
    entries.iter().map(path).collect()
}

fn reprepro(archive: &Archive, args: &[&str]) -> Ended {
    let mut command = archive.with_settings(tool("reprepro"));
    command.args(["-b", "reprepro"]).args(args);
    archive.network.run_command(&mut command)
}

fn include(archive: &Archive, codename: &str, name: &str, version: &str) -> Ended {
    let deb = archive.repo.deb(name, version);
    let filed = ["-S", "misc", "-P", "optional", "includedeb", codename];
    reprepro(archive, &[&filed[..], &[deb.to_str().unwrap()]].concat())
}

/// A repository with two codenames, each a channel, as the handbook says.
fn reprepro_archive() -> Archive {
    let archive = Archive::new();
    let hooks = hooks();
    let hook = hooks.join("reprepro-outhook");
    let options = format!(
        "outdir +b/public\nouthook {}\nwaitforlock 30\n",
        hook.display()
    );
    archive.write("reprepro/conf/options", &options);
    let sign = hooks.join("reprepro-sign");
    let stanza = |codename: &str| {
        format!(
            "Codename: {codename}\nArchitectures: amd64\nComponents: main\nSignWith: ! {}\n\
             DebIndices: Packages Release . .gz .xz\n\n",
            sign.display()
        )
    };
    let distributions = stanza("bookworm") + &stanza("bookworm-security");
    archive.write("reprepro/conf/distributions", &distributions);
    let channels =
        "# codename, channel, options\nbookworm-security security --priority\nbookworm smithy\n";
    archive.write("reprepro/conf/mirrorlog", channels);
    archive
}

#[test]
fn reprepro_publishes_each_change() {
    let archive = reprepro_archive();
    let tree = archive.at("reprepro/public");
    include(&archive, "bookworm", "anvil", "1.0-1").ok();
    archive.is_everywhere("smithy", 1, &tree);
    archive.apt_gets("smithy", "anvil", "1.0-1");

    // Not in reprepro's log of its changes, so not looked at.
    archive.write("reprepro/public/quiet", "nobody said so\n");
    include(&archive, "bookworm", "anvil", "1.1-1").ok();
    archive
        .network
        .await_complete(&archive.network.mirrors(), "smithy", 2);
    let published = paths(&archive, "smithy");
    assert!(!published.contains(&"quiet".to_owned()), "{published:?}");
    assert!(
        !published.contains(&DebianRepo::pool_path("anvil", "1.0-1")),
        "{published:?}"
    );
    std::fs::remove_file(tree.join("quiet")).unwrap();
    archive.is_everywhere("smithy", 2, &tree);
    archive.apt_gets("smithy", "anvil", "1.1-1");

    let ended = include(&archive, "bookworm-security", "drill", "3.0-1").ok();
    assert!(ended.stdout.contains("(priority)"), "{}", ended.stdout);
    assert_eq!(
        (archive.builds("security"), archive.builds("smithy")),
        (1, 2)
    );

    remove_index(&tree);
    let ended = archive.hook("mirrorlog-publish", &["smithy", tree.to_str().unwrap()]);
    archive.refused(&ended.code_is(65), "smithy", 2);
    archive.apt_gets("smithy", "anvil", "1.1-1");
    reprepro(&archive, &["export", "bookworm"]).ok();
    archive.is_everywhere("smithy", 3, &tree);
}

#[test]
fn what_reprepro_could_not_publish_comes_with_its_next_change() {
    let archive = reprepro_archive();
    include(&archive, "bookworm", "anvil", "1.0-1").ok();
    archive.network.kill("archive");
    let ended = include(&archive, "bookworm", "drill", "3.0-1").code_is(255);
    assert!(
        ended.stderr.contains("the archive does not answer"),
        "{}",
        ended.stderr
    );
    assert!(
        archive
            .told()
            .contains("The next change publishes this one too"),
        "{}",
        archive.told()
    );
    archive.network.restart("archive");
    include(&archive, "bookworm", "chisel", "1.0-1").ok();
    assert_eq!(archive.builds("smithy"), 2);
    archive.is_everywhere("smithy", 2, &archive.at("reprepro/public"));
    archive.apt_gets("smithy", "drill", "3.0-1");
}

#[test]
fn suites_of_reprepro_are_channels_of_one_mount() {
    let archive = reprepro_archive();
    let channel = |name: &str, suite: &str| {
        format!(
            "\n[[channels]]\nname = \"{name}\"\nmount = \"/smithy\"\nlayout = \"debian\"\nsuites = [\"{suite}\"]\n"
        )
    };
    archive.network.kill("archive");
    let config = archive.network.config("archive");
    let declared = channel("security", "bookworm-security") + &channel("smithy", "bookworm");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + &declared).unwrap();
    archive.network.restart("archive");

    include(&archive, "bookworm", "anvil", "1.0-1").ok();
    let fix = include(&archive, "bookworm-security", "anvil", "1.1-1").ok();
    assert!(fix.stdout.contains("(priority)"), "{}", fix.stdout);
    assert_eq!(
        (archive.builds("security"), archive.builds("smithy")),
        (1, 1)
    );
    archive
        .network
        .await_complete(&archive.network.mirrors(), "security", 1);
    archive.is_everywhere("smithy", 1, &archive.at("reprepro/public"));
    archive.apt_gets("smithy", "anvil", "1.0-1");
    let only = |channel: &str, version: &str| {
        let paths = paths(&archive, channel);
        let in_pool = paths.iter().filter(|path| path.starts_with("pool/"));
        assert_eq!(
            in_pool.collect::<Vec<_>>(),
            [&DebianRepo::pool_path("anvil", version)]
        );
    };
    only("smithy", "1.0-1");
    only("security", "1.1-1");
}

#[test]
fn aptly_publishes_each_change() {
    let archive = Archive::new();
    let root = archive.at("aptly");
    let config = archive.at("aptly.conf");
    let settings = serde_json::json!({ "rootDir": root, "architectures": ["amd64", "all"], "gpgProvider": "gpg2" });
    archive.write("aptly.conf", &settings.to_string());
    let aptly = |args: &[&str]| {
        let mut command = archive.with_settings(tool("aptly"));
        command.arg(format!("-config={}", config.display()));
        archive.network.run_command(command.args(args)).ok()
    };
    let publish = |args: &[&str]| {
        let mut command = archive.with_settings(Command::new(hooks().join("aptly-publish")));
        command
            .env("APTLY_CONFIG", &config)
            .arg("smithy")
            .args(args);
        archive.network.run_command(&mut command)
    };
    let add = |name: &str, version: &str| {
        aptly(&[
            "repo",
            "add",
            "smithy",
            archive.repo.deb(name, version).to_str().unwrap(),
        ]);
    };
    aptly(&["repo", "create", "-component=main", "smithy"]);
    add("anvil", "1.0-1");
    let first = [
        "repo",
        "-batch",
        "-acquire-by-hash",
        "-skip-contents",
        "-distribution=bookworm",
        "smithy",
    ];
    publish(&first).ok();
    // aptly's own tree, its links by absolute names apart.
    let tree = root.join("public");
    archive.is_everywhere("smithy", 1, &tree);
    archive.apt_gets("smithy", "anvil", "1.0-1");

    let whole = archive.whole_look("smithy");
    aptly(&["repo", "remove", "smithy", "anvil"]);
    add("anvil", "1.1-1");
    publish(&["update", "-batch", "-skip-contents", "bookworm"]).ok();
    archive.is_everywhere("smithy", 2, &tree);
    archive.apt_gets("smithy", "anvil", "1.1-1");
    assert_eq!(
        archive.whole_look("smithy"),
        whole,
        "only what rsync named was looked at"
    );
    assert!(!paths(&archive, "smithy").contains(&DebianRepo::pool_path("anvil", "1.0-1")));

    // A change elsewhere meets a broken suite.
    remove_index(&tree);
    let other = [
        "repo",
        "-batch",
        "-acquire-by-hash",
        "-skip-contents",
        "-distribution=trixie",
        "smithy",
    ];
    archive.refused(&publish(&other).code_is(65), "smithy", 2);
    archive.apt_gets("smithy", "anvil", "1.1-1");
    publish(&["update", "-batch", "-skip-contents", "bookworm"]).ok();
    archive.is_everywhere("smithy", 3, &tree);
    publish(&["update", "-batch", "nosuch"]).code_is(70);
    let mut blank = archive.with_settings(Command::new(hooks().join("aptly-publish")));
    blank
        .env("APTLY_CONFIG", &config)
        .env("APTLY_PUBLIC", root.join("a public"))
        .args(["smithy", "drop", "bookworm"]);
    let refused = archive.network.run_command(&mut blank).code_is(64);
    assert!(refused.stderr.contains("a blank"), "{}", refused.stderr);
    assert!(tree.join("dists/bookworm").exists(), "aptly was not asked");
    assert_eq!(archive.builds("smithy"), 3);
}

#[test]
fn a_tree_fed_by_rsync_is_published_when_it_is_whole() {
    let mut archive = Archive::of(DebianRepo::bookworm());
    let (upstream, tree) = (archive.repo.tree(), archive.at("tree"));
    let settings = format!(
        "UPSTREAM={}/\nTREE={}\nCHANNEL=smithy\nNAME=archive.example.org\n",
        upstream.display(),
        tree.display()
    );
    archive.write("smithy.sync", &settings);
    let sync = |archive: &Archive| archive.hook("rsync-publish", &["smithy.sync"]);
    sync(&archive).ok();
    archive.is_everywhere("smithy", 1, &upstream);
    sync(&archive).ok();
    assert_eq!(archive.builds("smithy"), 1, "there was no news");

    archive.repo.upgrade();
    let whole = archive.whole_look("smithy");
    sync(&archive).ok();
    archive.is_everywhere("smithy", 2, &upstream);
    archive.apt_gets("smithy", "anvil", "1.1-1");
    assert_eq!(
        archive.whole_look("smithy"),
        whole,
        "only what rsync named was looked at"
    );
    assert!(!paths(&archive, "smithy").contains(&DebianRepo::pool_path("chisel", "0.9-1")));

    // The upstream is itself in the middle of an update: all that came until then is published after it.
    let mark = upstream.join("Archive-Update-in-Progress-upstream.example.org");
    std::fs::write(&mark, "").unwrap();
    archive.repo.write_file("pool/one", b"one");
    let ended = sync(&archive).code_is(75);
    assert!(
        ended.stderr.contains("upstream.example.org"),
        "{}",
        ended.stderr
    );
    assert_eq!(archive.builds("smithy"), 2);
    std::fs::remove_file(&mark).unwrap();
    archive.repo.write_file("pool/two", b"two");
    sync(&archive).ok();
    archive.is_everywhere("smithy", 3, &upstream);

    // A run was killed: what it changed is in no list.
    let mark = tree.join("Archive-Update-in-Progress-archive.example.org");
    std::fs::write(&mark, "").unwrap();
    archive.repo.write_file("pool/three", b"three");
    run(tool("cp")
        .arg("-p")
        .arg(upstream.join("pool/three"))
        .arg(tree.join("pool")));
    sync(&archive).ok();
    assert!(!mark.exists());
    archive.is_everywhere("smithy", 4, &upstream);

    // A file becomes a folder, and is a file again.
    let whole = archive.whole_look("smithy");
    for (build, inside) in [(5, true), (6, false)] {
        let path = upstream.join("pool/three");
        if inside {
            std::fs::remove_file(&path).unwrap();
            archive.repo.write_file("pool/three/more", b"more");
        } else {
            std::fs::remove_dir_all(&path).unwrap();
            archive.repo.write_file("pool/three", b"again");
        }
        sync(&archive).ok();
        archive.is_everywhere("smithy", build, &upstream);
    }
    assert_eq!(archive.whole_look("smithy"), whole, "only what rsync named");

    let index = std::fs::read(upstream.join(PACKAGES)).unwrap();
    remove_index(&upstream);
    let ended = sync(&archive);
    archive.refused(&ended.code_is(65), "smithy", 6);
    archive.apt_gets("smithy", "anvil", "1.1-1");
    archive.repo.write_file(PACKAGES, &index);
    sync(&archive).ok();
    archive.is_everywhere("smithy", 7, &upstream);
    let gone = archive.at("nowhere");
    std::fs::rename(&upstream, &gone).unwrap();
    sync(&archive).code_is(75);
    assert_eq!(
        archive.builds("smithy"),
        7,
        "nothing came of an rsync that failed"
    );
    std::fs::rename(&gone, &upstream).unwrap();
}

#[test]
fn a_dry_run_forgets_nothing() {
    let archive = Archive::of(DebianRepo::bookworm());
    let tree = archive.repo.tree();
    let tree_text = tree.to_str().unwrap();
    archive
        .hook("mirrorlog-publish", &["smithy", tree_text])
        .ok();
    let whole = archive.whole_look("smithy");
    archive.repo.write_file("pool/one", b"one");
    archive.write("publish/smithy/1.list", "pool/one\0");
    let dry = ["smithy", tree_text, "--dry-run"];
    archive.hook("mirrorlog-publish", &dry).ok();
    assert_eq!(archive.builds("smithy"), 1);
    assert!(
        archive.at("publish/smithy/1.list").exists(),
        "it counts for the next run"
    );
    archive
        .hook("mirrorlog-publish", &["smithy", tree_text])
        .ok();
    archive.is_everywhere("smithy", 2, &tree);
    assert!(!archive.at("publish/smithy/1.list").exists());
    assert_eq!(archive.whole_look("smithy"), whole);
    archive.hook("mirrorlog-publish", &dry).ok();
    assert_eq!(
        archive.whole_look("smithy"),
        whole,
        "its date is no date of a publish"
    );
}
