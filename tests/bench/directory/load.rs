//! What is asked of the directory.

use std::path::Path;

use e2e::{Ask, Measured, Wrk};

/// Clients, of a few hundred neighbourhoods in all countries.
const CLIENTS: usize = 1000;

/// wrk with scripts of what is asked.
pub(crate) struct Load {
    wrk: Wrk,
    connections: usize,
    seconds: u64,
}

impl Load {
    pub(crate) fn new(tools: &Path, paths: &[String], connections: usize, seconds: u64) -> Self {
        let wrk = Wrk::new(tools);
        let from = |(number, path): (usize, String)| {
            let client = number % CLIENTS;
            let address = format!("20.{}.{}.7", client % 40, client / 40 * 9 % 256);
            let header = Some(("X-Forwarded-For", address));
            Ask { path, header }
        };
        let redirects = paths.iter().map(|path| format!("/bench/{path}"));
        wrk.script("redirect", redirects.enumerate().map(from));
        for (name, path) in [
            ("list", "/mirrors.txt?channel=bench"),
            ("json", "/v1/mirrors?channel=bench"),
        ] {
            let asks = (0..CLIENTS).map(|number| from((number, path.to_owned())));
            wrk.script(name, asks);
        }
        Self {
            wrk,
            connections,
            seconds,
        }
    }

    /// Asks for a while.
    pub(crate) fn run(&self, url: &str, script: &str) -> Measured {
        self.wrk.run(url, script, self.connections, self.seconds)
    }
}
