#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::PathBuf;

use mirrorlog_core::id::Digest;
use mirrorlog_core::layout::Layout;
use mirrorlog_core::time::Timestamp;
use sha2::Digest as _;

use super::*;
use crate::publish::{Counters, Purpose, Workspace};
use crate::scan::{ScanInput, scan};

/// 2026-11-22T00:00:00Z
const NOW: Timestamp = Timestamp::from_seconds(1_795_305_600);

struct Archive {
    dir: tempfile::TempDir,
    workspace: Workspace,
}

impl Archive {
    /// One suite `t`, one package `a`, Packages plain and gzip, Sources, by-hash.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(
            &dir.path().join("store"),
            &dir.path().join("scratch"),
            Purpose::Publish,
        )
        .unwrap();
        let archive = Self { dir, workspace };
        archive.write("pool/a_1.deb", b"package a");
        archive.write("pool/s_1.dsc", b"source s");
        archive.index(&[("a", "pool/a_1.deb", b"package a")]);
        archive.release("");
        archive
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("tree").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    fn index(&self, packages: &[(&str, &str, &[u8])]) {
        let mut text = String::new();
        for (name, path, bytes) in packages {
            let digest = Digest::of(bytes);
            text += &format!(
                "Package: {name}\nVersion: 1\nArchitecture: amd64\nFilename: {path}\nSize: {}\nSHA256: {digest}\n\n",
                bytes.len()
            );
        }
        self.packages(&text);
        let digest = Digest::of(b"source s");
        let sources =
            format!("Package: s\nDirectory: pool\nChecksums-Sha256:\n {digest} 8 s_1.dsc\n\n");
        self.write("dists/t/main/source/Sources", sources.as_bytes());
    }

    fn packages(&self, text: &str) {
        self.write("dists/t/main/binary-amd64/Packages", text.as_bytes());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        self.write(
            "dists/t/main/binary-amd64/Packages.gz",
            &gzip.finish().unwrap(),
        );
        let digest = Digest::of(text.as_bytes());
        self.write(
            &format!("dists/t/main/binary-amd64/by-hash/SHA256/{digest}"),
            text.as_bytes(),
        );
    }

    /// Writes the Release over the indexes as they are, with SHA-256 and SHA-512.
    fn release(&self, more: &str) {
        let names = [
            "main/binary-amd64/Packages",
            "main/binary-amd64/Packages.gz",
            "main/source/Sources",
        ];
        let mut text =
            format!("Suite: t\nCodename: t\nDate: Sat, 21 Nov 2026 23:50:30 UTC\n{more}");
        for field in ["SHA256", "SHA512"] {
            text += &format!("{field}:\n");
            for name in names {
                let bytes = std::fs::read(self.path("dists/t").join(name)).unwrap();
                let hash = if field == "SHA256" {
                    Digest::of(&bytes).to_hex()
                } else {
                    hex::encode(sha2::Sha512::digest(&bytes))
                };
                text += &format!(" {hash} {} {name}\n", bytes.len());
            }
        }
        self.write("dists/t/Release", text.as_bytes());
    }

    fn root(&self) -> Digest {
        let tree = Tree::open(&self.dir.path().join("tree")).unwrap();
        let counters = Counters::default();
        let input = ScanInput {
            tree: &tree,
            workspace: &self.workspace,
            select: &|_path| true,
            cache: &self.dir.path().join("scan/c.cache"),
            published: None,
            counters: &counters,
        };
        let mut faults = Faults::default();
        let scanned = scan(&input, &mut faults).unwrap();
        assert!(faults.is_empty(), "{:?}", faults.list());
        scanned.summary.root
    }

    fn rules(&self) -> Rules {
        Rules {
            layout: Layout::Debian,
            needs_suites: true,
            allow_expired: false,
            deps: false,
            openpgp_keyring: None,
            signify_keys: Vec::new(),
            now: NOW,
            before: None,
        }
    }

    fn check_with(&self, rules: &Rules, extent: Extent<'_>) -> Vec<(String, Rule)> {
        let root = self.root();
        let tree = Tree::open(&self.dir.path().join("tree")).unwrap();
        let view = View {
            workspace: &self.workspace,
            root: &root,
        };
        let mut faults = Faults::default();
        super::super::validate(rules, Some(&tree), view, extent, &mut faults).unwrap();
        faults
            .iter()
            .map(|fault| (fault.path.clone(), fault.what))
            .collect()
    }

    fn check(&self) -> Vec<(String, Rule)> {
        self.check_with(&self.rules(), Extent::Whole)
    }
}

