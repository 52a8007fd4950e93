//! Real apt, with folders of its own.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::DebianRepo;
use crate::process::{binary, run, tool};

/// An apt that knows one URL and one suite.
#[derive(Debug)]
pub struct Apt {
    root: PathBuf,
    /// Options beside the usual ones.
    options: Vec<String>,
}

impl Apt {
    /// `name` tells the apts of one repository apart.
    pub fn new(repo: &DebianRepo, name: &str, url: &str, suite: &str) -> Self {
        let root = repo.scratch().join("apt").join(name);
        let folders = [
            "etc/apt.conf.d",
            "etc/preferences.d",
            "state/lists/partial",
            "cache/archives/partial",
            "out",
        ];
        for folder in folders {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["status", "apt.conf"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        let keyring = repo.keyring();
        let line = format!(
            "deb [arch=amd64 signed-by={}] {url} {suite} main\n",
            keyring.display()
        );
        std::fs::write(root.join("etc/sources.list"), line).unwrap();
        let options = Vec::new();
        Self { root, options }
    }

    /// The same with mirrorlog's own method, as it is installed: a link beside apt's methods.
    pub fn with_method(repo: &DebianRepo, name: &str, url: &str, suite: &str, key: &Path) -> Self {
        let mut apt = Self::new(repo, name, url, suite);
        let methods = apt.root.join("methods");
        std::fs::create_dir_all(&methods).unwrap();
        for method in std::fs::read_dir("/usr/lib/apt/methods").unwrap() {
            let method = method.unwrap();
            let link = methods.join(method.file_name());
            if method.file_name() != "mirrorlog" && !link.exists() {
                symlink(method.path(), link).unwrap();
            }
        }
        let link = methods.join("mirrorlog");
        if !link.exists() {
            symlink(binary(), link).unwrap();
        }
        apt.set(&format!("Dir::Bin::methods={}", methods.display()));
        apt.set(&format!("Acquire::mirrorlog::Key={}", key.display()));
        apt.set("Acquire::mirrorlog::Country=NZ");
        apt
    }

    /// Sets one more option, such as `Acquire::Retries=3`; the last one wins.
    pub fn set(&mut self, option: &str) {
        self.options.push(option.to_owned());
    }

    /// A folder or file of this apt's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// An apt that reads what lies in [`Apt::parts`].
    pub fn with_parts(repo: &DebianRepo, name: &str) -> Self {
        let apt = Self::new(repo, name, "http://nowhere.invalid", "nothing");
        std::fs::write(apt.root.join("etc/sources.list"), "").unwrap();
        std::fs::create_dir_all(apt.parts()).unwrap();
        apt
    }

    /// Folder of sources files.
    pub fn parts(&self) -> PathBuf {
        self.root.join("etc/sources.list.d")
    }

    /// `apt-get update`, with what it said; a warning fails the test too, for everything must be there at once.
    pub fn update(&self) -> String {
        let output = self.get(&["update"]).output().unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let clean = !said.lines().any(|line| {
            ["E:", "W:", "Err:"]
                .iter()
                .any(|word| line.starts_with(word))
        });
        assert!(
            output.status.success() && clean,
            "apt-get update failed: {said}"
        );
        said
    }

    /// `apt-get download`; gives the package's file.
    pub fn download(&self, package: &str) -> Vec<u8> {
        let out = self.root.join("out");
        std::fs::remove_dir_all(&out).unwrap();
        std::fs::create_dir(&out).unwrap();
        run(&mut self.get(&["download", package]));
        let file = std::fs::read_dir(&out).unwrap().next().unwrap().unwrap();
        std::fs::read(file.path()).unwrap()
    }

    /// What apt would install, dependencies included: `name version` each.
    pub fn would_install(&self, package: &str) -> Vec<String> {
        let said = run(&mut self.get(&["install", "--simulate", package]));
        let said = String::from_utf8(said).unwrap();
        let lines = said.lines().filter_map(|line| line.strip_prefix("Inst "));
        let named = lines.map(|line| {
            line.replace('(', "")
                .split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        });
        named.collect()
    }

    /// `apt-get` with these words, as it ends: for what may fail.
    pub fn try_get(&self, words: &[&str]) -> std::process::Output {
        self.get(words).output().unwrap()
    }

    /// `apt-get` with these words, to be changed and run.
    pub fn get(&self, words: &[&str]) -> Command {
        let at = |name: &str| self.root.join(name).display().to_string();
        let parts = match self.parts().is_dir() {
            true => at("etc/sources.list.d"),
            false => "/dev/null".to_owned(),
        };
        let options = [
            format!("Dir::Etc={}", at("etc")),
            format!("Dir::State={}", at("state")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Etc::sourceparts={parts}"),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=0".to_owned(),
            "Acquire::Check-Valid-Until=true".to_owned(),
            "Acquire::Check-Date=true".to_owned(),
            "Acquire::http::Proxy=DIRECT".to_owned(),
        ];
        self.command("apt-get", options.iter().chain(&self.options), words)
    }

    /// `apt-helper` with these words.
    pub fn helper(&self, words: &[&str]) -> Command {
        // Its place on Debian; it is in no PATH.
        self.command("/usr/lib/apt/apt-helper", &self.options, words)
    }

    fn command<'a>(
        &self,
        program: &str,
        options: impl IntoIterator<Item = &'a String>,
        words: &[&str],
    ) -> Command {
        let mut command = if program.contains('/') {
            Command::new(program)
        } else {
            tool(program)
        };
        for option in options {
            command.arg("-o").arg(option);
        }
        // No settings of the machine's.
        command
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("LC_ALL", "C");
        command
            .arg("-q")
            .args(words)
            .current_dir(self.root.join("out"));
        command
    }
}
