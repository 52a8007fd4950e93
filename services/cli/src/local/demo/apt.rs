//! Real apt, with folders of its own.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::repository::Repository;
use crate::failure::{DATA, DOWN, Failure, IO, OrExit as _};

/// Where apt has its methods.
const METHODS: &str = "/usr/lib/apt/methods";

/// One apt that knows one mirror.
pub(super) struct Apt {
    root: PathBuf,
    /// Options beside the usual ones.
    options: Vec<String>,
}

impl Apt {
    pub(super) fn new(repository: &Repository, id: &str, url: &str) -> Result<Self, Failure> {
        let root = repository.work().join("apt").join(id);
        for folder in [
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "state/lists/partial",
            "cache/archives/partial",
            "out",
        ] {
            std::fs::create_dir_all(root.join(folder)).or_exit(IO)?;
        }
        std::fs::write(root.join("status"), "").or_exit(IO)?;
        let line = format!(
            "deb [arch=amd64 signed-by={}] {url} demo main\n",
            repository.keyring().display()
        );
        std::fs::write(root.join("etc/apt/sources.list"), line).or_exit(IO)?;
        let options = Vec::new();
        Ok(Self { root, options })
    }

    /// Puts this program beside apt's methods, as it is installed on a machine that uses it.
    pub(super) fn with_method(mut self, key: &Path) -> Result<Self, Failure> {
        let methods = self.root.join("methods");
        std::fs::create_dir_all(&methods).or_exit(IO)?;
        for method in std::fs::read_dir(METHODS).or_exit(IO)? {
            let method = method.or_exit(IO)?;
            if method.file_name() != "mirrorlog" {
                symlink(method.path(), methods.join(method.file_name())).or_exit(IO)?;
            }
        }
        let program = std::env::current_exe().or_exit(IO)?;
        symlink(program, methods.join("mirrorlog")).or_exit(IO)?;
        self.options = vec![
            format!("Dir::Bin::methods={}", methods.display()),
            format!("Acquire::mirrorlog::Key={}", key.display()),
        ];
        Ok(self)
    }

    pub(super) async fn run(&self, words: &[&str]) -> Result<(), Failure> {
        let at = |name: &str| self.root.join(name).display().to_string();
        let options = [
            format!("Dir::Etc={}", at("etc/apt")),
            format!("Dir::State={}", at("state")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Check-Valid-Until=true".to_owned(),
            "Acquire::Check-Date=true".to_owned(),
            "Acquire::http::Proxy=DIRECT".to_owned(),
        ];
        let mut command = Command::new("apt-get");
        for option in options.iter().chain(&self.options) {
            command.arg("-o").arg(option);
        }
        let ran = command
            .arg("-q")
            .args(words)
            .current_dir(self.root.join("out"))
            .stdin(Stdio::null())
            .output()
            .await
            .or_exit(IO)?;
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        // Warnings of `update` are faults here: apt must find everything at once.
        let clean = !said
            .lines()
            .any(|line| line.starts_with("E:") || line.starts_with("Err:"));
        if ran.status.success() && clean {
            return Ok(());
        }
        Err(Failure::text(
            DATA,
            format!("apt-get {} failed: {said}", words.join(" ")),
        ))
    }
}

/// The status code of a GET.
pub(super) async fn http_code(url: &str) -> Result<u16, Failure> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = tokio::net::TcpStream::connect(host).await.or_exit(DOWN)?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.or_exit(IO)?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.or_exit(IO)?;
    let code = std::str::from_utf8(&answer[9..]).unwrap_or_default();
    code.parse()
        .map_err(|_| Failure::text(DATA, format!("{url} answered without a status")))
}
