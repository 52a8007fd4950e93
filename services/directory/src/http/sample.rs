//! A directory with a story, for tests of what people see: thirteen mirrors in six countries, three channels. One
//! mirror is down, one returns, one is behind, one was revoked, one is private; one channel's head has expired.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use fetcher::client::Source;
use fetcher::manifests::Manifests;
use mirrorlog_core::directory::health::Probed;
use mirrorlog_core::directory::place::{Asn, Network};
use mirrorlog_core::directory::speed::{Outcome, Sample as Word};
use mirrorlog_core::directory::{Directory, Input, View};
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{Head, Retraction, RevokeReason, Snapshot, Verdict, VerdictState};
use mirrorlog_core::time::Timestamp;
use runtime::boot::Health;
use runtime::store::Store;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::config::Config;
use crate::feedback::Intake;
use crate::gauges::Gauges;
use crate::geo::Geo;
use crate::pieces::Library;
use crate::resolve::Addresses;
use crate::site::{Site, Views};
use crate::traces::Traces;
use crate::trees::Trees;

pub(super) const MINUTE: i64 = 60 * 1000;
pub(super) const DAY: i64 = 24 * 60 * MINUTE;
/// What an operator might paste.
pub(super) const HOSTILE: &str = "<script>alert('x')</script> & \"Sons\"";

const USUAL: &str = r#"
    [directory]
    state = "state"
    [archive]
    fetch = "127.0.0.1:1"
    keys = ["archive.pub"]
    [consistency]
    keys = ["consistency.pub"]
    [nats]
    url = "nats://127.0.0.1:1"
    [http]
    listen = "127.0.0.1:0"
"#;

/// Id, pool, URL, and more lines.
const MIRRORS: [(&str, &str, &str, &str); 13] = [
    (
        "au1",
        "au",
        "https://mirror.aarnet.example/mirrorlog",
        "sponsor = 'AARNet'\nasn = 64500",
    ),
    ("au2", "au", "http://syd.mirrors.example", "weight = 50"),
    (
        "ch1",
        "ch",
        "https://mirror.init7.example",
        "sponsor = 'Init7'\naddresses = ['192.0.2.9', '2001:db8::9']",
    ),
    (
        "ch2",
        "ch",
        "http://pkg.switch.example",
        "channels = ['noble', 'noble-security']",
    ),
    (
        "corp1",
        "nz",
        "http://10.20.0.5",
        "private = true\nnetblocks = ['10.20.0.0/16']",
    ),
    (
        "de1",
        "de",
        "https://ftp.hosteurope.example",
        "weight = 300",
    ),
    (
        "de2",
        "de",
        "https://mirror.uni-jena.example",
        "sponsor = 'Friedrich-Schiller-Universität Jena'",
    ),
    ("de3", "de", "http://ftp-stud.hs-esslingen.example", ""),
    (
        "jp1",
        "jp",
        "https://ftp.jaist.example/pub",
        "sponsor = 'JAIST'",
    ),
    (
        "nz1",
        "nz",
        "https://mirror.fsmg.example",
        "netblocks = ['192.0.2.0/24', '2001:db8::/32']",
    ),
    ("nz2", "nz", "http://ucmirror.example", ""),
    (
        "us-east1",
        "us-east",
        "https://mirrors.mit.example",
        "sponsor = 'MIT SIPB'\nchannels = ['noble', 'noble-security']",
    ),
    (
        "us-west1",
        "us-west",
        "https://mirrors.ocf.example",
        "sponsor = '''<script>alert('x')</script> & \"Sons\"'''",
    ),
];

pub(super) struct Sample {
    dir: TempDir,
    config: Config,
    pub(super) fold: Directory,
    pub(super) now: Timestamp,
}

impl Sample {
    /// Knows its mirrors and nothing else.
    pub(super) fn new(mirrors: &[(&str, &str, &str, &str)]) -> Self {
        let blocks = mirrors.iter().map(|(id, pool, url, more)| {
            format!("[[mirrors]]\nid = '{id}'\npool = '{pool}'\nurl = '{url}'\n{more}\n")
        });
        let text = format!("{USUAL}{}", blocks.collect::<String>());
        let config: Config = toml::from_str(&text).unwrap();
        let profiles = config.mirrors.iter().map(|mirror| mirror.profile());
        Self {
            dir: tempfile::tempdir().unwrap(),
            fold: Directory::new(config.probe_rules(), profiles.collect()),
            config,
            now: Timestamp::from_seconds(1_795_305_030),
        }
    }

    pub(super) fn empty() -> Self {
        Self::new(&[])
    }

    pub(super) fn named(mut self, name: &str) -> Self {
        self.config.directory.name = name.to_owned();
        self
    }

