//! A whole network: `mirrorlog local up` in a folder of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::Method;
use runtime::boot::HeldPort;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Http, Response};
use crate::process::{Kept, binary, command, runs, signal};
use crate::wait::{until, until_within};

const UP_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a log that a failed test shows.
const LOG_LINES: usize = 12;
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What a network is made with.
#[derive(Clone, Debug)]
pub struct Setup {
    pub mirrors: u16,
    /// Mirrors by pool in place of a number, such as `nz=2,au=1`.
    pub pools: Option<String>,
    /// Most that each mirror fetches, such as `20mbit`.
    pub limit: Option<String>,
    /// Whether mirrors have export trees.
    pub export: bool,
    /// Whether services have users at nats-server, certificates and a root document.
    pub secure: bool,
    /// A nats-server that runs already, or what stands in front of it; it is the caller's to start and stop.
    pub nats: Option<String>,
    /// Environment of the services.
    pub env: Vec<(String, String)>,
}

impl Setup {
    pub fn mirrors(mirrors: u16) -> Self {
        Self {
            mirrors,
            pools: None,
            limit: None,
            export: false,
            secure: false,
            nats: None,
            env: Vec::new(),
        }
    }

    /// `nz=2,au=1`
    pub fn pools(pools: &str) -> Self {
        Self {
            pools: Some(pools.to_owned()),
            ..Self::mirrors(0)
        }
    }

    pub fn limit(mut self, limit: &str) -> Self {
        self.limit = Some(limit.to_owned());
        self
    }

    pub fn export(mut self) -> Self {
        self.export = true;
        self
    }

    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    pub fn nats(mut self, url: &str) -> Self {
        self.nats = Some(url.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub code: i32,
    /// What `--json` printed; null where that was no one document.
    pub json: Value,
    pub stdout: String,
    pub stderr: String,
    pub seconds: f64,
}

impl Ended {
    /// The same, if it ended with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code_is(0)
    }

    /// The same, if it ended with this code.
    #[track_caller]
    pub fn code_is(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, code, "stderr: {stderr}\nstdout: {stdout}");
        self
    }

    /// The published build.
    #[track_caller]
    pub fn build(&self) -> u64 {
        self.json["build"].as_u64().unwrap()
    }

    /// The lines of a command that streams.
    pub fn lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// One service that can be killed and started again.
#[derive(Debug)]
struct Member {
    /// The program's word for it; `None` for nats-server.
    service: Option<&'static str>,
    config: PathBuf,
    /// Where it says that it is ready; NATS: where it listens.
    address: String,
    pid: u32,
    /// Once a test has started it.
    own: Option<Kept>,
}

/// A running network. Services are called `archive`, `consistency`, `nats`, and mirrors by their ids: `nz1`, `nz2`, …
#[derive(Debug)]
pub struct Network {
    members: Mutex<BTreeMap<String, Member>>,
    mirrors: Vec<(String, String)>,
    /// None when it is not this network's.
    nats_program: Option<PathBuf>,
    env: Vec<(String, String)>,
    local: Value,
    up: Option<Kept>,
    http: Http,
    /// Of what was added.
    ports: Mutex<Vec<HeldPort>>,
    dir: TempDir,
}

impl Network {
    /// A network of some mirrors.
    pub fn up(mirrors: u16) -> Self {
        Self::start(&Setup::mirrors(mirrors))
    }

    /// A network as it is asked for, once all of it is ready.
    pub fn start(setup: &Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("net");
        let mirrors = setup.mirrors.to_string();
        let mut args = vec!["local", "up", "--dir", home.to_str().unwrap()];
        match &setup.pools {
            Some(pools) => args.extend(["--pools", pools]),
            None => args.extend(["--mirrors", &mirrors]),
        }
        if let Some(limit) = &setup.limit {
            args.extend(["--limit", limit]);
        }
        args.extend(setup.export.then_some("--export"));
        args.extend(setup.secure.then_some("--secure"));
        if let Some(nats) = &setup.nats {
            args.extend(["--nats", nats]);
        }
        let log = std::fs::File::create(dir.path().join("up.log")).unwrap();
        let child = command(&binary(), args)
            .envs(setup.env.iter().cloned())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut up = Kept(child);
        let file = home.join("local.json");
        until_within(UP_LIMIT, "the network comes up", || {
            let ended = up.0.try_wait().unwrap();
            let log = || std::fs::read_to_string(dir.path().join("up.log")).unwrap();
            assert!(ended.is_none(), "`local up` ended: {}", log());
            file.exists()
        });
        let local: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let members = members(&local);
        let nats = members
            .get("nats")
            .map(|nats| format!("/proc/{}/exe", nats.pid));
        let mirrors = local["mirrors"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            mirrors: mirrors
                .map(|one| (text(&one["id"]), text(&one["http"])))
                .collect(),
            members: Mutex::new(members),
            nats_program: nats.map(|exe| std::fs::read_link(exe).unwrap()),
            env: setup.env.clone(),
            local,
            up: Some(up),
            http: Http::new(),
            ports: Mutex::default(),
            dir,
        }
    }

