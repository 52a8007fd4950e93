//! A mirror behind a slow link: two network namespaces, a pair of interfaces, `tc tbf` on both.
//!
//! What is measured: bytes on the wire and the rate against iperf3 over the same link, for a first sync; what is fetched
//! twice when the link drops in the middle of a file, and when a build lands in the middle of a sync; which builds go
//! live, and how old live is, while builds come faster than the link carries them, and whether syncs overlap; the rate
//! inside and outside of a window of time.
//!
//! The program runs itself again inside a namespace of its own; root is needed for that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::{Network, Setup, Tree, binary, noise, until_within};

/// Measures a mirror behind a slow link.
#[derive(Debug, Parser)]
struct Args {
    /// The link, as tc writes rates
    #[arg(long, default_value = "20mbit")]
    rate: String,
    /// Bytes of the first sync, in MiB
    #[arg(long, default_value_t = 50)]
    first_mib: usize,
    /// Builds that come faster than the link carries them
    #[arg(long, default_value_t = 20)]
    builds: u64,
    /// Bytes that each of them changes, in MiB
    #[arg(long, default_value_t = 12)]
    build_mib: usize,
    /// Seconds between them; the link takes about half a second a MiB at 20mbit
    #[arg(long, default_value_t = 4)]
    every: u64,
    /// Folder with usr/bin/iperf3; target/tools/bench when left out
    #[arg(long)]
    tools: Option<PathBuf>,
    /// Another binary than target/debug/mirrorlog
    #[arg(long)]
    binary: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long)]
    release: bool,
    /// In the namespace already
    #[arg(long, hide = true)]
    inside: bool,
}

const MIB: usize = 1 << 20;
const CENTRE: &str = "10.77.0.1";
const EDGE: &str = "10.77.0.2";
/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(600);
/// The link's device on the mirror's side.
const DEVICE: &str = "edge0";

fn main() {
    let args = Args::parse();
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(2).unwrap().to_owned();
    if args.release {
        e2e::use_binary(target.join("release/mirrorlog"));
    }
    if let Some(binary) = &args.binary {
        e2e::use_binary(binary.clone());
    }
    let tools = args.tools.clone().unwrap_or(target.join("tools/bench"));
    if !args.inside {
        let namespaces = Namespaces::new();
        let mut again = namespaces.command(&namespaces.centre, &std::env::current_exe().unwrap());
        again.args(std::env::args().skip(1)).arg("--inside");
        again.env("LINK_EDGE", &namespaces.edge);
        let ended = again.status().unwrap();
        drop(namespaces);
        std::process::exit(ended.code().unwrap_or(1));
    }
    let edge = std::env::var("LINK_EDGE").unwrap();
    println!("binary   {}", binary().display());
    let link = Link {
        edge,
        rate: args.rate.clone(),
    };
    link.up();
    let iperf = iperf(&link, &tools);
    println!(
        "link     {}, iperf3 {:.2} Mbit/s of payload, {:+.2} % on the wire",
        args.rate,
        iperf.bits_per_s / 1e6,
        (iperf.wire_per_byte - 1.0) * 100.0
    );
    let world = World::new(link);
    first_sync(&world, &args, &iperf);
    link_drops(&world, &iperf);
    build_lands(&world, &iperf);
    too_many_builds(&world, &args);
    syncs(&world);
    windows(&world, &args);
}

/// Two network namespaces; they go with their last process and this.
struct Namespaces {
    centre: String,
    edge: String,
}

fn ip(args: &[&str]) {
    let ran = Command::new("ip").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "ip {args:?} (needs root): {said}");
}

