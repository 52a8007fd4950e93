//! Network namespaces around a router: the centre, two mirrors, the auditor. What the router drops is dropped in
//! silence, as on a real path.

use std::path::Path;
use std::process::Command;

/// Where everybody is: the last part of a namespace's name, and its network.
pub(super) const PLACES: [(&str, &str); 4] = [
    ("centre", "10.77.0"),
    ("nz1", "10.77.1"),
    ("nz2", "10.77.2"),
    ("consistency", "10.77.3"),
];

/// The address of a place.
pub(super) fn address(place: &str) -> String {
    let found = PLACES.iter().find(|(name, _)| *name == place);
    format!("{}.2", found.unwrap().1)
}

/// The namespaces, by what their names begin with.
#[derive(Clone, Debug)]
pub(super) struct Names(pub(super) String);

impl Names {
    pub(super) fn of(&self, place: &str) -> String {
        format!("{}{place}", self.0)
    }

    fn router(&self) -> String {
        self.of("router")
    }

    /// Takes the link of a place away, or gives it back.
    pub(super) fn link(&self, place: &str, state: &str) {
        ip(&["-n", &self.router(), "link", "set", place, state]);
    }

    /// Drops what one place sends to another, or to anybody, or lets it pass again.
    pub(super) fn drop_packets(&self, action: Drops, from: &str, to: Option<&str>) {
        let from = address(from);
        let to = to.map(address);
        let verb = match action {
            Drops::Begin => "add",
            Drops::End => "del",
        };
        let router = self.router();
        let mut args = vec!["-n", &router, "rule", verb, "from", &from];
        args.extend(to.iter().flat_map(|to| ["to", to.as_str()]));
        args.push("blackhole");
        ip(&args);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drops {
    Begin,
    End,
}

/// Namespaces that go with this.
pub(super) struct Namespaces(pub(super) Names);

impl Namespaces {
    pub(super) fn new() -> Self {
        let namespaces = Self(Names(format!("mlchaos{}", std::process::id())));
        let names = &namespaces.0;
        let router = names.router();
        for name in PLACES
            .map(|(place, _)| names.of(place))
            .iter()
            .chain([&router])
        {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        run(names
            .command("router", Path::new("sh"))
            .args(["-c", forward]));
        for (place, network) in PLACES {
            let here = names.of(place);
            let (gateway, own) = (format!("{network}.1"), format!("{network}.2/24"));
            let pair = ["type", "veth", "peer", "name", "out", "netns", &here];
            ip(&[&["-n", &router, "link", "add", place], &pair[..]].concat());
            ip(&[
                "-n",
                &router,
                "addr",
                "add",
                &format!("{gateway}/24"),
                "dev",
                place,
            ]);
            ip(&["-n", &here, "addr", "add", &own, "dev", "out"]);
            ip(&["-n", &router, "link", "set", place, "up"]);
            ip(&["-n", &here, "link", "set", "out", "up"]);
            ip(&["-n", &here, "route", "add", "default", "via", &gateway]);
        }
        namespaces
    }
}

impl Names {
    /// A program in a place.
    pub(super) fn command(&self, place: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.of(place)])
            .arg(program);
        command
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let places = PLACES.map(|(place, _)| place);
        for place in places.iter().chain(&["router"]) {
            let name = self.0.of(place);
            Command::new("ip")
                .args(["netns", "del", &name])
                .status()
                .ok();
        }
    }
}

fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}

fn run(command: &mut Command) {
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{command:?} (needs root): {said}");
}
