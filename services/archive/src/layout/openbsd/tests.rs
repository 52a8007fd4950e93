#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use mirrorlog_core::id::Digest;
use mirrorlog_core::layout::Layout;
use mirrorlog_core::sign::{KeyNumber, SecretKey};
use mirrorlog_core::time::Timestamp;
use wire::signify;

use super::super::detect;
use super::*;
use crate::publish::{Counters, Purpose, Workspace};
use crate::scan::{ScanInput, scan};

const PACKAGES: &str = "7.8/packages/amd64";
const STABLE: &str = "7.8/packages-stable/amd64";

/// A tree as OpenBSD's: packages and sets, with all their lists.
struct Archive {
    dir: tempfile::TempDir,
    workspace: Workspace,
}

impl Archive {
    /// `vim` needs `gettext-runtime`, which needs `libiconv`; `quirks` nothing.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [store, scratch] = ["store", "scratch"].map(|name| dir.path().join(name));
        let workspace = Workspace::open(&store, &scratch, Purpose::Publish).unwrap();
        let archive = Self { dir, workspace };
        archive.package(PACKAGES, "quirks-7.14", &[]);
        archive.package(PACKAGES, "libiconv-1.17", &[]);
        let iconv = "converters/libiconv:libiconv-*:libiconv-1.17";
        archive.package(PACKAGES, "gettext-runtime-0.22.5", &[iconv]);
        let gettext = "devel/gettext,-runtime:gettext-runtime->=0.21:gettext-runtime-0.22.5";
        archive.package(PACKAGES, "vim-9.1.0-no_x11", &[gettext]);
        archive.lists(PACKAGES);
        archive.write("7.8/amd64/base78.tgz", b"a set is no package");
        archive.write("7.8/amd64/bsd", b"kernel");
        archive.lists("7.8/amd64");
        archive.write("7.8/ANNOUNCEMENT", b"a file that no list names");
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

    fn package(&self, folder: &str, name: &str, depends: &[&str]) {
        self.package_named(folder, name, name, depends);
    }

    fn package_named(&self, folder: &str, file: &str, name: &str, depends: &[&str]) {
        let mut list = format!("@name {name}\n@comment built by a test\n");
        for depend in depends {
            list += &format!("@depend {depend}\n");
        }
        self.write(
            &format!("{folder}/{file}.tgz"),
            &tgz("+CONTENTS", list.as_bytes()),
        );
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| ![SHA256, SHA256_SIG, INDEX].contains(&name.as_str()))
            .collect();
        names.sort();
        names
    }

    /// Makes the lists of a folder anew, from what is there.
    fn lists(&self, folder: &str) {
        let names = self.names(folder);
        let line = |name: &String| {
            let content = std::fs::read(self.path(folder).join(name)).unwrap();
            format!("SHA256 ({name}) = {}\n", Digest::of(&content))
        };
        let sums: String = names.iter().map(line).collect();
        self.write(&format!("{folder}/{SHA256}"), sums.as_bytes());
        self.write(&format!("{folder}/{SHA256_SIG}"), &sign(sums.as_bytes()));
        let row =
            |name: &String| format!("-rw-r--r--  1 1001  0  12 Mar 20 22:10:02 2024 {name}\n");
        let index: String = names.iter().map(row).collect();
        let index = format!("total 8\n{index}{}", row(&SHA256.to_owned()));
        self.write(&format!("{folder}/{INDEX}"), index.as_bytes());
    }

    fn root(&self) -> Digest {
        let tree = Tree::open(&self.path("")).unwrap();
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
            layout: Layout::OpenBsd,
            needs_suites: true,
            allow_expired: false,
            deps: false,
            openpgp_keyring: None,
            signify_keys: Vec::new(),
            now: Timestamp::from_seconds(0),
            before: None,
        }
    }

    /// Rules with our key configured.
    fn strict(&self) -> Rules {
        let key = self.dir.path().join("key.pub");
        std::fs::write(&key, signify::print_public(&secret(1).public(), "test")).unwrap();
        Rules {
            signify_keys: vec![key],
            ..self.rules()
        }
    }

    fn full_check(&self, rules: &Rules, extent: Extent<'_>) -> Vec<Fault> {
        let root = self.root();
        let tree = Tree::open(&self.path("")).unwrap();
        let view = View {
            workspace: &self.workspace,
            root: &root,
        };
        let mut faults = Faults::default();
        super::super::validate(rules, Some(&tree), view, extent, &mut faults).unwrap();
        faults.list().to_vec()
    }

    fn check_with(&self, rules: &Rules, extent: Extent<'_>) -> Vec<(String, Rule)> {
        let faults = self.full_check(rules, extent).into_iter();
        faults.map(|fault| (fault.path, fault.what)).collect()
    }

    fn check(&self) -> Vec<(String, Rule)> {
        self.check_with(&self.rules(), Extent::Whole)
    }

    fn since(&self, base: &Digest) -> Vec<(String, Rule)> {
        self.check_with(&self.rules(), Extent::Since(base))
    }
}

