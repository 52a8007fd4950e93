//! A Debian repository as archives make them: dpkg-deb, apt-ftparchive, gpg.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256, Sha512};
use tempfile::TempDir;

use crate::process::{run, tool};
use crate::tree::files;

const INDEX: &str = "main/binary-amd64";
/// Time between two builds of the indexes: apt goes by their dates.
const BETWEEN: Duration = Duration::from_secs(600);

/// A repository with a key of its own. A suite names the package files that belong to it.
#[derive(Debug)]
pub struct DebianRepo {
    dir: TempDir,
    suites: BTreeMap<String, BTreeSet<String>>,
    built: SystemTime,
    /// Whether indexes have names by digest.
    by_hash: bool,
}

impl DebianRepo {
    /// An empty repository.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("repo").tempdir().unwrap();
        for folder in ["tree", "gnupg"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path().join("gnupg"), private).unwrap();
        let built = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
        let repo = Self {
            dir,
            suites: BTreeMap::new(),
            built,
            by_hash: true,
        };
        let make = [
            "--passphrase",
            "",
            "--quick-generate-key",
            "a test",
            "ed25519",
            "sign",
            "never",
        ];
        run(repo.gpg().args(make));
        run(repo
            .gpg()
            .arg("--output")
            .arg(repo.keyring())
            .arg("--export"));
        repo
    }

    /// Build 1 of `bookworm`: four packages, by-hash, and `dists/stable` leading to it.
    pub fn bookworm() -> Self {
        let mut repo = Self::new();
        for (name, version) in [
            ("anvil", "1.0-1"),
            ("bellows", "2.1-3"),
            ("chisel", "0.9-1"),
        ] {
            repo.add("bookworm", name, version, "");
        }
        repo.add("bookworm", "forge", "1.0-1", "anvil (>= 1.0), bellows");
        let link = repo.tree().join("dists/stable");
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("bookworm", link).unwrap();
        repo.write();
        repo
    }

    /// Build 2: a newer `anvil` in place of the old one, `chisel` gone, `drill` new.
    pub fn upgrade(&mut self) {
        self.drop_package("bookworm", "anvil");
        self.drop_package("bookworm", "chisel");
        self.add("bookworm", "anvil", "1.1-1", "");
        self.add("bookworm", "drill", "3.0-1", "anvil (>= 1.1)");
        self.write();
    }

    /// What is published.
    pub fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// The public key for apt's `signed-by`.
    pub fn keyring(&self) -> PathBuf {
        self.dir.path().join("key.gpg")
    }

    /// gpg's folder, with the secret key.
    pub fn gnupg(&self) -> PathBuf {
        self.dir.path().join("gnupg")
    }

    /// A package's file.
    pub fn deb(&self, name: &str, version: &str) -> PathBuf {
        self.tree().join(Self::pool_path(name, version))
    }

    /// A folder for the apts that use it.
    pub(crate) fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Every file of the tree, by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.tree())
    }

    /// The pool's path of a package.
    pub fn pool_path(name: &str, version: &str) -> String {
        format!("pool/main/{}/{name}/{name}_{version}_all.deb", &name[..1])
    }

    /// From now on indexes have no names by digest, as tools make them that do not know these; the old ones go.
    pub fn without_by_hash(&mut self) {
        self.by_hash = false;
        let suites: Vec<String> = self.suites.keys().cloned().collect();
        for suite in suites {
            let folder = self.tree().join(format!("dists/{suite}/{INDEX}/by-hash"));
            if folder.exists() {
                std::fs::remove_dir_all(folder).unwrap();
            }
        }
        self.write();
    }

    /// Builds a package into the pool, and names it in a suite. Indexes are not touched.
    pub fn add(&mut self, suite: &str, name: &str, version: &str, depends: &str) {
        let path = Self::pool_path(name, version);
        let deb = self.tree().join(&path);
        if !deb.exists() {
            std::fs::create_dir_all(deb.parent().unwrap()).unwrap();
            self.build(&deb, name, version, depends);
        }
        self.suites
            .entry(suite.to_owned())
            .or_default()
            .insert(path);
    }

    fn build(&self, deb: &Path, name: &str, version: &str, depends: &str) {
        let root = self.dir.path().join("build").join(name).join(version);
        let doc = root.join("usr/share/doc").join(name);
        for folder in [&root.join("DEBIAN"), &doc] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let mut control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: A Test <test@example.org>\n"
        );
        if !depends.is_empty() {
            control.push_str(&format!("Depends: {depends}\n"));
        }
        control.push_str("Description: a tool of the smithy\n");
        std::fs::write(root.join("DEBIAN/control"), control).unwrap();
        std::fs::write(
            doc.join("copyright"),
            format!("{name} {version}\n").repeat(200),
        )
        .unwrap();
        run(tool("dpkg-deb")
            .args(["--build", "--root-owner-group"])
            .arg(&root)
            .arg(deb));
    }

    /// Takes a package out of a suite, and its file away when no suite names it.
    pub fn drop_package(&mut self, suite: &str, name: &str) {
        let folder = format!("pool/main/{}/{name}/", &name[..1]);
        self.suites
            .get_mut(suite)
            .unwrap()
            .retain(|path| !path.starts_with(&folder));
        let named: BTreeSet<&String> = self.suites.values().flatten().collect();
        for file in std::fs::read_dir(self.tree().join(&folder)).unwrap() {
            let file = file.unwrap().path();
            let path = file
                .strip_prefix(self.tree())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if !named.contains(&path) {
                std::fs::remove_file(file).unwrap();
            }
        }
    }

    /// Makes and signs the indexes of all suites. Returns the paths that were written.
    pub fn write(&mut self) -> Vec<String> {
        self.built += BETWEEN;
        let packages =
            String::from_utf8(run(self.ftparchive().args(["packages", "pool"]))).unwrap();
        let mut written = Vec::new();
        for (suite, named) in &self.suites {
            let stanzas = packages.split("\n\n").filter(|stanza| {
                let mut lines = stanza.lines();
                let file = lines.find_map(|line| line.strip_prefix("Filename: "));
                file.is_some_and(|file| named.contains(file))
            });
            let index: String = stanzas
                .map(|stanza| format!("{}\n\n", stanza.trim()))
                .collect();
            written.extend(self.write_suite(suite, index.as_bytes()));
        }
        written
    }

    fn write_suite(&self, suite: &str, packages: &[u8]) -> Vec<String> {
        let index = format!("dists/{suite}/{INDEX}");
        let plain = format!("{index}/Packages");
        self.write_file(&plain, packages);
        let packed = run(tool("xz").arg("--stdout").arg(self.tree().join(&plain)));
        let mut written = vec![format!("{index}/Packages.xz")];
        self.write_file(&written[0], &packed);
        for content in [packages, &packed].into_iter().filter(|_| self.by_hash) {
            let hashes = [
                ("SHA256", hex::encode(Sha256::digest(content))),
                ("SHA512", hex::encode(Sha512::digest(content))),
            ];
            for (kind, hash) in hashes {
                let path = format!("{index}/by-hash/{kind}/{hash}");
                self.write_file(&path, content);
                written.push(path);
            }
        }
        self.release(suite);
        written.push(plain);
        written.extend(["Release", "InRelease"].map(|name| format!("dists/{suite}/{name}")));
        written
    }

    /// Makes Release and InRelease of a suite anew, from what lies there.
    pub fn release(&self, suite: &str) {
        let folder = format!("dists/{suite}");
        let mut release = self.ftparchive();
        let fields = [
            ("Suite", if suite == "bookworm" { "stable" } else { suite }),
            ("Codename", suite),
            ("Components", "main"),
            ("Architectures", "amd64"),
            ("Acquire-By-Hash", if self.by_hash { "yes" } else { "no" }),
        ];
        for (name, value) in fields {
            release
                .arg("-o")
                .arg(format!("APT::FTPArchive::Release::{name}={value}"));
        }
        let text = String::from_utf8(run(release.args(["release", &folder]))).unwrap();
        // Old ones are listed too.
        let own = |line: &&str| {
            [" Release", " InRelease"]
                .iter()
                .any(|name| line.ends_with(name))
        };
        let lines: Vec<&str> = text.lines().filter(|line| !own(line)).collect();
        let text = lines.join("\n") + "\n";
        let unsigned = self.dir.path().join("Release");
        let signed = self.dir.path().join("InRelease");
        std::fs::write(&unsigned, &text).unwrap();
        std::fs::remove_file(&signed).ok();
        run(self
            .gpg()
            .arg("--output")
            .arg(&signed)
            .arg("--clearsign")
            .arg(&unsigned));
        self.write_file(&format!("{folder}/Release"), text.as_bytes());
        self.write_file(
            &format!("{folder}/InRelease"),
            &std::fs::read(signed).unwrap(),
        );
    }

    /// Writes a file with the date of this build; it appears whole.
    pub fn write_file(&self, path: &str, content: &[u8]) {
        let file = self.tree().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        // Whole at once, as archives do it.
        let new = self.dir.path().join("new");
        std::fs::write(&new, content).unwrap();
        self.date(&new);
        std::fs::rename(new, file).unwrap();
    }

    fn date(&self, file: &Path) {
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.set_modified(self.built).unwrap();
    }

    fn ftparchive(&self) -> Command {
        let mut command = tool("apt-ftparchive");
        command.current_dir(self.tree());
        command
    }

    fn gpg(&self) -> Command {
        let mut command = tool("gpg");
        command.arg("--homedir").arg(self.gnupg());
        command.args(["--batch", "--yes", "--quiet"]);
        command
    }
}

impl Default for DebianRepo {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for DebianRepo {
    /// Ends the agent that gpg left behind.
    fn drop(&mut self) {
        let mut end = Command::new("gpgconf");
        end.arg("--homedir").arg(self.gnupg());
        end.args(["--kill", "all"]).status().ok();
    }
}