fn fault(path: &str, what: Rule) -> (String, Rule) {
    (path.to_owned(), what)
}

#[test]
fn a_good_archive_has_no_fault() {
    let archive = Archive::new();
    assert_eq!(archive.check(), []);
    // Any one compression will do, in any suite's folder, through a symlink too.
    archive.remove("dists/t/main/binary-amd64/Packages");
    std::os::unix::fs::symlink("t", archive.path("dists/stable")).unwrap();
    std::os::unix::fs::symlink("../pool", archive.path("dists/pool")).unwrap();
    assert_eq!(archive.check(), []);
}

#[test]
fn a_named_file_must_be_there_whole() {
    let archive = Archive::new();
    archive.write("pool/a_1.deb", b"package A");
    archive.remove("pool/s_1.dsc");
    let expected = [
        fault("pool/a_1.deb", Rule::Digest),
        fault("pool/s_1.dsc", Rule::Missing),
    ];
    assert_eq!(archive.check(), expected);
    archive.write("pool/a_1.deb", b"short");
    assert_eq!(archive.check()[0], fault("pool/a_1.deb", Rule::Size));
}

#[test]
fn a_listed_index_must_be_as_listed() {
    let archive = Archive::new();
    archive.remove("dists/t/main/source/Sources");
    archive.write("dists/t/main/binary-amd64/Packages.gz", b"rubbish");
    let expected = [
        fault("dists/t/main/binary-amd64/Packages.gz", Rule::Size),
        fault("dists/t/main/source/Sources", Rule::Missing),
    ];
    assert_eq!(archive.check(), expected);
}

#[test]
fn the_strongest_listed_digest_counts_too() {
    let archive = Archive::new();
    let release = std::fs::read_to_string(archive.path("dists/t/Release")).unwrap();
    let bytes = std::fs::read(archive.path("dists/t/main/source/Sources")).unwrap();
    let (right, wrong) = (
        hex::encode(sha2::Sha512::digest(&bytes)),
        hex::encode(sha2::Sha512::digest(b"")),
    );
    archive.write(
        "dists/t/Release",
        release.replace(&right, &wrong).as_bytes(),
    );
    assert_eq!(
        archive.check(),
        [fault("dists/t/main/source/Sources", Rule::Digest)]
    );
}

#[test]
fn compressions_must_say_the_same() {
    let archive = Archive::new();
    archive.remove("dists/t/main/binary-amd64/Packages");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"").unwrap();
    let other = gzip.finish().unwrap();
    let old = std::fs::read(archive.path("dists/t/main/binary-amd64/Packages.gz")).unwrap();
    archive.write("dists/t/main/binary-amd64/Packages.gz", &other);
    let mut release = std::fs::read_to_string(archive.path("dists/t/Release")).unwrap();
    let sha512 = |bytes: &[u8]| hex::encode(sha2::Sha512::digest(bytes));
    release = release.replace(&sha512(&old), &sha512(&other));
    release = release.replace(&Digest::of(&old).to_hex(), &Digest::of(&other).to_hex());
    release = release.replace(
        &format!(" {} main/binary-amd64/Packages.gz", old.len()),
        &format!(" {} main/binary-amd64/Packages.gz", other.len()),
    );
    archive.write("dists/t/Release", release.as_bytes());
    assert_eq!(
        archive.check(),
        [fault("dists/t/main/binary-amd64/Packages.gz", Rule::Digest)]
    );
}

#[test]
fn by_hash_files_are_named_by_their_content() {
    let archive = Archive::new();
    let wrong = format!(
        "dists/t/main/source/by-hash/SHA512/{}",
        hex::encode(sha2::Sha512::digest(b"x"))
    );
    archive.write(&wrong, b"y");
    assert_eq!(archive.check(), [fault(&wrong, Rule::Digest)]);
}

#[test]
fn an_expired_release_needs_a_word() {
    let archive = Archive::new();
    archive.release("Valid-Until: Sat, 21 Nov 2026 23:59:59 UTC\n");
    assert_eq!(archive.check(), [fault("dists/t/Release", Rule::Expired)]);
    let allowing = Rules {
        allow_expired: true,
        ..archive.rules()
    };
    assert_eq!(archive.check_with(&allowing, Extent::Whole), []);
    archive.release("Valid-Until: Sun, 22 Nov 2026 00:00:01 UTC\n");
    assert_eq!(archive.check(), []);
}