fn tgz(name: &str, bytes: &[u8]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed(KeyNumber([number; 8]), &[number; 32])
}

fn sign(message: &[u8]) -> Vec<u8> {
    signify::print_embedded(&secret(1).sign(message), message, "test")
}

fn fault(folder: &str, name: &str, what: Rule) -> (String, Rule) {
    (format!("{folder}/{name}"), what)
}

#[test]
fn a_good_tree_has_no_fault() {
    let archive = Archive::new();
    assert_eq!(archive.check(), []);
    assert_eq!(archive.check_with(&archive.strict(), Extent::Whole), []);
    // The signed list alone will do.
    archive.remove(&format!("{PACKAGES}/{SHA256}"));
    let index = archive.names(PACKAGES).join("\n");
    archive.write(&format!("{PACKAGES}/{INDEX}"), index.as_bytes());
    assert_eq!(archive.check(), []);
    // Source code has such names too.
    archive.write("distfiles/vim-9.1.0.tgz", b"no package");
    assert_eq!(archive.check(), []);
    // Patches of the base system are no packages either.
    archive.write(
        "syspatch/7.8/amd64/syspatch78-001_expat.tgz",
        &tgz("usr/lib/x", b"x"),
    );
    archive.write("7.8/amd64/site78-1.tgz", &tgz("etc/x", b"x"));
    archive.lists("syspatch/7.8/amd64");
    archive.lists("7.8/amd64");
    assert_eq!(archive.check(), []);
    // The folder itself may be the tree.
    let top = Archive::new();
    for name in std::fs::read_dir(top.path(PACKAGES)).unwrap() {
        let path = name.unwrap().path();
        std::fs::rename(&path, top.path(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    std::fs::remove_dir_all(top.path("7.8")).unwrap();
    assert_eq!(top.check(), []);
    top.remove("libiconv-1.17.tgz");
    assert_eq!(top.check().len(), 3, "both lists and a dependency");
}

#[test]
fn every_fault_of_the_lists_is_named() {
    let archive = Archive::new();
    archive.package(PACKAGES, "quirks-7.14", &["x/x:libiconv-*:libiconv-1.17"]);
    archive.package(PACKAGES, "new-1.0", &[]);
    archive.remove(&format!("{PACKAGES}/vim-9.1.0-no_x11.tgz"));
    archive.write("7.8/amd64/bsd", b"another kernel");
    let digest = Digest::of(b"x");
    let sums = format!("{PACKAGES}/{SHA256}");
    let mut text = std::fs::read_to_string(archive.path(&sums)).unwrap();
    text += &format!("SHA256 (../../../etc/passwd) = {digest}\n");
    archive.write(&sums, text.as_bytes());
    let expected = [
        fault("7.8/amd64", "bsd", Rule::Digest),
        fault(PACKAGES, SHA256_SIG, Rule::Disagree),
        fault(PACKAGES, "quirks-7.14.tgz", Rule::Digest),
        fault(PACKAGES, "vim-9.1.0-no_x11.tgz", Rule::Missing),
        fault(PACKAGES, SHA256, Rule::Path),
        fault(PACKAGES, "new-1.0.tgz", Rule::Disagree),
        fault(PACKAGES, INDEX, Rule::Disagree),
        fault(PACKAGES, "new-1.0.tgz", Rule::Disagree),
    ];
    assert_eq!(archive.check(), expected);
    archive.lists(PACKAGES);
    archive.lists("7.8/amd64");
    assert_eq!(archive.check(), []);
    archive.write(&sums, b"SHA256 (a) = 00\n");
    let expected = [
        fault(PACKAGES, SHA256_SIG, Rule::Disagree),
        fault(PACKAGES, SHA256, Rule::Malformed),
    ];
    assert_eq!(archive.check(), expected);
}

#[test]
fn packages_are_what_they_are_called_and_have_what_they_need() {
    let archive = Archive::new();
    archive.package_named(PACKAGES, "a-2", "a-1", &[]);
    archive.package(
        PACKAGES,
        "b-1",
        &["x/a:a->=3|c-*:a-3", "x/y:quirks-*:quirks-1", "z/z:z-*:z-1"],
    );
    archive.write(&format!("{PACKAGES}/c.1-1.tgz"), b"no gzip");
    archive.write(
        &format!("{PACKAGES}/d-1.tgz"),
        &tgz("share/d", b"@name d-1\n"),
    );
    archive.write(
        &format!("{PACKAGES}/e-1.tgz"),
        &tgz("+CONTENTS", b"@depend e:e:e\n"),
    );
    archive.lists(PACKAGES);
    let found = archive.full_check(&archive.rules(), Extent::Whole);
    let brief: Vec<_> = found.iter().map(|f| (f.path.clone(), f.what)).collect();
    let expected = [
        fault(PACKAGES, "a-2.tgz", Rule::Disagree),
        fault(PACKAGES, "b-1.tgz", Rule::Dependency),
        fault(PACKAGES, "b-1.tgz", Rule::Dependency),
        fault(PACKAGES, "c.1-1.tgz", Rule::Malformed),
        fault(PACKAGES, "d-1.tgz", Rule::Malformed),
        fault(PACKAGES, "e-1.tgz", Rule::Malformed),
    ];
    assert_eq!(brief, expected);
    assert!(
        found[1].expected.contains("x/a:a->=3|c-*:a-3"),
        "{}",
        found[1]
    );
    assert!(found[4].found.contains("share/d"), "{}", found[4]);
}

#[test]
fn stable_packages_need_those_of_the_release_too() {
    let archive = Archive::new();
    let iconv = "converters/libiconv:libiconv-*:libiconv-1.17";
    archive.package(STABLE, "gettext-runtime-0.22.5p1", &[iconv]);
    archive.lists(STABLE);
    assert_eq!(archive.check(), []);
    let base = archive.root();
    archive.remove(&format!("{PACKAGES}/libiconv-1.17.tgz"));
    archive.package(PACKAGES, "gettext-runtime-0.22.5", &[]);
    archive.lists(PACKAGES);
    let expected = [fault(
        STABLE,
        "gettext-runtime-0.22.5p1.tgz",
        Rule::Dependency,
    )];
    assert_eq!(archive.check(), expected);
    assert_eq!(
        archive.since(&base),
        expected,
        "its own folder did not change"
    );
    // But not the other way round: pkg_add may be told of the release alone.
    archive.package(STABLE, "only-1", &[]);
    archive.lists(STABLE);
    archive.package(PACKAGES, "needs-1", &["x/x:only-*:only-1"]);
    archive.lists(PACKAGES);
    assert!(
        archive
            .check()
            .contains(&fault(PACKAGES, "needs-1.tgz", Rule::Dependency))
    );
}

#[test]
fn signatures_are_checked_with_the_configured_keys() {
    let archive = Archive::new();
    let signed = format!("{PACKAGES}/{SHA256_SIG}");
    let good = std::fs::read(archive.path(&signed)).unwrap();
    let strict = archive.strict();
    let found = |bytes: &[u8]| {
        archive.write(&signed, bytes);
        (archive.check(), archive.check_with(&strict, Extent::Whole))
    };
    let bad = || vec![fault(PACKAGES, SHA256_SIG, Rule::Signature)];
    let sums = std::fs::read(archive.path(&format!("{PACKAGES}/{SHA256}"))).unwrap();
    let other = signify::print_embedded(&secret(2).sign(&sums), &sums, "another key");
    assert_eq!(found(&other), (vec![], bad()), "by another key");
    let forged = signify::print_embedded(&secret(1).sign(b"other"), &sums, "forged");
    assert_eq!(found(&forged), (vec![], bad()), "of something else");
    assert_eq!(found(&sums), (bad(), bad()), "no signature at all");
    let longer = [&sums[..], b"SHA256 (x) = 00\n"].concat();
    let disagree = vec![fault(PACKAGES, SHA256_SIG, Rule::Disagree)];
    assert_eq!(found(&sign(&longer)), (disagree.clone(), disagree.clone()));
    assert_eq!(
        found(&sign(&sums[..sums.len() - 1])),
        (disagree.clone(), disagree)
    );
    assert_eq!(found(&good), (vec![], vec![]));
    archive.remove(&signed);
    assert_eq!(archive.check(), []);
    assert_eq!(archive.check_with(&strict, Extent::Whole), bad(), "none");
    let missing = Rules {
        signify_keys: vec![archive.dir.path().join("nowhere.pub")],
        ..archive.rules()
    };
    let Err(error) = signed::keys(&missing) else {
        panic!("a key that is not there");
    };
    assert_eq!(error.exit_code(), 64);
    assert!(error.to_string().contains("nowhere.pub"), "{error}");
}

#[test]
fn packages_are_not_published_unlisted() {
    let archive = Archive::new();
    let base = archive.root();
    let strict = archive.strict();
    // Beside a folder that is as it should be.
    for folder in ["7.8/packages/arm64", "mine/all"] {
        archive.package(folder, "a-1", &[]);
        let missing = fault(folder, SHA256, Rule::Missing);
        let unsigned = fault(folder, SHA256_SIG, Rule::Signature);
        assert_eq!(archive.check(), std::slice::from_ref(&missing));
        assert_eq!(archive.since(&base), std::slice::from_ref(&missing));
        let found = archive.check_with(&strict, Extent::Whole);
        assert_eq!(found, [unsigned.clone(), missing.clone()]);
        // An index is no list of digests.
        archive.write(&format!("{folder}/{INDEX}"), b"a-1.tgz\n");
        assert_eq!(archive.check(), [missing]);
        archive.lists(folder);
        archive.remove(&format!("{folder}/{SHA256_SIG}"));
        assert_eq!(archive.check(), []);
        assert_eq!(archive.check_with(&strict, Extent::Whole), [unsigned]);
        archive.lists(folder);
        assert_eq!(archive.check_with(&strict, Extent::Whole), []);
    }
    // In a folder of packages a broken one is no stray file.
    archive.write("7.8/packages/i386/a-1.tgz", b"no gzip");
    let expected = [
        fault("7.8/packages/i386", SHA256, Rule::Missing),
        fault("7.8/packages/i386", "a-1.tgz", Rule::Malformed),
    ];
    assert_eq!(archive.check(), expected);
}

#[test]
fn a_signed_list_names_each_set() {
    let archive = Archive::new();
    archive.write("7.8/amd64/site78.tgz", b"an operator's own");
    archive.write("7.8/amd64/INSTALL.amd64", b"not vouched for");
    let strict = archive.strict();
    assert_eq!(archive.check_with(&strict, Extent::Whole), []);
    archive.write("7.8/amd64/xbase78.tgz", b"slipped in");
    let found = archive.check_with(&strict, Extent::Whole);
    assert_eq!(found, [fault("7.8/amd64", "xbase78.tgz", Rule::Disagree)]);
    archive.lists("7.8/amd64");
    assert_eq!(archive.check_with(&strict, Extent::Whole), []);
}

#[test]
fn packages_behind_a_linked_folder_count() {
    let archive = Archive::new();
    let iconv = "converters/libiconv:libiconv-*:libiconv-1.17";
    archive.package(STABLE, "gettext-runtime-0.22.5p1", &[iconv]);
    archive.lists(STABLE);
    let moved = archive.path("7.8/frozen");
    std::fs::rename(archive.path("7.8/packages"), moved).unwrap();
    std::os::unix::fs::symlink("frozen", archive.path("7.8/packages")).unwrap();
    assert_eq!(archive.check(), []);
    let base = archive.root();
    archive.remove("7.8/frozen/amd64/libiconv-1.17.tgz");
    archive.package("7.8/frozen/amd64", "gettext-runtime-0.22.5", &[]);
    archive.lists("7.8/frozen/amd64");
    let expected = [fault(
        STABLE,
        "gettext-runtime-0.22.5p1.tgz",
        Rule::Dependency,
    )];
    assert_eq!(archive.check(), expected);
    assert_eq!(archive.since(&base), expected, "it changed behind the link");
}

#[test]
fn a_list_of_many_packages_may_be_signed() {
    let archive = Archive::new();
    let digest = Digest::of(b"x");
    archive.write("big/x", b"x");
    let sums = format!("SHA256 (x) = {digest}\n").repeat(12_000);
    assert!(sums.len() > mirrorlog_core::limits::REPORT_MAX_BYTES);
    archive.write("big/SHA256", sums.as_bytes());
    archive.write("big/SHA256.sig", &sign(sums.as_bytes()));
    assert_eq!(archive.check_with(&archive.strict(), Extent::Whole), []);
}

#[test]
fn a_tree_without_lists_is_no_archive() {
    let archive = Archive::new();
    std::fs::remove_dir_all(archive.path("7.8/packages")).unwrap();
    std::fs::remove_dir_all(archive.path("7.8/amd64")).unwrap();
    assert_eq!(archive.check(), [(".".to_owned(), Rule::Missing)]);
    let rest = Rules {
        needs_suites: false,
        ..archive.rules()
    };
    assert_eq!(archive.check_with(&rest, Extent::Whole), []);
}

#[test]
fn after_a_change_the_same_faults_are_found() {
    let archive = Archive::new();
    let base = archive.root();
    assert_eq!(archive.since(&base), []);
    // Content of a file that a list names, and a package that nobody lists.
    archive.write("7.8/amd64/bsd", b"another kernel");
    archive.package(PACKAGES, "a-1", &["x/x:nothing-*:nothing-1"]);
    assert_eq!(archive.since(&base).len(), 4);
    assert_eq!(archive.since(&base), archive.check());
    archive.remove(&format!("{PACKAGES}/a-1.tgz"));
    archive.lists("7.8/amd64");
    assert_eq!(archive.since(&base), []);
    // A package that others need goes; they did not change.
    archive.remove(&format!("{PACKAGES}/libiconv-1.17.tgz"));
    archive.lists(PACKAGES);
    let expected = [fault(
        PACKAGES,
        "gettext-runtime-0.22.5.tgz",
        Rule::Dependency,
    )];
    assert_eq!(archive.since(&base), expected);
    assert_eq!(archive.check(), expected);
    // A newer one takes its place, which will do here, and not for vim.
    archive.package(PACKAGES, "libiconv-1.18", &[]);
    archive.remove(&format!("{PACKAGES}/gettext-runtime-0.22.5.tgz"));
    archive.package(
        PACKAGES,
        "gettext-runtime-0.20",
        &["converters/libiconv:libiconv-*:libiconv-1.17"],
    );
    archive.lists(PACKAGES);
    let expected = [fault(PACKAGES, "vim-9.1.0-no_x11.tgz", Rule::Dependency)];
    assert_eq!(archive.since(&base), expected);
    assert_eq!(archive.check(), expected);
}

#[test]
fn only_what_differs_is_read_again() {
    let archive = Archive::new();
    // No package: found wherever its content is looked at.
    let broken = format!("{PACKAGES}/broken-1.tgz");
    archive.write(&broken, b"no gzip");
    archive.lists(PACKAGES);
    let found = [fault(PACKAGES, "broken-1.tgz", Rule::Malformed)];
    assert_eq!(archive.check(), found);
    let base = archive.root();
    archive.package(PACKAGES, "new-1", &["x/x:quirks-*:quirks-7.14"]);
    archive.lists(PACKAGES);
    assert_eq!(archive.since(&base), [], "the broken one is as it was");
    archive.write(&broken, b"no gzip either");
    archive.lists(PACKAGES);
    assert_eq!(archive.since(&base), found);
    archive.write(&broken, b"no gzip");
    archive.remove(&format!("{PACKAGES}/quirks-7.14.tgz"));
    archive.package(PACKAGES, "new-1", &[]);
    archive.lists(PACKAGES);
    assert_eq!(
        archive.since(&base),
        found,
        "a package went, so all are read"
    );
}

#[test]
fn what_was_not_checked_before_is_read() {
    let archive = Archive::new();
    let folder = "7.8/packages/arm64";
    archive.package(folder, "a-1", &["x/x:nothing-*:nothing-1"]);
    let missing = fault(folder, SHA256, Rule::Missing);
    let unmet = fault(folder, "a-1.tgz", Rule::Dependency);
    assert_eq!(archive.check(), [missing, unmet], "no list");
    let base = archive.root();
    archive.lists(folder);
    let expected = [fault(folder, "a-1.tgz", Rule::Dependency)];
    assert_eq!(archive.since(&base), expected);
    // A link may lead to what changed elsewhere.
    archive.package(folder, "a-1", &[]);
    let link = archive.path("7.8/packages/i386/a-1.tgz");
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("../arm64/a-1.tgz", link).unwrap();
    archive.lists("7.8/packages/i386");
    archive.lists(folder);
    assert_eq!(archive.check(), []);
    let base = archive.root();
    archive.package(folder, "a-1", &["x/x:nothing-*:nothing-1"]);
    archive.lists(folder);
    let expected = [
        fault(folder, "a-1.tgz", Rule::Dependency),
        fault("7.8/packages/i386", "a-1.tgz", Rule::Digest),
        fault("7.8/packages/i386", "a-1.tgz", Rule::Dependency),
    ];
    assert_eq!(archive.since(&base), expected);
    assert_eq!(archive.check(), expected);
}

#[test]
fn a_tree_is_recognised_by_its_packages() {
    let archive = Archive::new();
    let detected = || detect(&archive.path("")).unwrap();
    assert_eq!(detected(), Layout::OpenBsd);
    std::fs::remove_dir_all(archive.path("7.8/packages")).unwrap();
    assert_eq!(detected(), Layout::OpenBsd, "sets alone");
    archive.remove(&format!("7.8/amd64/{INDEX}"));
    assert_eq!(detected(), Layout::Plain);
    archive.write(
        "7.8/amd64/source-1.0.tgz",
        &tgz("source-1.0/README", b"no package"),
    );
    assert_eq!(
        detected(),
        Layout::Plain,
        "other archives have such names too"
    );
    archive.package("7.8/amd64", "source-1.0", &[]);
    assert_eq!(detected(), Layout::OpenBsd);
    archive.write("dists/t/Release", b"");
    assert_eq!(detected(), Layout::Debian);
    assert_eq!(
        detect(&archive.path("7.8/ANNOUNCEMENT")).unwrap(),
        Layout::Plain
    );
}