impl Namespaces {
    fn new() -> Self {
        let pid = std::process::id();
        let namespaces = Self {
            centre: format!("mlcentre{pid}"),
            edge: format!("mledge{pid}"),
        };
        let Self { centre, edge } = &namespaces;
        for name in [centre, edge] {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        ip(&[
            "-n", centre, "link", "add", "centre0", "type", "veth", "peer", "name", DEVICE,
            "netns", edge,
        ]);
        ip(&[
            "-n",
            centre,
            "addr",
            "add",
            &format!("{CENTRE}/24"),
            "dev",
            "centre0",
        ]);
        ip(&[
            "-n",
            edge,
            "addr",
            "add",
            &format!("{EDGE}/24"),
            "dev",
            DEVICE,
        ]);
        ip(&["-n", centre, "link", "set", "centre0", "up"]);
        ip(&["-n", edge, "link", "set", DEVICE, "up"]);
        namespaces
    }

    fn command(&self, name: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name]).arg(program);
        command
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.centre, &self.edge] {
            Command::new("ip")
                .args(["netns", "del", name])
                .status()
                .ok();
        }
    }
}

/// The link, seen from the centre.
struct Link {
    edge: String,
    rate: String,
}

impl Link {
    /// Both directions at the link's rate.
    fn up(&self) {
        // Segments as they are on a real wire: bursts of 64 KiB would be counted as one packet.
        let shape = |namespace: Option<&str>, device: &str| {
            let mut tc = Command::new("tc");
            tc.args(namespace.into_iter().flat_map(|name| ["-n", name]));
            tc.args([
                "qdisc", "replace", "dev", device, "root", "tbf", "rate", &self.rate,
            ]);
            assert!(
                tc.args(["burst", "32kb", "latency", "50ms"])
                    .status()
                    .unwrap()
                    .success()
            );
        };
        shape(None, "centre0");
        shape(Some(&self.edge), DEVICE);
        ip(&["link", "set", "centre0", "gso_max_segs", "1"]);
        ip(&["-n", &self.edge, "link", "set", DEVICE, "gso_max_segs", "1"]);
    }

    fn set(&self, state: &str) {
        ip(&["-n", &self.edge, "link", "set", DEVICE, state]);
    }

    /// Bytes of frames that came to the mirror, and that left it.
    fn wire(&self) -> [u64; 2] {
        let out = Command::new("ip")
            .args(["-n", &self.edge, "-s", "-j", "link", "show", DEVICE])
            .output()
            .unwrap();
        let stats: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        ["rx", "tx"].map(|way| stats[0]["stats64"][way]["bytes"].as_u64().unwrap())
    }

    fn in_edge(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.edge]).arg(program);
        command
    }
}

/// What TCP gets through the link.
struct Iperf {
    /// Of payload.
    bits_per_s: f64,
    /// Bytes of frames for a byte of payload: headers of Ethernet, IP and TCP.
    wire_per_byte: f64,
}

fn iperf(link: &Link, tools: &Path) -> Iperf {
    let program = tools.join("usr/bin/iperf3");
    assert!(
        program.is_file(),
        "{} is not there: deploy/setup --with-bench",
        program.display()
    );
    let libraries = format!("{}", tools.join("usr/lib/x86_64-linux-gnu").display());
    let mut server = Command::new(&program)
        .args(["-s", "-1"])
        .env("LD_LIBRARY_PATH", &libraries)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut report = serde_json::Value::Null;
    let mut wire = 0;
    until_within(LIMIT, "iperf3 measures", || {
        let mut client = link.in_edge(&program);
        client.env("LD_LIBRARY_PATH", &libraries);
        let before = link.wire()[0];
        let out = client
            .args(["-c", CENTRE, "-R", "-J", "-t", "10"])
            .output()
            .unwrap();
        wire = link.wire()[0] - before;
        report = serde_json::from_slice(&out.stdout).unwrap_or_default();
        report["end"]["sum_received"]["bits_per_second"].is_number()
    });
    server.wait().unwrap();
    let received = &report["end"]["sum_received"];
    Iperf {
        bits_per_s: received["bits_per_second"].as_f64().unwrap(),
        wire_per_byte: wire as f64 / received["bytes"].as_f64().unwrap(),
    }
}