    /// Ends it as Ctrl-C does; it must do so cleanly.
    pub fn stop(mut self) {
        for member in self.members.lock().unwrap().values_mut() {
            member.own = None;
        }
        let status = self.up.take().unwrap().end(STOP_LIMIT);
        assert!(
            status.is_some_and(|status| status.success()),
            "`local up` ended with {status:?}"
        );
        for (name, member) in &*self.members.lock().unwrap() {
            assert!(!runs(member.pid), "{name} outlived `local up`");
        }
    }

    /// The network's folder.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    /// A folder for a test's own files.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Ids of the mirrors.
    pub fn mirrors(&self) -> Vec<&str> {
        self.mirrors.iter().map(|(id, _)| id.as_str()).collect()
    }

    /// A mirror's public URL.
    pub fn url(&self, mirror: &str) -> &str {
        let found = self.mirrors.iter().find(|(id, _)| id == mirror);
        &found
            .unwrap_or_else(|| panic!("no mirror is called {mirror}"))
            .1
    }

    /// A mirror's folder, with its state and store.
    pub fn mirror_dir(&self, mirror: &str) -> PathBuf {
        self.config(mirror).parent().unwrap().to_owned()
    }

    /// Takes all that a killed mirror holds.
    pub fn wipe(&self, mirror: &str) {
        for folder in ["state", "store"] {
            std::fs::remove_dir_all(self.mirror_dir(mirror).join(folder)).unwrap();
        }
    }

    /// Where archive and mirrors serve content to mirrors.
    pub fn fetch_addresses(&self) -> Vec<&str> {
        let mirrors = self.local["mirrors"].as_array().unwrap().iter();
        let all = std::iter::once(&self.local["archive"]).chain(mirrors);
        all.map(|one| one["fetch"].as_str().unwrap()).collect()
    }

    /// nats-server's URL.
    pub fn nats(&self) -> &str {
        self.local["nats"]["url"].as_str().unwrap()
    }

    /// `local.json`.
    pub(crate) fn local(&self) -> &Value {
        &self.local
    }

    /// Takes another service in, which is yet to be started.
    pub fn add(&self, service: &'static str, name: &str, config: PathBuf, address: String) {
        let member = Member {
            service: Some(service),
            config,
            address,
            pid: 0,
            own: None,
        };
        self.members.lock().unwrap().insert(name.to_owned(), member);
    }

    /// An address that nobody else uses as long as this network lives.
    pub fn free_address(&self) -> String {
        let port = HeldPort::draw().unwrap();
        let address = format!("127.0.0.1:{}", port.number());
        self.ports.lock().unwrap().push(port);
        address
    }

    /// Another address at which a service says that it is ready.
    pub fn moved(&self, name: &str, address: &str) {
        let mut members = self.members.lock().unwrap();
        members.get_mut(name).unwrap().address = address.to_owned();
    }

    /// The configuration of a service.
    pub fn config(&self, name: &str) -> PathBuf {
        self.members.lock().unwrap()[name].config.clone()
    }

    /// Where the archive's public key is.
    pub fn key(&self) -> PathBuf {
        self.local["archive"]["key"].as_str().unwrap().into()
    }

    /// The process of a service.
    pub fn pid(&self, name: &str) -> u32 {
        self.members.lock().unwrap()[name].pid
    }

    /// What a mirror answers.
    pub fn get(&self, mirror: &str, path: &str) -> Response {
        self.http.get(&format!("{}{path}", self.url(mirror)))
    }