#[test]
fn release_and_inrelease_agree() {
    let archive = Archive::new();
    let release = std::fs::read_to_string(archive.path("dists/t/Release")).unwrap();
    let sign = |text: &str| {
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text}-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n"
        )
    };
    archive.write("dists/t/InRelease", sign(&release).as_bytes());
    assert_eq!(archive.check(), []);
    archive.write(
        "dists/t/InRelease",
        sign(&release.replace("Date: Sat", "Date: Sun")).as_bytes(),
    );
    assert_eq!(
        archive.check(),
        [fault("dists/t/InRelease", Rule::Disagree)]
    );
    archive.write("dists/t/InRelease", b"rubbish");
    assert_eq!(
        archive.check(),
        [fault("dists/t/InRelease", Rule::Malformed)]
    );
}

#[test]
fn nested_suites_are_checked_and_other_release_files_are_not() {
    let archive = Archive::new();
    archive.write(
        "dists/t/main/binary-amd64/Release",
        b"Archive: t\nCodename: t\nComponent: main\nArchitecture: amd64\n",
    );
    assert_eq!(archive.check(), []);
    archive.write("dists/t/updates/Release", b"Codename: t\nDate: x\n");
    assert_eq!(
        archive.check(),
        [fault("dists/t/updates/Release", Rule::Malformed)]
    );
}

#[test]
fn architectures_that_were_never_carried_may_be_absent() {
    let archive = Archive::new();
    let release = std::fs::read_to_string(archive.path("dists/t/Release")).unwrap();
    let mut ports = "Architectures: amd64 arm64 hurd-amd64 source\n".to_owned();
    for line in release.lines() {
        ports += &format!("{line}\n");
        if line.contains("binary-amd64") {
            ports += &format!("{}\n", line.replace("amd64", "arm64"));
        }
    }
    archive.write("dists/t/Release", ports.as_bytes());
    assert_eq!(archive.check(), [], "the ports are elsewhere");
    // Once it was there it must not get lost.
    let index = std::fs::read(archive.path("dists/t/main/binary-amd64/Packages")).unwrap();
    archive.write("dists/t/main/binary-arm64/Packages", &index);
    assert_eq!(archive.check(), []);
    let before = Some(archive.root());
    archive.remove("dists/t/main/binary-arm64/Packages");
    let rules = Rules {
        before,
        ..archive.rules()
    };
    let lost = [fault("dists/t/main/binary-arm64/Packages", Rule::Missing)];
    assert_eq!(archive.check_with(&rules, Extent::Whole), lost);
    // Nor may all be absent, or what is of no architecture.
    for name in ["Packages", "Packages.gz"] {
        archive.remove(&format!("dists/t/main/binary-amd64/{name}"));
    }
    archive.remove("dists/t/main/source/Sources");
    assert_eq!(archive.check().len(), 3);
}

#[test]
fn a_date_in_the_future_is_not_valid_yet() {
    let archive = Archive::new();
    let release = std::fs::read_to_string(archive.path("dists/t/Release")).unwrap();
    let dated = |date: &str| release.replace("Sat, 21 Nov 2026 23:50:30 UTC", date);
    archive.write(
        "dists/t/Release",
        dated("Sun, 22 Nov 2026 00:20:00 UTC").as_bytes(),
    );
    assert_eq!(archive.check(), [fault("dists/t/Release", Rule::Early)]);
    // Clocks differ, and nobody checks the day of the week.
    archive.write(
        "dists/t/Release",
        dated("Mon, 22 Nov 2026 00:05:00 +0000").as_bytes(),
    );
    assert_eq!(archive.check(), []);
}

#[test]
fn a_tree_without_suites_is_no_archive() {
    let archive = Archive::new();
    std::fs::remove_dir_all(archive.path("dists")).unwrap();
    assert_eq!(archive.check(), [fault("dists", Rule::Missing)]);
    let rest = Rules {
        needs_suites: false,
        ..archive.rules()
    };
    assert_eq!(archive.check_with(&rest, Extent::Whole), []);
}

#[test]
fn dependencies_resolve_when_asked() {
    let archive = Archive::new();
    let packages =
        std::fs::read_to_string(archive.path("dists/t/main/binary-amd64/Packages")).unwrap();
    let rules = Rules {
        deps: true,
        ..archive.rules()
    };
    for (depends, faults) in [
        ("a (>= 1), a | nothing", 0),
        ("nothing | a (>> 1), a:any", 1),
    ] {
        archive.packages(
            &packages.replace("Version: 1\n", &format!("Version: 1\nDepends: {depends}\n")),
        );
        archive.release("");
        let found = archive.check_with(&rules, Extent::Whole);
        assert_eq!(found.len(), faults, "{depends}: {found:?}");
        assert!(found.iter().all(|(_, rule)| *rule == Rule::Dependency));
        assert_eq!(archive.check(), [], "not asked for");
    }
}

