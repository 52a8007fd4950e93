//! wrk.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Network, run};

/// Clients, of a few hundred neighbourhoods in all countries.
const CLIENTS: usize = 1000;

/// What wrk measured.
pub(crate) struct Result {
    pub(crate) per_s: f64,
    pub(crate) p99_ms: f64,
    /// Answers that were neither 2xx nor 3xx, and broken connections.
    pub(crate) failed: u64,
}

/// wrk with scripts of what is asked.
pub(crate) struct Load {
    tools: PathBuf,
    dir: PathBuf,
    connections: usize,
    seconds: u64,
}

impl Load {
    pub(crate) fn new(
        tools: &Path,
        network: &Network,
        paths: &[String],
        connections: usize,
        seconds: u64,
    ) -> Self {
        let dir = network.scratch().join("wrk");
        std::fs::create_dir_all(&dir).unwrap();
        let clients: Vec<String> = (0..CLIENTS)
            .map(|number| format!("\"20.{}.{}.7\"", number % 40, number / 40 * 9 % 256))
            .collect();
        // Requests are made beforehand: a script that formats each one would be most of what is measured.
        let script = |wanted: Vec<String>| {
            let wanted: Vec<String> = wanted.iter().map(|path| format!("\"{path}\"")).collect();
            format!(
                "local clients = {{{}}}\nlocal paths = {{{}}}\nlocal made = {{}}\nlocal at = 0\n\
                 function init(args)\n for i, path in ipairs(paths) do\n  \
                 made[i] = wrk.format(\"GET\", path, {{[\"X-Forwarded-For\"] = clients[i % #clients + 1]}})\n end\nend\n\
                 function request()\n at = at % #made + 1\n return made[at]\nend\n",
                clients.join(","),
                wanted.join(",")
            )
        };
        let of = |path: &str| vec![path.to_owned(); CLIENTS];
        let redirects = paths.iter().map(|path| format!("/bench/{path}")).collect();
        for (name, wanted) in [
            ("redirect", redirects),
            ("list", of("/mirrors.txt?channel=bench")),
            ("json", of("/v1/mirrors?channel=bench")),
        ] {
            std::fs::write(dir.join(format!("{name}.lua")), script(wanted)).unwrap();
        }
        Self {
            tools: tools.to_owned(),
            dir,
            connections,
            seconds,
        }
    }

    /// Asks for a while, with one thread: the other core is left to who answers.
    pub(crate) fn run(&self, url: &str, script: &str) -> Result {
        let lib = self.tools.join("usr/lib");
        let folders = std::fs::read_dir(&lib).unwrap();
        let folders: Vec<String> = folders
            .map(|folder| folder.unwrap().path().display().to_string())
            .collect();
        let mut wrk = Command::new(self.tools.join("usr/bin/wrk"));
        wrk.env("LD_LIBRARY_PATH", folders.join(":"))
            .args(["-t1", "--latency"])
            .arg(format!("-c{}", self.connections))
            .arg(format!("-d{}s", self.seconds))
            .arg("-s")
            .arg(self.dir.join(format!("{script}.lua")))
            .arg(url);
        let said = String::from_utf8(run(&mut wrk)).unwrap();
        let value = |name: &str| {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
            line.map(|rest| rest.trim().to_owned())
        };
        let failed = said
            .lines()
            .filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"))
            .flat_map(|line| line.split(|c: char| !c.is_ascii_digit()))
            .filter_map(|word| word.parse::<u64>().ok());
        Result {
            per_s: value("Requests/sec:").unwrap().parse().unwrap(),
            p99_ms: milliseconds(&value("99%").unwrap()),
            failed: failed.sum(),
        }
    }
}

fn milliseconds(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_alphabetic()).unwrap();
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().unwrap();
    match unit {
        "us" => number / 1000.0,
        "ms" => number,
        _seconds => number * 1000.0,
    }
}