    /// What a mirror answers to a request of another kind.
    pub fn ask(
        &self,
        mirror: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Response {
        self.http
            .ask(method, &format!("{}{path}", self.url(mirror)), headers)
    }

    /// `/@/<channel>` of a mirror; null while it does not know the channel.
    pub fn channel(&self, mirror: &str, channel: &str) -> Value {
        let url = format!("{}/@/{channel}", self.url(mirror));
        let answer = self.http.try_ask(Method::GET, &url, &[]).ok();
        let known = answer.filter(|answer| answer.status == 200);
        known.map_or(Value::Null, |answer| answer.json())
    }

    /// The build that is live on a mirror.
    pub fn live(&self, mirror: &str, channel: &str) -> Option<u64> {
        self.channel(mirror, channel)["live"].as_u64()
    }

    /// Runs an operator's command with `--json`.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ended {
        self.run_command(&mut self.command(args))
    }

    /// An operator's command, to be changed and run.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = command(&binary(), ["--json", "--config"]);
        command.arg(self.config("archive")).args(args);
        command.envs(self.env.iter().cloned());
        command
    }

    /// Runs a command of [`Network::command`].
    pub fn run_command(&self, command: &mut Command) -> Ended {
        let begun = Instant::now();
        let output = command.output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        // As a shell says it when a command is killed.
        let killed = || 128 + output.status.signal().unwrap_or(0);
        Ended {
            code: output.status.code().unwrap_or_else(killed),
            json: serde_json::from_str(&stdout).unwrap_or_default(),
            stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            seconds: begun.elapsed().as_secs_f64(),
        }
    }

    /// `publish CHANNEL TREE …`.
    pub fn publish(&self, channel: &str, tree: &Path, more: &[&str]) -> Ended {
        let mut command = self.command(["publish", channel]);
        self.run_command(command.arg(tree).args(more))
    }

    /// Publishes and waits until all mirrors are complete; gives the build.
    #[track_caller]
    pub fn publish_everywhere(&self, channel: &str, tree: &Path) -> u64 {
        let ended = self
            .publish(channel, tree, &["--wait", "all", "--timeout", "60"])
            .ok();
        let complete = ended.json["complete"].as_array().unwrap().len();
        assert_eq!(complete, self.mirrors.len(), "{}", ended.stdout);
        ended.build()
    }

    /// `status CHANNEL`; null while there is nothing to say.
    pub fn status(&self, channel: &str) -> Value {
        self.run(["status", channel]).json
    }

    /// What `status` says of a mirror and a channel.
    pub fn standing(&self, mirror: &str, channel: &str) -> Value {
        let status = self.status(channel);
        let mut mirrors = status["mirrors"].as_array().into_iter().flatten();
        let found = mirrors.find(|one| one["id"] == mirror);
        let channels = found.and_then(|one| one["channels"].as_array());
        let found = channels.and_then(|all| all.iter().find(|one| one["channel"] == channel));
        found.cloned().unwrap_or_default()
    }

    /// Whether the mirror is live at that build and complete.
    pub fn is_complete(&self, mirror: &str, channel: &str, build: u64) -> bool {
        let standing = self.standing(mirror, channel);
        standing["live"] == build && standing["state"] == "complete"
    }

    /// Waits until mirrors are live at a build and complete.
    #[track_caller]
    pub fn await_complete(&self, mirrors: &[&str], channel: &str, build: u64) {
        for mirror in mirrors {
            let what = format!("{mirror} is complete at build {build} of {channel}");
            until(&what, || self.is_complete(mirror, channel, build));
        }
    }

    /// Kills a service, as a crash would.
    pub fn kill(&self, name: &str) {
        let mut members = self.members.lock().unwrap();
        let member = members.get_mut(name).unwrap();
        signal(member.pid, Signal::KILL);
        let pid = member.pid;
        if let Some(mut own) = member.own.take() {
            own.0.wait().unwrap();
        }
        until("the killed process is gone", || !runs(pid));
    }

    /// Starts a killed service again, and waits until it is ready.
    pub fn restart(&self, name: &str) {
        self.spawn(name);
        until_within(UP_LIMIT, &format!("{name} is ready again"), || {
            self.is_ready(name)
        });
    }

    /// Starts a killed service again.
    pub fn spawn(&self, name: &str) {
        self.spawn_by(name, &[], &[]);
    }