#[test]
fn after_a_change_the_same_faults_are_found() {
    let archive = Archive::new();
    let base = archive.root();
    let since = |archive: &Archive| archive.check_with(&archive.rules(), Extent::Since(&base));
    assert_eq!(since(&archive), []);
    // A file that an index, which did not change, still names.
    archive.remove("pool/a_1.deb");
    assert_eq!(since(&archive), [fault("pool/a_1.deb", Rule::Missing)]);
    // An index that the Release does not know.
    archive.index(&[("b", "pool/b_1.deb", b"package b")]);
    let found = since(&archive);
    assert_eq!(found, archive.check());
    assert_eq!(
        found[0],
        fault("dists/t/main/binary-amd64/Packages", Rule::Digest)
    );
    // A Release that knows it, but no package.
    archive.release("");
    assert_eq!(since(&archive), [fault("pool/b_1.deb", Rule::Missing)]);
    archive.write("pool/b_1.deb", b"package b");
    assert_eq!(since(&archive), []);
    assert_eq!(archive.check(), []);
    // A symlink may move anything.
    std::fs::rename(archive.path("pool"), archive.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", archive.path("pool")).unwrap();
    assert_eq!(since(&archive), []);
    std::fs::remove_file(archive.path("pool")).unwrap();
    assert_eq!(since(&archive).len(), 2);
}

#[test]
fn an_index_that_a_release_lists_only_now_is_read() {
    let archive = Archive::new();
    let text = std::fs::read_to_string(archive.path("dists/t/main/binary-amd64/Packages")).unwrap();
    let broken = text.replace("pool/a_1.deb", "pool/b_1.deb");
    let index = "main/binary-arm64/Packages";
    archive.write(&format!("dists/t/{index}"), broken.as_bytes());
    assert_eq!(archive.check(), [], "nobody names it yet");
    let base = archive.root();
    let release = std::fs::read_to_string(archive.path("dists/t/Release")).unwrap();
    let sha512 = hex::encode(sha2::Sha512::digest(&broken));
    let listed = format!("{release} {sha512} {} {index}\n", broken.len());
    archive.write("dists/t/Release", listed.as_bytes());
    let since = archive.check_with(&archive.rules(), Extent::Since(&base));
    assert_eq!(since, [fault("pool/b_1.deb", Rule::Missing)]);
    assert_eq!(archive.check(), since);
}

#[test]
fn signatures_are_checked_with_the_configured_keys() {
    let archive = Archive::new();
    let home = archive.dir.path().join("gnupg");
    std::fs::create_dir(&home).unwrap();
    let gpg = |args: &[&str]| {
        let gpg = std::process::Command::new("gpg")
            .arg("--homedir")
            .arg(&home)
            .arg("--batch")
            .args(args)
            .output();
        let output = gpg.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    gpg(&[
        "--passphrase",
        "",
        "--quick-gen-key",
        "Test <t@example.org>",
        "ed25519",
        "sign",
    ]);
    let keyring = archive.dir.path().join("keys.gpg");
    std::fs::write(&keyring, gpg(&["--export"])).unwrap();
    let release = archive.path("dists/t/Release");
    let signed = gpg(&["-o", "-", "--clearsign", release.to_str().unwrap()]);
    let rules = Rules {
        openpgp_keyring: Some(keyring),
        ..archive.rules()
    };
    let check = || archive.check_with(&rules, Extent::Whole);
    assert_eq!(
        check(),
        [fault("dists/t/Release", Rule::Signature)],
        "neither kind is there"
    );
    archive.write("dists/t/InRelease", &signed);
    assert_eq!(check(), []);
    let detached = gpg(&[
        "-o",
        "-",
        "--armor",
        "--detach-sign",
        release.to_str().unwrap(),
    ]);
    archive.write("dists/t/Release.gpg", &detached);
    assert_eq!(check(), []);
    archive.release("Label: forged\n");
    let found = check();
    assert!(
        found.contains(&fault("dists/t/Release.gpg", Rule::Signature)),
        "{found:?}"
    );
    let forged = String::from_utf8(signed)
        .unwrap()
        .replace("Codename: t", "Codename: f");
    archive.write("dists/t/InRelease", forged.as_bytes());
    assert!(check().contains(&fault("dists/t/InRelease", Rule::Signature)));
    let gpgconf = std::process::Command::new("gpgconf")
        .arg("--homedir")
        .arg(&home)
        .args(["--kill", "gpg-agent"])
        .status();
    assert!(gpgconf.unwrap().success());
}
