//! Several nats-servers that are one cluster, on this machine.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{Http, until_within};
use runtime::boot::HeldPort;
use runtime::log::supervise::find_server;
use serde_json::Value;

/// Longest wait until a cluster has a leader.
const FORMS_WITHIN: Duration = Duration::from_secs(60);

/// A server that its leader does not know of after this time is left out. Twice as long each time that one was started again.
const LEFT_OUT: Duration = Duration::from_secs(2);
/// Servers that have no leader after this time find none: an election takes up to nine seconds.
const LEADERLESS: Duration = Duration::from_secs(12);

/// One server.
struct Node {
    name: String,
    client: u16,
    monitor: u16,
    file: PathBuf,
    process: Child,
}

/// A cluster; it is ended on drop.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    http: Http,
    program: PathBuf,
    _ports: Vec<[HeldPort; 3]>,
}

impl Cluster {
    /// Starts so many servers and waits until they have a leader.
    pub(crate) fn start(count: usize, dir: &Path) -> Self {
        let program = find_server().unwrap();
        let held = (0..count).map(|_| [(); 3].map(|()| HeldPort::draw().unwrap()));
        let held: Vec<[HeldPort; 3]> = held.collect();
        let ports: Vec<[u16; 3]> = held
            .iter()
            .map(|ports| ports.each_ref().map(HeldPort::number))
            .collect();
        let routes: Vec<String> = ports
            .iter()
            .map(|[_, _, route]| format!("nats-route://127.0.0.1:{route}"))
            .collect();
        let nodes = ports.iter().enumerate().map(|(number, ports)| {
            let name = format!("n{}", number + 1);
            let [client, monitor, _] = *ports;
            let file = dir.join(format!("{name}.conf"));
            std::fs::write(
                &file,
                configuration(&name, *ports, &dir.join(&name), &routes),
            )
            .unwrap();
            let process = spawn(&program, &file);
            Node {
                name,
                client,
                monitor,
                file,
                process,
            }
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            http: Http::new(),
            program,
            _ports: held,
        };
        cluster.gather();
        cluster
    }

    /// Returns when the leader knows of all servers. Of servers that first meet at the same moment nats-server may leave
    /// one out, or find no leader: they are started again, as deploy/README.md says.
    fn gather(&mut self) {
        let (mut absent, mut since, mut tries) = (Vec::new(), Instant::now(), 0);
        until_within(FORMS_WITHIN, "the leader knows of all servers", || {
            let members = self.members();
            let now = (0..self.nodes.len()).filter(|number| {
                let name = &self.nodes[*number].name;
                !members.contains(name)
            });
            let now: Vec<usize> = now.collect();
            let longest = match now[..] {
                [] => return true,
                [_left_out] => LEFT_OUT * 2_u32.pow(tries.min(3)),
                _ => LEADERLESS,
            };
            if now != absent {
                (absent, since) = (now, Instant::now());
            } else if since.elapsed() >= longest {
                let node = &mut self.nodes[absent[tries as usize % absent.len()]];
                node.process.kill().unwrap();
                node.process.wait().unwrap();
                node.process = spawn(&self.program, &node.file);
                (since, tries) = (Instant::now(), tries + 1);
            }
            false
        });
    }

    /// The leader and those whom it knows and hears of; none while there is none.
    fn members(&self) -> BTreeSet<String> {
        for node in &self.nodes {
            let told = self.monitor(node, "/jsz").unwrap_or_default();
            let meta = &told["meta_cluster"];
            if meta["leader"] == node.name.as_str() {
                let others = meta["replicas"].as_array().into_iter().flatten();
                let others = others.filter(|other| other["offline"] != true);
                let others = others.filter_map(|other| Some(other["name"].as_str()?.to_owned()));
                return others.chain([node.name.clone()]).collect();
            }
        }
        BTreeSet::new()
    }

    /// Its servers, for `[nats] url`.
    pub(crate) fn url(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(|node| node.url()).collect();
        urls.join(",")
    }

    /// Names and processes.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let of = |node: &Node| (node.name.clone(), node.process.id());
        self.nodes.iter().map(of).collect()
    }

    /// Kills the server that leads the stream, as a crash would; gives its name.
    pub(crate) fn kill_leader_of(&mut self, stream: &str) -> String {
        let streams = self
            .monitor(&self.nodes[0], "/jsz?streams=1&accounts=1")
            .unwrap();
        let accounts = streams["account_details"].as_array().unwrap().iter();
        let details = accounts.flat_map(|account| account["stream_detail"].as_array().unwrap());
        let found = details
            .into_iter()
            .find(|detail| detail["name"] == stream)
            .unwrap();
        let leader = found["cluster"]["leader"].as_str().unwrap().to_owned();
        let node = self
            .nodes
            .iter_mut()
            .find(|node| node.name == leader)
            .unwrap();
        node.process.kill().unwrap();
        node.process.wait().unwrap();
        leader
    }

    fn monitor(&self, node: &Node, path: &str) -> Option<Value> {
        TcpStream::connect(("127.0.0.1", node.monitor)).ok()?;
        let answer = self
            .http
            .get(&format!("http://127.0.0.1:{}{path}", node.monitor));
        (answer.status == 200).then(|| answer.json())
    }
}

impl Node {
    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.client)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // One that was killed is gone already.
            node.process.kill().ok();
            node.process.wait().ok();
        }
    }
}

/// A server of the cluster, durable as `local up`'s own.
fn configuration(name: &str, ports: [u16; 3], dir: &Path, routes: &[String]) -> String {
    let [client, monitor, route] = ports;
    let (dir, routes) = (dir.display(), routes.join(", "));
    format!(
        "server_name: {name}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"127.0.0.1:{monitor}\"\nmax_payload: 1MB\n\
         jetstream {{ store_dir: \"{dir}\", sync_interval: always, max_memory_store: 256MB, max_file_store: 16GB }}\n\
         cluster {{ name: mirrorlog, listen: \"127.0.0.1:{route}\", routes: [{routes}] }}\n"
    )
}

fn spawn(program: &Path, file: &Path) -> Child {
    let log = std::fs::File::create(file.with_extension("log")).unwrap();
    Command::new(program)
        .arg("--config")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
