//! A network's directory, and a second one.

use std::net::SocketAddr;

use crate::http::Response;
use crate::network::Network;
use crate::wait::until;

impl Network {
    /// The directory's URL.
    pub fn directory(&self) -> &str {
        self.local()["directory"]["http"].as_str().unwrap()
    }

    /// Where the directory answers DNS.
    pub fn dns(&self) -> SocketAddr {
        self.local()["directory"]["dns"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// What the directory answers.
    pub fn ask_directory(&self, path: &str) -> Response {
        self.http().get(&format!("{}{path}", self.directory()))
    }

    /// Ids of the mirrors that the directory offers, the best first.
    pub fn offered(&self, query: &str) -> Vec<String> {
        let answer = self.ask_directory(&format!("/v1/mirrors?{query}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        let answer = answer.json();
        let mirrors = answer["mirrors"].as_array().unwrap().iter();
        mirrors
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the directory offers these mirrors, in whatever order.
    #[track_caller]
    pub fn await_offered(&self, query: &str, mirrors: &[&str]) {
        until(&format!("{mirrors:?} are offered for {query}"), || {
            let mut offered = self.offered(query);
            offered.sort();
            offered == mirrors
        });
    }

    /// Starts another directory at the first one's port of another address, such as 127.0.0.2. Gives its URL.
    pub fn second_directory(&self, name: &str, address: &str) -> String {
        let first = self.config("directory");
        let folder = self.dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut config: toml::Table = std::fs::read_to_string(first).unwrap().parse().unwrap();
        let (_, port) = self.directory().rsplit_once(':').unwrap();
        let listen = format!("{address}:{port}");
        config["http"]["listen"] = listen.clone().into();
        config.remove("dns");
        let file = folder.join("directory.toml");
        std::fs::write(&file, config.to_string()).unwrap();
        self.add("directory", name, file, listen.clone());
        self.restart(name);
        format!("http://{listen}")
    }
}
