//! How long a client takes and how much memory, beside programs that verify less: `get` beside curl, apt's method
//! beside apt's own http, turn by turn.
//!
//! Each turn starts a program, has it fetch one file from a mirror on this machine, and ends it: start-up is what a
//! small file measures. Times are wall clock; memory is the peak of the process, by time(1), of what `apt-helper`
//! starts too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Parser;
use e2e::{Apt, DebianRepo, Network, Setup, binary, noise, sha256};

/// Measures start-up, memory and transfer of the client.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Size of the large file, in MiB
    #[arg(long, default_value_t = 256)]
    large_mib: usize,
    /// Folder with usr/bin/time; target/tools/bench when left out
    #[arg(long)]
    tools: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long)]
    release: bool,
}

const CHANNEL: &str = "smithy";

fn main() {
    let args = Args::parse();
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(2).unwrap().to_owned();
    if args.release {
        e2e::use_binary(target.join("release/mirrorlog"));
    }
    let time = args
        .tools
        .clone()
        .unwrap_or(target.join("tools/bench"))
        .join("usr/bin/time");
    println!("binary   {}", binary().display());
    let repo = DebianRepo::bookworm();
    let large = noise(3, args.large_mib << 20);
    repo.write_file("large", &large);
    repo.write_file("small", b"small\n");
    let network = Network::start(&Setup::pools("nz=2"));
    network
        .publish(
            CHANNEL,
            &repo.tree(),
            &["--layout", "plain", "--wait", "all", "--timeout", "120"],
        )
        .ok();
    network.await_offered(&format!("channel={CHANNEL}"), &["nz1", "nz2"]);
    let bench = Bench {
        time,
        network: &network,
        repo: &repo,
        out: network.scratch().join("bench"),
    };
    std::fs::create_dir(&bench.out).unwrap();
    println!("| what | file | median | of 10 the slowest | peak memory | against |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (name, content) in [("small", &b"small\n"[..]), ("large", &large)] {
        let rounds = if name == "small" {
            args.rounds
        } else {
            args.rounds.min(7)
        };
        let digest = sha256(content);
        let pairs = [
            [bench.curl(name), bench.get(name)],
            [
                bench.helper("http", name, &digest),
                bench.helper("mirrorlog", name, &digest),
            ],
        ];
        for [theirs, ours] in &pairs {
            let mut both = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                both[0].push(bench.run(theirs, content));
                both[1].push(bench.run(ours, content));
            }
            let [theirs_ran, ours_ran] = both.map(Ran::of);
            theirs_ran.print(&theirs.name, name, None);
            ours_ran.print(&ours.name, name, Some(&theirs_ran));
        }
    }
    network.stop();
}

/// A program and its arguments.
struct Turn {
    name: String,
    words: Vec<OsString>,
}

struct Bench<'a> {
    time: PathBuf,
    network: &'a Network,
    repo: &'a DebianRepo,
    out: PathBuf,
}

impl Bench<'_> {
    fn target(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    fn curl(&self, name: &str) -> Turn {
        let url = format!("{}/@/{CHANNEL}/1/{name}", self.network.url("nz1"));
        let words = [
            "curl",
            "-sf",
            "--noproxy",
            "*",
            "-o",
            self.target(name).to_str().unwrap(),
            &url,
        ]
        .map(OsString::from);
        Turn {
            name: "curl".to_owned(),
            words: words.into(),
        }
    }

    fn get(&self, name: &str) -> Turn {
        let mut words: Vec<OsString> = vec![binary().into()];
        words.extend(
            [
                "--quiet",
                "get",
                CHANNEL,
                name,
                "--directory",
                self.network.directory(),
                "-o",
            ]
            .map(OsString::from),
        );
        words.push(self.out.clone().into());
        words.extend(["--key".into(), self.network.key().into_os_string()]);
        words.extend([
            "--state".into(),
            self.network.scratch().join("state").into_os_string(),
        ]);
        Turn {
            name: "mirrorlog get".to_owned(),
            words,
        }
    }

    /// apt's helper, which starts the method and asks it for one file.
    fn helper(&self, scheme: &str, name: &str, digest: &str) -> Turn {
        let (host, path) = match scheme {
            "http" => (self.network.url("nz1"), format!("@/{CHANNEL}/1/{name}")),
            _ours => (self.network.directory(), format!("{CHANNEL}/{name}")),
        };
        let uri = format!("{scheme}://{}/{path}", host.trim_start_matches("http://"));
        let apt = Apt::with_method(
            self.repo,
            &format!("{scheme}-{name}"),
            &uri,
            "bookworm",
            &self.network.key(),
        );
        let digest = format!("SHA256:{digest}");
        let command = apt.helper(&[
            "-o",
            "Acquire::http::Proxy=DIRECT",
            "-o",
            "APT::Sandbox::User=root",
            "download-file",
            &uri,
            self.target(name).to_str().unwrap(),
            &digest,
        ]);
        let mut words = vec![command.get_program().to_owned()];
        words.extend(command.get_args().map(ToOwned::to_owned));
        Turn {
            name: format!("apt-helper, {scheme}://"),
            words,
        }
    }

    /// Seconds and KiB of one turn.
    fn run(&self, turn: &Turn, content: &[u8]) -> (f64, f64) {
        let file = self.out.join(if content.len() < 100 {
            "small"
        } else {
            "large"
        });
        std::fs::remove_file(&file).ok();
        let report = self.out.join("time");
        let begun = Instant::now();
        let ended = Command::new(&self.time)
            .args(["-f", "%M", "-o"])
            .arg(&report)
            .args(&turn.words)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success() && is(&file, content),
            "{}: {said}",
            turn.name
        );
        let report = std::fs::read_to_string(report).unwrap();
        (seconds, report.trim().parse().unwrap())
    }
}

fn is(file: &Path, content: &[u8]) -> bool {
    std::fs::read(file).is_ok_and(|read| read == content)
}

/// What some turns of one program took.
struct Ran {
    median_s: f64,
    slow_s: f64,
    peak_mib: f64,
}

impl Ran {
    fn of(mut turns: Vec<(f64, f64)>) -> Self {
        turns.sort_by(|a, b| a.0.total_cmp(&b.0));
        let peak = turns
            .iter()
            .map(|(_, kib)| kib / 1024.0)
            .fold(0.0, f64::max);
        Self {
            median_s: turns[turns.len() / 2].0,
            slow_s: turns[turns.len() * 9 / 10].0,
            peak_mib: peak,
        }
    }

    fn print(&self, name: &str, file: &str, against: Option<&Self>) {
        let Self {
            median_s,
            slow_s,
            peak_mib,
        } = self;
        let against = against.map_or_else(String::new, |other| {
            format!(
                "{:.2} times, {:.1} MiB more",
                median_s / other.median_s.max(0.001),
                peak_mib - other.peak_mib
            )
        });
        println!(
            "| {name} | {file} | {:.0} ms | {:.0} ms | {peak_mib:.1} MiB | {against} |",
            median_s * 1e3,
            slow_s * 1e3
        );
    }
}