    pub(super) fn view(&self) -> &View {
        self.fold.view()
    }

    pub(super) fn site(&self) -> Site {
        let store = Store::open(self.dir.path()).unwrap();
        let source = Source::new(&self.config.archive.fetch).unwrap();
        let (_, views) = watch::channel(Arc::new(self.view().clone()));
        let mirrors = self.config.mirrors.clone().into_iter();
        let numbered = mirrors.map(|mirror| (self.view().find(&mirror.id).unwrap(), mirror));
        let addresses = Addresses::declared(&numbered.collect::<Vec<_>>());
        let trees = Trees::new(Manifests::new(store, 0, source));
        Site::new(&self.config, Views(views), Geo::default(), addresses, trees)
    }

    /// Everything that is answered, with this moment for ever.
    pub(super) fn router(&self) -> axum::Router {
        let (intake, _) = Intake::new(self.config.feedback);
        let health = Health::new();
        health.started();
        super::router(
            Arc::new(self.site()),
            Gauges::default(),
            Library::new(self.config.metalink).unwrap(),
            intake,
            Traces::new(self.dir.path()),
            health,
        )
    }

    fn feed(&mut self, input: Input, ago_ms: i64) {
        self.fold.step(input, self.now.plus_ms(-ago_ms));
    }

    pub(super) fn publish(&mut self, channel: &str, number: u64, ago_ms: i64) {
        self.sign(channel, number, root(number), ago_ms);
        self.first_head(channel);
    }

    /// As the archive does: no channel without a head. One that a test signs itself is newer.
    pub(super) fn first_head(&mut self, channel: &str) {
        let known = self.fold.view().channel(&id(channel));
        if known.is_some_and(|carried| carried.channel.head.is_some()) {
            return;
        }
        let head = Head {
            channel: id(channel),
            build: Build::FIRST,
            root: root(1),
            retractions: root(0),
            issued: Timestamp::EPOCH,
            expires: self.now.plus_ms(7 * DAY),
        };
        self.feed(Input::Head(head), 0);
    }

    /// Signs a number again, with another root.
    pub(super) fn fork(&mut self, channel: &str, number: u64) {
        self.sign(channel, number, root(0), 0);
    }

    fn sign(&mut self, channel: &str, number: u64, root: Digest, ago_ms: i64) {
        let security = channel.ends_with("security");
        let (mount, layout) = match channel {
            "openbsd-amd64" => ("/pub/OpenBSD", Layout::OpenBsd),
            _debian => ("/ubuntu", Layout::Debian),
        };
        let snapshot = Snapshot {
            channel: id(channel),
            build: build(number),
            base: None,
            root,
            previous: None,
            created: self.now.plus_ms(-ago_ms),
            entries: if security { 4_211 } else { 118_302 + number },
            bytes: if security {
                5_230_000_000
            } else {
                96_400_000_000
            },
            lane: if security { Lane::Priority } else { Lane::Bulk },
            mount: Mount::new(mount).unwrap(),
            layout,
            precedence: 0,
            notices: Vec::new(),
        };
        self.feed(Input::Snapshot(snapshot), ago_ms);
    }

    pub(super) fn retract(&mut self, channel: &str, number: u64) {
        let retraction = Retraction {
            channel: id(channel),
            sequence: 1,
            first: build(number),
            last: build(number),
            reason: "bad libc".to_owned(),
            replacement: None,
            created: self.now,
        };
        self.feed(Input::Retraction(retraction), 0);
    }

    /// The head expires so many milliseconds from now.
    pub(super) fn head(&mut self, channel: &str, left_ms: i64) {
        let head = Head {
            channel: id(channel),
            build: Build::FIRST,
            root: root(1),
            retractions: root(0),
            issued: self.now.plus_ms(left_ms - 7 * DAY),
            expires: self.now.plus_ms(left_ms),
        };
        self.feed(Input::Head(head), 0);
    }

    pub(super) fn say(
        &mut self,
        mirror: &str,
        channel: &str,
        number: u64,
        state: VerdictState,
        ago_ms: i64,
    ) {
        let verdict = Verdict {
            mirror: MirrorId::new(mirror).unwrap(),
            pool: PoolId::new("nz").unwrap(),
            channel: id(channel),
            build: build(number),
            root: root(number),
            view: mirrorlog_core::view::View::All,
            state,
            issued: self.now.plus_ms(-ago_ms),
            lease_revision: 1,
            audited_files: 0,
            new_files: 0,
        };
        self.feed(Input::Verdict(verdict), ago_ms);
    }

    pub(super) fn complete(&mut self, mirror: &str, channel: &str, number: u64, ago_ms: i64) {
        self.say(mirror, channel, number, VerdictState::Complete, ago_ms);
    }