/// A network in the centre, whose one mirror is at the edge.
struct World {
    link: Link,
    network: Network,
    url: String,
    tree: Tree,
    mirror: std::cell::RefCell<Child>,
    log: PathBuf,
}

fn with_host(text: &str, host: &str) -> String {
    let (_, port) = text.rsplit_once(':').unwrap();
    format!("{host}:{port}")
}

impl World {
    fn new(link: Link) -> Self {
        let network = Network::start(&Setup::mirrors(1));
        network.kill("nz1");
        let set = |table: &mut toml::Table, section: &str, key: &str, host: &str| {
            let text = table[section][key].as_str().unwrap().to_owned();
            table[section][key] = with_host(&text, host).into();
        };
        let http = std::cell::RefCell::new(String::new());
        network.configure("archive", |config| set(config, "grpc", "listen", "0.0.0.0"));
        network.configure("nz1", |config| {
            set(config, "archive", "fetch", CENTRE);
            set(config, "nats", "url", &format!("nats://{CENTRE}"));
            set(config, "http", "listen", EDGE);
            set(config, "grpc", "listen", EDGE);
            *http.borrow_mut() = config["http"]["listen"].as_str().unwrap().to_owned();
        });
        let url = format!("http://{}", http.into_inner());
        let nats = network.config("nats");
        let text = std::fs::read_to_string(&nats).unwrap();
        std::fs::write(
            &nats,
            text.replace("listen: \"127.0.0.1:", "listen: \"0.0.0.0:"),
        )
        .unwrap();
        for service in ["consistency", "directory"] {
            network.configure(service, |config| {
                config["mirrors"][0]["url"] = url.clone().into();
                // What the mirror says is enough here; audits would share the link with what is measured.
                if let Some(audit) = config.get_mut("audit") {
                    audit["every"] = "1h".into();
                    audit
                        .as_table_mut()
                        .unwrap()
                        .insert("budget_per_day".to_owned(), "1KiB".into());
                }
            });
        }
        for service in ["consistency", "directory", "archive", "nats"] {
            network.kill(service);
        }
        for service in ["nats", "archive", "consistency"] {
            network.restart(service);
        }
        let log = network.scratch().join("edge.log");
        let mirror = start(&link, &network, &log);
        let world = Self {
            link,
            network,
            url,
            tree: Tree::new(),
            mirror: std::cell::RefCell::new(mirror),
            log,
        };
        until_within(LIMIT, "the mirror is up", || {
            world.ask("/healthz").is_some()
        });
        world
    }

    fn ask(&self, path: &str) -> Option<serde_json::Value> {
        let url = format!("{}{path}", self.url);
        let answer = self
            .network
            .http()
            .try_ask(reqwest::Method::GET, &url, &[])
            .ok()?;
        Some(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    fn restart(&self) {
        let mut mirror = self.mirror.borrow_mut();
        mirror.kill().unwrap();
        mirror.wait().unwrap();
        *mirror = start(&self.link, &self.network, &self.log);
        drop(mirror);
        until_within(LIMIT, "the mirror is up again", || {
            self.ask("/healthz").is_some()
        });
    }

    fn live(&self) -> Option<u64> {
        self.ask("/@/c")?["live"].as_u64()
    }

    fn publish(&self) -> u64 {
        self.network
            .publish("c", self.tree.path(), &[])
            .ok()
            .build()
    }

    fn await_live(&self, build: u64) {
        until_within(LIMIT, &format!("build {build} is live"), || {
            self.live() == Some(build)
        });
    }

    /// Bytes that the mirror's link has brought so far.
    fn came(&self) -> u64 {
        self.link.wire()[0]
    }

    /// Waits until so much has come since `from`.
    fn await_came(&self, from: u64, bytes: usize) {
        until_within(LIMIT, "some of it has come", || {
            self.came() - from >= bytes as u64
        });
    }
}

fn start(link: &Link, network: &Network, log: &Path) -> Child {
    let mut command = link.in_edge(&binary());
    command.arg("--config").arg(network.config("nz1"));
    command.args(["--log", "info,mirror::engine::perform=debug"]);
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    command
        .args(["mirror", "serve"])
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        let mut mirror = self.mirror.borrow_mut();
        mirror.kill().ok();
        mirror.wait().ok();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- the mirror\n{}", lines.join("\n"));
        }
    }
}

