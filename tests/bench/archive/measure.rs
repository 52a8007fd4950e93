//! What processes cost, as the kernel counts it: CPU, memory, bytes on their connections.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use e2e::{run, tool};

/// Ticks of `/proc/PID/stat`: the same on all of Linux's machines.
const TICKS_PER_S: f64 = 100.0;
/// Threads that ended meanwhile are seen only in ticks; below this difference, those are rounding.
const ROUNDING_S: f64 = 0.1;

/// CPU that a process has used until now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu {
    /// All of the process, its children that it waited for too, in ticks.
    ticks_s: f64,
    /// Of each running thread, exact.
    threads_s: BTreeMap<String, f64>,
}

impl Cpu {
    pub(crate) fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // The name, in parentheses, may have anything in it. utime, stime, cutime and cstime are fields 14 to 17.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        let ticks: f64 = fields
            .skip(11)
            .take(4)
            .map(|field| field.parse::<f64>().unwrap())
            .sum();
        let mut threads_s = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let thread = thread.unwrap();
            // It may have ended a moment ago.
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            if let Some(ns) = text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()) {
                threads_s.insert(thread.file_name().to_string_lossy().into_owned(), ns / 1e9);
            }
        }
        Self {
            ticks_s: ticks / TICKS_PER_S,
            threads_s,
        }
    }

    /// Seconds between two looks.
    pub(crate) fn since(&self, before: &Self) -> f64 {
        let ticks = self.ticks_s - before.ticks_s;
        let used = |(thread, s): (&String, &f64)| {
            s - before.threads_s.get(thread).copied().unwrap_or_default()
        };
        let threads: f64 = self.threads_s.iter().map(used).sum();
        if ticks > threads + ROUNDING_S {
            ticks
        } else {
            threads
        }
    }
}

/// The most that a process had resident since it began, or since [`reset_peak`].
pub(crate) fn peak_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<f64>().unwrap() / 1024.0
}

/// Lets [`peak_mib`] begin anew.
pub(crate) fn reset_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// Children that run or that nobody has waited for.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// What a command took, from start to end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    pub(crate) peak_mib: f64,
}

/// Runs commands below time(1).
#[derive(Clone, Debug)]
pub(crate) struct Timer {
    program: PathBuf,
    scratch: PathBuf,
}

impl Timer {
    pub(crate) fn new(tools: &Path, scratch: &Path) -> Self {
        let program = tools.join("usr/bin/time");
        assert!(
            program.is_file(),
            "{} is not there: deploy/setup --with-bench",
            program.display()
        );
        Self {
            program,
            scratch: scratch.to_owned(),
        }
    }

    /// The command, to be started by the caller, and the file in which time(1) says what it took.
    pub(crate) fn wrap(&self, name: &str, command: &Command) -> (Command, PathBuf) {
        let report = self.scratch.join(format!("time-{name}"));
        let mut timed = Command::new(&self.program);
        timed.args(["-q", "-f", "%U %S %M", "-o"]).arg(&report);
        timed
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(std::process::Stdio::null());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                timed.env(name, value);
            }
        }
        (timed, report)
    }

    /// Runs it to its end, which must be a good one.
    pub(crate) fn run(&self, command: &Command) -> (Output, Used) {
        let (mut timed, report) = self.wrap("one", command);
        let begun = Instant::now();
        let output = timed.output().unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        assert!(
            output.status.success(),
            "{command:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output, read_report(&report, seconds))
    }
}

/// What time(1) wrote.
pub(crate) fn read_report(report: &Path, seconds: f64) -> Used {
    let text = fs::read_to_string(report).unwrap();
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    let [user_s, system_s, peak_kib] = numbers[..] else {
        panic!("time(1) said: {text}");
    };
    Used {
        seconds,
        cpu_s: user_s + system_s,
        peak_mib: peak_kib / 1024.0,
    }
}

/// Writes back what is dirty, so that nobody pays for what another one wrote.
pub(crate) fn sync(folder: &Path) {
    run(tool("sync").arg("-f").arg(folder));
}

/// Bytes both ways on each TCP connection of this machine, by owner and peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(BTreeMap<(u32, String, String), u64>);

impl Connections {
    pub(crate) fn now() -> Self {
        let said = run(tool("ss").args(["-tinpH", "state", "connected"]));
        let text = String::from_utf8(said).unwrap();
        let mut found = BTreeMap::new();
        let mut owner = None;
        for line in text.lines() {
            if !line.starts_with(char::is_whitespace) {
                owner = owner_of(line);
            } else if let Some(owner) = owner.take() {
                let bytes = |name: &str| {
                    let mut words = line.split_whitespace();
                    let value = words.find_map(|word| word.strip_prefix(name));
                    value.map_or(0, |value| value.parse::<u64>().unwrap())
                };
                found.insert(owner, bytes("bytes_acked:") + bytes("bytes_received:"));
            }
        }
        Self(found)
    }

    /// Bytes of a process with a peer between two looks. A connection that has ended meanwhile is not counted.
    pub(crate) fn since(&self, before: &Self, pid: u32, peer: &str) -> u64 {
        let mine = self
            .0
            .iter()
            .filter(|((owner, _, to), _)| *owner == pid && to == peer);
        mine.map(|(key, bytes)| bytes - before.0.get(key).copied().unwrap_or_default().min(*bytes))
            .sum()
    }
}

/// Process, own address and peer of a line such as `ESTAB 0 0 127.0.0.1:1 127.0.0.1:2 users:(("x",pid=3,fd=4))`.
fn owner_of(line: &str) -> Option<(u32, String, String)> {
    let (_, rest) = line.split_once("pid=")?;
    let pid = rest.split(',').next()?.parse().ok()?;
    let mut addresses = line.split_whitespace().filter(|word| word.contains(':'));
    let (own, peer) = (addresses.next()?, addresses.next()?);
    Some((pid, own.to_owned(), peer.to_owned()))
}
