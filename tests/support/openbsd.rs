//! A tree of OpenBSD packages as archives make them: tar, gzip, signify.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use crate::process::{run, tool};
use crate::tree::{files, sha256};

/// The folder of the packages.
const PACKAGES: &str = "7.8/packages/amd64";
/// What is said of the packages, and is none.
const LISTS: [&str; 3] = ["SHA256", "SHA256.sig", "index.txt"];

/// Packages of one architecture, with a key of their own.
#[derive(Debug)]
pub struct OpenBsdRepo {
    dir: TempDir,
}

impl OpenBsdRepo {
    /// Six packages that need each other, one of them signed itself, and their lists.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bsd").tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tree").join(PACKAGES)).unwrap();
        let repo = Self { dir };
        run(tool("signify-openbsd")
            .args(["-G", "-n", "-c", "a test", "-p"])
            .arg(repo.key())
            .arg("-s")
            .arg(repo.secret()));
        repo.add("quirks-7.14", &[]);
        repo.add("libiconv-1.17", &[]);
        let iconv = "converters/libiconv:libiconv-*:libiconv-1.17";
        repo.add("gettext-runtime-0.22.5", &[iconv]);
        repo.add("gtk+3-3.24.41", &[iconv]);
        let gettext = "devel/gettext,-runtime:gettext-runtime->=0.21:gettext-runtime-0.22.5";
        repo.add("vim-9.1.0-no_x11", &[gettext]);
        repo.add(
            "vim-9.1.0-gtk3",
            &[gettext, "x11/gtk+3,-main:gtk+3-*:gtk+3-3.24.41"],
        );
        repo.sign_package("quirks-7.14");
        repo.write_lists();
        repo
    }

    /// What is published.
    pub fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// The public key, as signify wrote it.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("test.pub")
    }

    fn secret(&self) -> PathBuf {
        self.dir.path().join("test.sec")
    }

    /// Every file of the tree, by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.tree())
    }

    /// The tree's path of a file beside the packages.
    pub fn at(name: &str) -> String {
        format!("{PACKAGES}/{name}")
    }

    /// Packs a package, in two gzip members as pkg_create does. Lists are not touched.
    pub fn add(&self, name: &str, depends: &[&str]) {
        let build = self.dir.path().join("build").join(name);
        std::fs::create_dir_all(build.join("share")).unwrap();
        let mut list = format!("@name {name}\n@version 12\n@comment pkgpath=a/test\n");
        for depend in depends {
            list.push_str(&format!("@depend {depend}\n"));
        }
        list.push_str("+DESC\n@cwd /usr/local\nshare/doc\n");
        std::fs::write(build.join("+CONTENTS"), list).unwrap();
        std::fs::write(build.join("+DESC"), "a test\n").unwrap();
        std::fs::write(build.join("share/doc"), name.repeat(100)).unwrap();
        let tar = |files: &[&str]| {
            let mut tar = tool("tar");
            tar.args(["--format=ustar", "--blocking-factor=1", "-cf", "-", "-C"]);
            run(tar.arg(&build).args(files))
        };
        // The end of a tar, two blocks of zeros, belongs behind the last file only.
        let mut first = tar(&["+CONTENTS"]);
        first.truncate(first.len() - 1024);
        let rest = tar(&["+DESC", "share/doc"]);
        let packed = [gzip(&build, &first), gzip(&build, &rest)].concat();
        self.write(&format!("{name}.tgz"), &packed);
    }

    /// Signs a package itself, as `pkg_sign` does.
    fn sign_package(&self, name: &str) {
        let file = self.tree().join(Self::at(&format!("{name}.tgz")));
        let signed = self.dir.path().join("signed.tgz");
        let mut signify = tool("signify-openbsd");
        signify.args(["-S", "-z", "-s"]).arg(self.secret());
        run(signify.arg("-m").arg(&file).arg("-x").arg(&signed));
        std::fs::rename(signed, file).unwrap();
    }

    /// Writes a file beside the packages.
    pub fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.tree().join(Self::at(name)), content).unwrap();
    }

    /// Takes a file beside the packages, or a package, away. Lists are not touched.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.tree().join(Self::at(name))).unwrap();
    }

    /// Makes SHA256, SHA256.sig and index.txt anew, from what lies there. Returns their paths.
    pub fn write_lists(&self) -> Vec<String> {
        let folder = self.tree().join(PACKAGES);
        let packages = files(&folder);
        let packages = packages
            .iter()
            .filter(|(name, _)| !LISTS.contains(&name.as_str()));
        let line = |(name, content): (&String, &Vec<u8>)| {
            format!("SHA256 ({name}) = {}\n", sha256(content))
        };
        let sums: String = packages.map(line).collect();
        self.write("SHA256", sums.as_bytes());
        self.sign();
        std::fs::remove_file(folder.join("index.txt")).ok();
        let index = run(tool("ls").env("LC_ALL", "C").arg("-l").arg(&folder));
        self.write("index.txt", &index);
        LISTS.map(Self::at).to_vec()
    }

    /// Signs SHA256 as it is.
    fn sign(&self) {
        let [sums, signed] = ["SHA256", "SHA256.sig"].map(|name| self.tree().join(Self::at(name)));
        let mut signify = tool("signify-openbsd");
        signify.args(["-S", "-e", "-s"]).arg(self.secret());
        run(signify.arg("-m").arg(sums).arg("-x").arg(signed));
    }
}

impl Default for OpenBsdRepo {
    fn default() -> Self {
        Self::new()
    }
}

fn gzip(scratch: &Path, bytes: &[u8]) -> Vec<u8> {
    let file = scratch.join("member");
    std::fs::write(&file, bytes).unwrap();
    run(tool("gzip").arg("--stdout").arg(file).stderr(Stdio::null()))
}