/// Bytes on the wire beyond a payload, in percent: all of them, and without what TCP takes for any payload.
fn beyond(payload: usize, wire: u64, iperf: &Iperf) -> String {
    let percent = |bytes: f64| (bytes / payload as f64 - 1.0) * 100.0;
    format!(
        "{:+.2} % on the wire, {:+.2} % within TCP",
        percent(wire as f64),
        percent(wire as f64 / iperf.wire_per_byte)
    )
}

fn first_sync(world: &World, args: &Args, iperf: &Iperf) {
    // Half in small files, half in large ones.
    let half = args.first_mib * MIB / 2;
    let mut payload = 0;
    for number in 0..half / (32 * 1024) {
        world
            .tree
            .write(&format!("small/{number}"), noise(number as u64, 32 * 1024));
        payload += 32 * 1024;
    }
    for number in 0..2_u64 {
        world
            .tree
            .write(&format!("large/{number}"), noise(1000 + number, half / 2));
        payload += half / 2;
    }
    let (before, begun) = (world.came(), Instant::now());
    let build = world.publish();
    world.await_live(build);
    let seconds = begun.elapsed().as_secs_f64();
    let wire = world.came() - before;
    let rate = payload as f64 * 8.0 / seconds;
    println!(
        "first sync of {:.1} MB: {}; {seconds:.1} s, {:.2} Mbit/s, {:.1} % of iperf3",
        payload as f64 / 1e6,
        beyond(payload, wire, iperf),
        rate / 1e6,
        rate / iperf.bits_per_s * 100.0
    );
}

/// The link is gone in the middle of a file, for longer than connections are held for alive.
fn link_drops(world: &World, iperf: &Iperf) {
    let size = 24 * MIB;
    world.tree.write("large/0", noise(2000, size));
    let before = world.came();
    let build = world.publish();
    world.await_came(before, size / 2);
    world.link.set("down");
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(25));
    world.link.set("up");
    world.await_live(build);
    let wire = world.came() - before;
    let twice = wire as f64 / iperf.wire_per_byte - size as f64;
    println!(
        "link down for 25 s in a file of {} MiB: {:.2} MiB beyond it, fetched twice or not content; live {:.1} s after the link was back",
        size / MIB,
        twice / MIB as f64,
        begun.elapsed().as_secs_f64() - 25.0
    );
}

/// A build lands in the middle of a sync: what has come is not fetched again.
fn build_lands(world: &World, iperf: &Iperf) {
    let size = 12 * MIB;
    for number in 0..4 {
        world
            .tree
            .write(&format!("part/{number}"), noise(3000 + number, size / 4));
    }
    let before = world.came();
    world.publish();
    world.await_came(before, size / 2);
    world.tree.write("part/extra", noise(3100, MIB));
    let build = world.publish();
    world.await_live(build);
    let wire = world.came() - before;
    let payload = size + MIB;
    println!(
        "a build lands in a sync: both have {:.1} MB, {}",
        payload as f64 / 1e6,
        beyond(payload, wire, iperf)
    );
}