    /// Starts a killed service again by a launcher that becomes it, such as `ip netns exec NAME`, with more environment.
    pub fn spawn_by(&self, name: &str, launcher: &[&str], env: &[(&str, &str)]) {
        let mut members = self.members.lock().unwrap();
        let member = members.get_mut(name).unwrap();
        assert!(!runs(member.pid), "{name} is running");
        let program = match member.service {
            Some(_) => binary(),
            None => self.nats_program.clone().unwrap(),
        };
        let words = launcher.iter().map(PathBuf::from);
        let mut words = words.chain([program, "--config".into(), member.config.clone()]);
        let mut command = command(&words.next().unwrap(), words);
        if let Some(service) = member.service {
            command.args([service, "serve"]);
        }
        let logs = self.dir().join("logs");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(logs.join(format!("{name}.log")));
        let child = command
            .envs(self.env.iter().cloned())
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        member.pid = child.id();
        member.own = Some(Kept(child));
    }

    /// Stops a service in its tracks: its sockets take connections, and nobody answers.
    pub fn pause(&self, name: &str) {
        signal(self.pid(name), Signal::STOP);
    }

    /// Lets a paused service go on.
    pub fn resume(&self, name: &str) {
        signal(self.pid(name), Signal::CONT);
    }

    /// Changes the configuration of a service; it takes effect at its next start.
    pub fn configure(&self, name: &str, change: impl FnOnce(&mut toml::Table)) {
        let file = self.config(name);
        let mut config: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        change(&mut config);
        std::fs::write(file, config.to_string()).unwrap();
    }

    /// Whether a service says that it is ready.
    pub fn is_ready(&self, name: &str) -> bool {
        let (http, address) = {
            let members = self.members.lock().unwrap();
            let member = &members[name];
            assert!(runs(member.pid), "{name} has died: {}", self.log(name));
            (member.service.is_some(), member.address.clone())
        };
        if !http {
            return TcpStream::connect(address).is_ok();
        }
        let url = format!("http://{address}/readyz");
        let answer = self.http.try_ask(Method::GET, &url, &[]);
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// What a service answers at `/metrics`, `/healthz` or `/readyz`.
    pub fn ask_service(&self, name: &str, path: &str) -> Response {
        let address = self.members.lock().unwrap()[name].address.clone();
        self.http.get(&format!("http://{address}{path}"))
    }

    /// The end of a service's log.
    pub fn log(&self, name: &str) -> String {
        let file = self.dir().join("logs").join(format!("{name}.log"));
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Says everything that a reader of a failed test needs.
    fn describe(&self) {
        let mut names: Vec<String> = self.members.lock().unwrap().keys().cloned().collect();
        names.retain(|name| name != "nats");
        for name in names {
            eprintln!("--- {name}\n{}", self.log(&name));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.describe();
        }
        let Ok(members) = self.members.get_mut() else {
            return;
        };
        // The log goes last: those who use it end sooner while it is there.
        let mut nats = members.remove("nats");
        for member in members.values_mut() {
            // A paused one could not end.
            signal(member.pid, Signal::CONT);
            member.own = None;
        }
        if let Some(mut up) = self.up.take() {
            up.end(STOP_LIMIT);
        }
        for pid in members.values().chain(&nats).map(|member| member.pid) {
            if runs(pid) {
                signal(pid, Signal::KILL);
            }
        }
        if let Some(nats) = &mut nats {
            nats.own = None;
        }
    }
}

fn members(local: &Value) -> BTreeMap<String, Member> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pid = |value: &Value| u32::try_from(value["pid"].as_u64().unwrap()).unwrap();
    let service = |value: &Value, service| {
        let config = PathBuf::from(text(&value["config"]));
        Member {
            service: Some(service),
            address: http_address(&config),
            config,
            pid: pid(value),
            own: None,
        }
    };
    let mut members = BTreeMap::new();
    for name in ["archive", "consistency", "directory"] {
        members.insert(name.to_owned(), service(&local[name], name));
    }
    for mirror in local["mirrors"].as_array().unwrap() {
        members.insert(text(&mirror["id"]), service(mirror, "mirror"));
    }
    if local["nats"]["pid"].is_null() {
        return members;
    }
    let archive = &members["archive"].config;
    let nats = Member {
        service: None,
        config: archive.ancestors().nth(2).unwrap().join("nats/nats.conf"),
        address: text(&local["nats"]["url"])
            .replace("nats://", "")
            .replace("tls://", ""),
        pid: pid(&local["nats"]),
        own: None,
    };
    members.insert("nats".to_owned(), nats);
    members
}

fn http_address(config: &Path) -> String {
    let parsed: toml::Table = std::fs::read_to_string(config).unwrap().parse().unwrap();
    parsed["http"]["listen"].as_str().unwrap().to_owned()
}
