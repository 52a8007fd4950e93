//! nginx, to compare with.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use runtime::boot::HeldPort;
use tempfile::TempDir;

use crate::process::runs;
use crate::wait::until;

/// Where `deploy/setup` unpacks programs that tests and benchmarks start themselves.
pub fn unpacked_tools() -> PathBuf {
    let binary = crate::process::binary();
    let target = binary.parent().and_then(Path::parent).unwrap();
    target.join("tools/bench")
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    /// Where it answers.
    pub url: String,
    child: Child,
    _port: HeldPort,
    _dir: TempDir,
}

impl Nginx {
    /// Its main process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `tools`: the folder with usr/sbin/nginx; `does`: what it does with every request, such as `return 302 …;` or
    /// `root …;`.
    pub fn start(tools: &Path, does: &str) -> Self {
        Self::serve(tools, |address| {
            format!("server {{ listen {address}; location / {{ {does} }} }}")
        })
    }

    /// `servers` writes what stands inside `http`, for an address to listen on.
    pub fn serve(tools: &Path, servers: impl FnOnce(std::net::SocketAddr) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = HeldPort::draw().unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port.number()));
        let servers = servers(address);
        let text = format!(
            "daemon off;\nworker_processes auto;\npid nginx.pid;\nerror_log stderr crit;\nevents {{ worker_connections 4096; }}\n\
             http {{\n access_log off;\n keepalive_requests 1000000000;\n client_body_temp_path body;\n proxy_temp_path proxy;\n \
             fastcgi_temp_path fastcgi;\n uwsgi_temp_path uwsgi;\n scgi_temp_path scgi;\n \
             {servers}\n}}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), text).unwrap();
        let program = tools.join("usr/sbin/nginx");
        assert!(
            program.is_file(),
            "{} is not there: deploy/setup",
            program.display()
        );
        let child = Command::new(program)
            .arg("-p")
            .arg(dir.path())
            .args(["-c", "nginx.conf"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        until("nginx listens", || {
            std::net::TcpStream::connect(address).is_ok()
        });
        Self {
            url: format!("http://{address}"),
            child,
            _port: port,
            _dir: dir,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it.
        let pid = self.child.id();
        if runs(pid) {
            crate::process::signal(pid, rustix::process::Signal::TERM);
        }
        self.child.wait().ok();
    }
}
