//! Three nats-servers that are one cluster.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Http, until_within};
use reqwest::Method;
use runtime::boot::HeldPort;
use serde_json::Value;

use crate::load::Server;

const NODES: usize = 3;
const FORMS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A running cluster; it is ended on drop.
pub(super) struct Nodes {
    nodes: Vec<Server>,
    monitors: Vec<HeldPort>,
    _routes: Vec<HeldPort>,
    http: Http,
}

impl Nodes {
    /// Starts them and waits until they are one.
    pub(super) fn start(dir: &Path) -> Self {
        let draw = || HeldPort::draw().unwrap();
        let [monitors, routes] = [(); 2].map(|()| (0..NODES).map(|_| draw()).collect::<Vec<_>>());
        let all: Vec<String> = routes
            .iter()
            .map(|port| format!("nats-route://127.0.0.1:{}", port.number()))
            .collect();
        let nodes = (0..NODES).map(|number| {
            let more = format!(
                "server_name: {}\nhttp: \"127.0.0.1:{}\"\n\
                 cluster {{ name: chaos, listen: \"127.0.0.1:{}\", routes: [{}] }}",
                name(number),
                monitors[number].number(),
                routes[number].number(),
                all.join(", ")
            );
            Server::start(dir.join(name(number)), draw(), &more)
        });
        let nodes = Self {
            nodes: nodes.collect(),
            monitors,
            _routes: routes,
            http: Http::new(),
        };
        until_within(FORMS_WITHIN, "the cluster has a leader", || {
            nodes.are_healthy()
        });
        nodes
    }

    /// For `[nats] url`.
    pub(super) fn urls(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(|node| url(node.port())).collect();
        urls.join(",")
    }

    pub(super) fn first_url(&self) -> String {
        url(self.nodes[0].port())
    }

    /// The node that leads a stream, as far as anybody who runs knows.
    pub(super) fn leader_of(&self, stream: &str) -> Option<usize> {
        (0..NODES).find_map(|node| {
            let state = self.ask(node, "/jsz?streams=1&accounts=1")?;
            let accounts = state["account_details"].as_array()?.clone();
            let mut details = accounts
                .into_iter()
                .filter_map(|account| account["stream_detail"].as_array().cloned())
                .flatten();
            let found = details.find(|detail| detail["name"] == stream)?;
            let leader = found["cluster"]["leader"].as_str()?.to_owned();
            (0..NODES).find(|node| name(*node) == leader)
        })
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Takes all that a killed node has.
    pub(super) fn wipe(&self, node: usize) {
        self.nodes[node].wipe();
    }

    pub(super) fn again(&mut self, node: usize) {
        self.nodes[node].again();
    }

    /// Waits until every node says that it has caught up; false when that takes too long.
    pub(super) fn become_healthy(&self, within: Duration) -> bool {
        let begun = Instant::now();
        while !self.are_healthy() {
            if begun.elapsed() > within {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }

    fn are_healthy(&self) -> bool {
        (0..NODES).all(|node| self.ask(node, "/healthz").is_some())
    }

    fn ask(&self, node: usize, path: &str) -> Option<Value> {
        let port = self.monitors[node].number();
        TcpStream::connect(("127.0.0.1", port)).ok()?;
        let url = format!("http://127.0.0.1:{port}{path}");
        let answer = self.http.try_ask(Method::GET, &url, &[]).ok()?;
        (answer.status == 200).then(|| answer.json())
    }
}

fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}
