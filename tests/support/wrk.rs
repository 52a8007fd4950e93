//! wrk, which asks as fast as it is answered.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::run;

/// What wrk measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Answers a second.
    pub per_s: f64,
    /// Bytes a second, headers and unfinished answers included.
    pub bytes_per_s: f64,
    pub p99_ms: f64,
    pub seconds: f64,
    /// Answers that were neither 2xx nor 3xx, and broken connections.
    pub failed: u64,
}

/// One request of a script.
#[derive(Clone, Debug)]
pub struct Ask {
    pub path: String,
    /// A header beside those that wrk sends.
    pub header: Option<(&'static str, String)>,
}

/// wrk with scripts of what is asked.
#[derive(Debug)]
pub struct Wrk {
    tools: PathBuf,
    dir: TempDir,
}

impl Wrk {
    /// `tools`: the folder with usr/bin/wrk.
    pub fn new(tools: &Path) -> Self {
        let program = tools.join("usr/bin/wrk");
        assert!(
            program.is_file(),
            "{} is not there: deploy/setup --with-bench",
            program.display()
        );
        Self {
            tools: tools.to_owned(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Writes a script that asks for these, one after the other and from the start again.
    ///
    /// Requests are made beforehand: a script that formats each one would be most of what is measured.
    pub fn script(&self, name: &str, asks: impl IntoIterator<Item = Ask>) {
        let mut lines = String::new();
        for Ask { path, header } in asks {
            let (header, value) = header.unwrap_or(("-", String::new()));
            // Writing to a string cannot fail.
            writeln!(lines, "{path} {header} {value}").ok();
        }
        let list = self.dir.path().join(format!("{name}.txt"));
        std::fs::write(&list, lines).unwrap();
        let script = format!(
            "local made = {{}}\nlocal at = 0\n\
             function init(args)\n for line in io.lines(\"{}\") do\n  \
             local path, name, value = line:match(\"^(%S+) (%S+) (.*)$\")\n  \
             local headers = {{}}\n  if name ~= \"-\" then headers[name] = value end\n  \
             made[#made + 1] = wrk.format(\"GET\", path, headers)\n end\nend\n\
             function request()\n at = at % #made + 1\n return made[at]\nend\n",
            list.display()
        );
        std::fs::write(self.dir.path().join(format!("{name}.lua")), script).unwrap();
    }

    /// Asks for a while, with one thread: the other core is left to who answers.
    pub fn run(&self, url: &str, script: &str, connections: usize, seconds: u64) -> Measured {
        let lib = self.tools.join("usr/lib");
        let folders = std::fs::read_dir(&lib).unwrap();
        let folders: Vec<String> = folders
            .map(|folder| folder.unwrap().path().display().to_string())
            .collect();
        let mut wrk = Command::new(self.tools.join("usr/bin/wrk"));
        wrk.env("LD_LIBRARY_PATH", folders.join(":"))
            .args(["-t1", "--latency", "--timeout", "30s"])
            .arg(format!("-c{connections}"))
            .arg(format!("-d{seconds}s"))
            .arg("-s")
            .arg(self.dir.path().join(format!("{script}.lua")))
            .arg(url);
        Measured::read(&String::from_utf8(run(&mut wrk)).unwrap())
    }
}

/// The middle one of some values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Measured {
    /// The medians of some measurements, and all that failed in them.
    pub fn median(all: impl IntoIterator<Item = Self>) -> Self {
        let all: Vec<Self> = all.into_iter().collect();
        let of = |value: fn(&Self) -> f64| median(all.iter().map(value));
        Self {
            per_s: of(|one| one.per_s),
            bytes_per_s: of(|one| one.bytes_per_s),
            p99_ms: of(|one| one.p99_ms),
            seconds: of(|one| one.seconds),
            failed: all.iter().map(|one| one.failed).sum(),
        }
    }

    /// Reads what wrk says at its end.
    fn read(said: &str) -> Self {
        let value = |name: &str| {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("wrk said no {name} {said}"))
                .trim()
        };
        let failed = said
            .lines()
            .filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"))
            .flat_map(|line| line.split(|c: char| !c.is_ascii_digit()))
            .filter_map(|word| word.parse::<u64>().ok());
        let took = said
            .lines()
            .find_map(|line| line.split_once(" requests in ").map(|(_, rest)| rest));
        let took = took.and_then(|rest| rest.split(',').next()).unwrap();
        Self {
            per_s: value("Requests/sec:").parse().unwrap(),
            bytes_per_s: scaled(value("Transfer/sec:")),
            p99_ms: scaled(value("99%")) * 1000.0,
            seconds: scaled(took),
            failed: failed.sum(),
        }
    }
}

/// A number with a unit of time, in seconds, or of size, in bytes.
fn scaled(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_alphabetic()).unwrap();
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "B" => 1.0,
        "m" => 60.0,
        "KB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        other => panic!("wrk has a unit that is not known here: {other}"),
    };
    number.parse::<f64>().unwrap() * factor
}