/// Builds come faster than the link carries them: whole ones go live all the same.
fn too_many_builds(world: &World, args: &Args) {
    let begun = Instant::now();
    let mut published = std::collections::BTreeMap::new();
    let (mut lives, mut oldest) = (Vec::new(), Duration::ZERO);
    let first = world.live().unwrap();
    let mut last = first;
    for n in 0..args.builds {
        world
            .tree
            .write("churn", noise(4000 + n, args.build_mib * MIB));
        let build = world.publish();
        published.insert(build, Instant::now());
        let next = begun + Duration::from_secs(args.every) * u32::try_from(n + 1).unwrap();
        while Instant::now() < next {
            look(world, &published, &mut last, &mut lives, &mut oldest);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let newest = *published.keys().next_back().unwrap();
    let end = Instant::now();
    until_within(LIMIT, "the newest goes live", || {
        look(world, &published, &mut last, &mut lives, &mut oldest);
        last == newest
    });
    println!(
        "{} builds of {} MiB, one every {} s: {} of them went live ({}), live was {:.0} s behind at most; the newest was live {:.0} s after the last",
        args.builds,
        args.build_mib,
        args.every,
        lives.len(),
        lives
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(" "),
        oldest.as_secs_f64(),
        end.elapsed().as_secs_f64()
    );
}

/// Notes which build is live, and for how long there has been a newer one.
fn look(
    world: &World,
    published: &std::collections::BTreeMap<u64, Instant>,
    last: &mut u64,
    lives: &mut Vec<u64>,
    oldest: &mut Duration,
) {
    let Some(live) = world.live() else { return };
    assert!(live >= *last, "{live} after {last}");
    if live > *last {
        *last = live;
        lives.push(live);
    }
    let newer = published.range(live + 1..).next();
    if let Some((_, since)) = newer {
        *oldest = (*oldest).max(since.elapsed());
    }
}

/// How many syncs of the lane ran at once at most, in the whole run.
fn syncs(world: &World) {
    let log = std::fs::read_to_string(&world.log).unwrap();
    let (mut running, mut most, mut all) = (0_i64, 0, 0);
    for line in log.lines() {
        if line.contains("\"sync started\"") {
            (running, all) = (running + 1, all + 1);
            most = most.max(running);
        } else if line.contains("\"sync ended\"") {
            running -= 1;
        }
    }
    println!("{all} syncs in all, retargeted ones among them; at most {most} at a time");
    assert!(all > 0, "{log}");
}

/// Seconds of the window.
const WINDOW_S: u64 = 20;

/// A window that begins now: slow while it lasts, as fast as the link afterwards.
fn windows(world: &World, args: &Args) {
    let slow = 4.0;
    // By the clock of the machine's place, as the mirror reads it.
    let clock = |seconds: u64| {
        let at = format!("now + {seconds} seconds");
        let out = Command::new("date")
            .args(["-d", &at, "+%H:%M:%S"])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let (from, to) = (clock(0), clock(WINDOW_S));
    world.network.configure("nz1", |config| {
        let window = [
            ("from", from.clone()),
            ("to", to.clone()),
            ("rate", format!("{slow}mbit")),
        ];
        let window: toml::Table = window
            .map(|(key, value)| (key.to_owned(), value.into()))
            .into_iter()
            .collect();
        let fetch = toml::Table::from_iter([(
            "windows".to_owned(),
            toml::Value::Array(vec![window.into()]),
        )]);
        config.insert("fetch".to_owned(), fetch.into());
    });
    let end = Instant::now() + Duration::from_secs(WINDOW_S);
    world.restart();
    world.tree.write("windowed", noise(5000, 40 * MIB));
    let (before, begun) = (world.came(), Instant::now());
    let build = world.publish();
    let mut inside = None;
    until_within(LIMIT, "the build is live", || {
        if inside.is_none() && Instant::now() >= end {
            inside = Some((world.came(), Instant::now()));
        }
        world.live() == Some(build)
    });
    let (came, at) = inside.expect("it is live only after the window");
    let mbit = |bytes: u64, time: Duration| bytes as f64 * 8.0 / 1e6 / time.as_secs_f64();
    println!(
        "window {from} to {to} of {slow} Mbit/s on a link of {}: {:.2} Mbit/s on the wire within it, {:.2} afterwards (the clock is looked at every 5 s)",
        args.rate,
        mbit(came - before, at - begun),
        mbit(world.came() - came, at.elapsed()),
    );
}