    pub(super) fn wanted(&mut self, channel: &str, pool: &str, number: u64) {
        let wanted = Input::Wanted {
            channel: id(channel),
            pool: PoolId::new(pool).unwrap(),
            build: Some(build(number)),
        };
        self.feed(wanted, 0);
    }

    pub(super) fn probed(&mut self, mirror: &str, probed: Probed, ago_ms: i64) {
        let mirror = self.view().find(&MirrorId::new(mirror).unwrap()).unwrap();
        let looked = Vec::new();
        self.feed(
            Input::Probed {
                mirror,
                probed,
                looked,
            },
            ago_ms,
        );
    }

    pub(super) fn answers(&mut self, mirror: &str, latency_ms: f64, ago_ms: i64) {
        self.probed(mirror, Probed::Answered { latency_ms }, ago_ms);
    }

    /// Three networks saw this speed, in bytes a second.
    fn measured(&mut self, mirror: &str, speed: f64) {
        let mirror = self.view().find(&MirrorId::new(mirror).unwrap()).unwrap();
        for network in 1..=3 {
            let word = Word {
                mirror,
                network: Network::As(Asn(network)),
                source: 1,
                at: self.now,
                outcome: Outcome::Speed(speed),
            };
            self.feed(Input::Sample(word), 0);
        }
    }

    /// The whole story.
    pub(super) fn story() -> Self {
        let mut sample = Self::new(&MIRRORS).named("mirrors.example.org");
        sample.channel("noble", 38..=42, 6 * 60 * MINUTE, 25 * MINUTE);
        sample.channel("noble-security", 7..=9, DAY, 3 * MINUTE);
        sample.channel("openbsd-amd64", 3..=4, 9 * DAY, 16 * DAY);
        sample.head("noble", 6 * DAY + 23 * 60 * MINUTE);
        sample.head("noble-security", 6 * DAY + 23 * 60 * MINUTE);
        sample.head("openbsd-amd64", -2 * DAY);
        for (place, (mirror, ..)) in MIRRORS.iter().enumerate() {
            let latency_ms = 4.0 + 31.5 * place as f64;
            sample.answers(mirror, latency_ms, (place as i64 + 2) * DAY);
            sample.answers(mirror, latency_ms * 1.4, (place as i64 * 2 + 1) * 1000);
        }
        for (mirror, speed) in [
            ("ch1", 112e6),
            ("de1", 48.3e6),
            ("jp1", 21e6),
            ("nz1", 9.4e6),
            ("us-west1", 31.7e6),
            ("au2", 0.74e6),
        ] {
            sample.measured(mirror, speed);
        }
        // A mirror that is down, and one that comes back.
        for mirror in ["de3", "us-east1"] {
            sample.probed(mirror, Probed::Silent, 13 * MINUTE);
            sample.probed(mirror, Probed::Silent, 12 * MINUTE);
        }
        sample.answers("us-east1", 88.0, 10_000);
        let path =
            EntryPath::new(b"pool/main/o/openssl/openssl_3.0.13-0ubuntu3_amd64.deb").unwrap();
        let mismatch = VerdictState::Revoked(RevokeReason::DigestMismatch { path });
        sample.say("au2", "noble", 42, mismatch, 4 * MINUTE);
        sample.say("de2", "noble-security", 9, VerdictState::Verified, MINUTE);
        sample.fold.step(Input::Tick, sample.now);
        sample
    }

    /// Everybody is complete at every build, except au1 and nz2, which lack the newest.
    fn channel(
        &mut self,
        channel: &str,
        numbers: std::ops::RangeInclusive<u64>,
        every_ms: i64,
        ago_ms: i64,
    ) {
        let newest = *numbers.end();
        for number in numbers {
            let age = ago_ms + (newest - number) as i64 * every_ms;
            self.publish(channel, number, age);
            for (mirror, ..) in MIRRORS {
                let late = ["nz2", "au1"].contains(&mirror) && number == newest;
                let carried = mirror != "us-east1" && mirror != "ch2" || channel != "openbsd-amd64";
                if late {
                    self.say(mirror, channel, number, VerdictState::Pending, age - MINUTE);
                } else if carried {
                    self.complete(mirror, channel, number, age - MINUTE);
                }
            }
        }
        for pool in ["au", "ch", "de", "jp", "nz", "us-east", "us-west"] {
            let number = newest - u64::from(pool == "au" && channel == "noble");
            self.wanted(channel, pool, number);
        }
    }
}

fn id(channel: &str) -> ChannelId {
    ChannelId::new(channel).unwrap()
}

pub(super) fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

fn root(number: u64) -> Digest {
    Digest::of(&number.to_be_bytes())
}
