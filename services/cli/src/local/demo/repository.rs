//! A Debian repository: apt-ftparchive indexes it, gpg signs it, by-hash included.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use mirrorlog_core::id::Digest;
use tokio::process::Command;

use crate::failure::{ABSENT, Failure, IO, OrExit as _};

const SUITE: &str = "dists/demo";
const INDEX: &str = "dists/demo/main/binary-amd64";

pub(super) struct Repository {
    work: PathBuf,
    tree: PathBuf,
    gnupg: PathBuf,
}

/// The package of a `.deb`, by its file name.
pub(super) fn package_of(deb: &Path) -> String {
    let name = deb.file_name().unwrap_or_default().to_string_lossy();
    name.split('_').next().unwrap_or_default().to_owned()
}

impl Repository {
    pub(super) fn new(work: &Path, tree: &Path) -> Result<Self, Failure> {
        let gnupg = work.join("gnupg");
        std::fs::create_dir_all(&gnupg).or_exit(IO)?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&gnupg, private).or_exit(IO)?;
        std::fs::create_dir_all(tree.join(INDEX)).or_exit(IO)?;
        Ok(Self {
            work: work.to_owned(),
            tree: tree.to_owned(),
            gnupg,
        })
    }

    pub(super) fn tree(&self) -> &Path {
        &self.tree
    }

    pub(super) fn work(&self) -> &Path {
        &self.work
    }

    /// The public key for apt's `signed-by`.
    pub(super) fn keyring(&self) -> PathBuf {
        self.work.join("demo.gpg")
    }

    /// Puts packages into the pool.
    pub(super) fn add(&self, debs: &[PathBuf]) -> Result<(), Failure> {
        for deb in debs {
            let package = package_of(deb);
            let pool = self
                .tree
                .join("pool/main")
                .join(&package[..1])
                .join(&package);
            std::fs::create_dir_all(&pool).or_exit(IO)?;
            std::fs::copy(deb, pool.join(deb.file_name().unwrap_or_default())).or_exit(IO)?;
        }
        Ok(())
    }

    /// Puts a package into the pool once more, as if it were a fix. Returns its path in the tree.
    pub(super) fn rename_as_fix(&self, deb: &Path) -> Result<String, Failure> {
        let package = package_of(deb);
        let path = format!("pool/main/{}/{package}/{package}_fix.deb", &package[..1]);
        std::fs::copy(deb, self.tree.join(&path)).or_exit(IO)?;
        Ok(path)
    }

    pub(super) fn some_deb(&self) -> Result<PathBuf, Failure> {
        let mut folders = vec![self.tree.join("pool")];
        while let Some(folder) = folders.pop() {
            for file in std::fs::read_dir(folder).or_exit(IO)? {
                let path = file.or_exit(IO)?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "deb") {
                    return Ok(path);
                }
            }
        }
        Err(Failure::text(ABSENT, "the pool has no package"))
    }

    pub(super) fn write(&self, path: &str, content: &[u8]) -> Result<(), Failure> {
        let file = self.tree.join(path);
        std::fs::create_dir_all(file.parent().unwrap_or(&self.tree)).or_exit(IO)?;
        std::fs::write(file, content).or_exit(IO)
    }

    pub(super) fn remove(&self, path: &str) -> Result<(), Failure> {
        std::fs::remove_file(self.tree.join(path)).or_exit(IO)
    }

    /// A file that lists paths for `--changed`.
    pub(super) fn list(&self, paths: &[String]) -> Result<String, Failure> {
        let file = self.work.join("changed.txt");
        std::fs::write(&file, paths.join("\n")).or_exit(IO)?;
        Ok(file.to_string_lossy().into_owned())
    }

    /// Makes Packages, by-hash, Release and InRelease anew. Returns the paths that changed.
    pub(super) async fn index(&self) -> Result<Vec<String>, Failure> {
        let packages = self.tool("apt-ftparchive", &["packages", "pool"]).await?;
        let mut changed = Vec::new();
        let xz = self.compress(&packages).await?;
        for (name, content) in [("Packages", &packages), ("Packages.xz", &xz)] {
            let path = format!("{INDEX}/{name}");
            self.write(&path, content)?;
            let by_hash = format!("{INDEX}/by-hash/SHA256/{}", Digest::of(content));
            self.write(&by_hash, content)?;
            changed.extend([path, by_hash]);
        }
        let options = [
            "-o",
            "APT::FTPArchive::Release::Suite=demo",
            "-o",
            "APT::FTPArchive::Release::Codename=demo",
            "-o",
            "APT::FTPArchive::Release::Components=main",
            "-o",
            "APT::FTPArchive::Release::Architectures=amd64",
            "-o",
            "APT::FTPArchive::Release::Acquire-By-Hash=yes",
            "-o",
            "APT::FTPArchive::MD5=no",
            "-o",
            "APT::FTPArchive::SHA1=no",
            "-o",
            "APT::FTPArchive::SHA512=no",
            "release",
            SUITE,
        ];
        let release = self.tool("apt-ftparchive", &options).await?;
        let path = format!("{SUITE}/Release");
        self.write(&path, &release)?;
        changed.push(path);
        changed.push(self.sign().await?);
        Ok(changed)
    }

    async fn compress(&self, content: &[u8]) -> Result<Vec<u8>, Failure> {
        let file = self.work.join("Packages");
        std::fs::write(&file, content).or_exit(IO)?;
        self.tool("xz", &["--compress", "--stdout", "../Packages"])
            .await
    }

    async fn sign(&self) -> Result<String, Failure> {
        let home = self.gnupg.to_string_lossy().into_owned();
        let base = ["--homedir", &home, "--batch", "--yes", "--quiet"];
        if !self.keyring().exists() {
            let make = [
                "--passphrase",
                "",
                "--quick-generate-key",
                "mirrorlog demo",
                "ed25519",
                "sign",
                "never",
            ];
            self.tool("gpg", &[&base[..], &make].concat()).await?;
            let keyring = self.keyring().to_string_lossy().into_owned();
            self.tool(
                "gpg",
                &[&base[..], &["--output", &keyring, "--export"]].concat(),
            )
            .await?;
        }
        let path = format!("{SUITE}/InRelease");
        let release = format!("{SUITE}/Release");
        self.tool(
            "gpg",
            &[&base[..], &["--output", &path, "--clearsign", &release]].concat(),
        )
        .await?;
        Ok(path)
    }

    async fn tool(&self, program: &str, args: &[&str]) -> Result<Vec<u8>, Failure> {
        let ran = Command::new(program)
            .args(args)
            .current_dir(&self.tree)
            .stdin(Stdio::null())
            .output()
            .await;
        let ran = ran.map_err(|error| {
            Failure::text(
                ABSENT,
                format!("{program} does not run ({error}): run deploy/setup"),
            )
        })?;
        if ran.status.success() {
            return Ok(ran.stdout);
        }
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        Err(Failure::text(IO, format!("{program} failed: {said}")))
    }

    /// Ends the agent that gpg left behind.
    pub(super) fn close(self) {
        let ended = std::process::Command::new("gpgconf")
            .arg("--homedir")
            .arg(&self.gnupg)
            .args(["--kill", "all"])
            .status();
        if let Err(error) = ended {
            tracing::debug!(%error, "gpg's agent was not ended");
        }
    }
}
