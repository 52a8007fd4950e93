//! A fold, and beside it what the outside knows: built from inputs alone, without the fold's help.

use super::*;
use crate::directory::exclude::ExcludeReason;
use crate::directory::health::ProbeRules;
use crate::directory::member::Profile;
use crate::directory::offer::{Offer, Unanswered};
use crate::directory::speed::Outcome;

/// A word of the consistency service.
#[derive(Clone, Debug)]
pub(super) struct Saying {
    pub(super) mirror: &'static str,
    pub(super) channel: &'static str,
    pub(super) build: u64,
    pub(super) root: Digest,
    pub(super) state: VerdictState,
}

impl Saying {
    pub(super) fn complete(mirror: &'static str, build: u64) -> Self {
        Self {
            mirror,
            channel: NOBLE,
            build,
            root: root(build),
            state: VerdictState::Complete,
        }
    }
}

/// A question with its own parts.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) channel: ChannelId,
    pub(super) build: Option<Build>,
    pub(super) place: Place,
}

impl Asked {
    pub(super) fn wanted(place: Place) -> Self {
        Self {
            channel: channel(NOBLE),
            build: None,
            place,
        }
    }

    pub(super) fn pinned(place: Place, number: u64) -> Self {
        Self {
            build: Some(build(number)),
            ..Self::wanted(place)
        }
    }

    pub(super) fn at(&self, now: Timestamp) -> Question<'_> {
        Question {
            needs: Default::default(),
            channel: &self.channel,
            build: self.build,
            place: &self.place,
            now,
        }
    }

    /// Every kind of question.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for place in places() {
            for name in CHANNELS {
                let pins = (1..=LAST).map(Some).chain([None]);
                all.extend(pins.map(|pin| Self {
                    channel: channel(name),
                    build: pin.map(build),
                    place,
                }));
            }
        }
        all
    }
}

/// What the outside knows.
#[derive(Default)]
pub(super) struct Oracle {
    pub(super) signed: BTreeMap<(ChannelId, Build), Digest>,
    pub(super) retracted: BTreeSet<(ChannelId, Build)>,
    pub(super) forked: BTreeSet<ChannelId>,
    pub(super) heads: BTreeMap<ChannelId, (Timestamp, Timestamp)>,
    pub(super) said: BTreeMap<(MirrorId, ChannelId, Build), (VerdictState, Digest)>,
    /// How many probes since one answered; none before the first that did.
    pub(super) silent: BTreeMap<MirrorId, u32>,
    /// The last build that a probe looked at, and whether it was served.
    pub(super) looked: BTreeMap<(MirrorId, ChannelId), (Build, bool)>,
}

pub(super) struct World {
    pub(super) directory: Directory,
    pub(super) oracle: Oracle,
    pub(super) now: Timestamp,
    pub(super) lease: u64,
    retractions: u64,
}

impl World {
    /// Knows its mirrors and nothing else.
    pub(super) fn new() -> Self {
        let profile = |name: &&str| Profile::new(mirror(name), pool_of(name));
        let mut profiles: Vec<Profile> = MIRRORS.iter().map(profile).collect();
        let blocks = |all: &[&str]| all.iter().map(|block| block.parse().unwrap()).collect();
        for profile in &mut profiles {
            match profile.mirror.as_str() {
                "au1" => profile.netblocks = blocks(&["10.0.0.0/8", "2001:db8::/32"]),
                "ch1" => profile.asn = Some(Asn(64_500)),
                "nz2" => profile.weight = 300,
                "nz3" => {
                    profile.audience = Audience::Private;
                    profile.netblocks = blocks(&["10.7.0.0/16", "2001:db8::/48"]);
                }
                "us1" => profile.netblocks = blocks(&["10.7.7.0/25"]),
                "us2" => profile.channels = vec![channel(NOBLE)],
                _other => {}
            }
        }
        Self {
            directory: Directory::new(ProbeRules { every_ms: 30_000 }, profiles),
            oracle: Oracle::default(),
            now: Timestamp::from_seconds(2_000),
            lease: 1,
            retractions: 0,
        }
    }

    /// All mirrors answer; in each channel they are complete at builds 1 and 2, and 2 is wanted everywhere.
    pub(super) fn settled() -> Self {
        let mut world = Self::new();
        for name in CHANNELS {
            for number in [1, 2] {
                world.apply(&Op::Publish(name, number));
                for mirror in MIRRORS {
                    world.say(&Saying {
                        channel: name,
                        ..Saying::complete(mirror, number)
                    });
                }
            }
            for pool in POOLS {
                world.want(name, pool, Some(2));
            }
        }
        for mirror in MIRRORS {
            world.answers(mirror);
        }
        world
    }

    pub(super) fn view(&self) -> &View {
        self.directory.view()
    }

    pub(super) fn find(&self, name: &str) -> MirrorIndex {
        self.view().find(&mirror(name)).unwrap()
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Effect> {
        self.directory.step(input, self.now)
    }

    pub(super) fn publish(&mut self, number: u64) {
        self.apply(&Op::Publish(NOBLE, number));
    }

    pub(super) fn say(&mut self, saying: &Saying) -> Vec<Effect> {
        let verdict = verdict(saying, self.now, self.lease);
        let effects = self.feed(Input::Verdict(verdict.clone()));
        if effects.is_empty() {
            let key = (verdict.mirror, verdict.channel, verdict.build);
            self.oracle.said.insert(key, (verdict.state, verdict.root));
        }
        effects
    }

    /// These are complete at a build.
    pub(super) fn complete(&mut self, number: u64, mirrors: &[&'static str]) {
        for mirror in mirrors {
            assert_eq!(self.say(&Saying::complete(mirror, number)), []);
        }
    }

    pub(super) fn want(&mut self, name: &str, of: &str, number: Option<u64>) {
        self.feed(Input::Wanted {
            channel: channel(name),
            pool: pool(of),
            build: number.map(build),
        });
    }

    pub(super) fn wanted(&mut self, number: u64, pools: &[&str]) {
        for pool in pools {
            self.want(NOBLE, pool, Some(number));
        }
    }

    pub(super) fn answers(&mut self, name: &'static str) {
        self.apply(&Op::Answers(name, None));
    }

    /// Nothing comes from it, twice.
    pub(super) fn dies(&mut self, name: &'static str) {
        self.apply(&Op::Silent(name));
        self.apply(&Op::Silent(name));
    }

    pub(super) fn retract(&mut self, first: u64, last: u64) {
        self.apply(&Op::Retract(NOBLE, first, last));
    }

    /// Four clients in each of three networks saw the same speed.
    pub(super) fn measure(&mut self, name: &str, speed: f64) {
        let mirror = self.find(name);
        for network in 1..=3 {
            for source in 0..4 {
                self.feed(Input::Sample(Sample {
                    mirror,
                    network: Network::As(Asn(network)),
                    source,
                    at: self.now,
                    outcome: Outcome::Speed(speed),
                }));
            }
        }
        self.apply(&Op::Tick(2_000));
    }

    pub(super) fn offer(&self, asked: &Asked) -> Result<Offer, Unanswered> {
        self.view().offer(&asked.at(self.now))
    }

    pub(super) fn excluded(
        &self,
        asked: &Asked,
    ) -> Result<Vec<(MirrorIndex, ExcludeReason)>, Unanswered> {
        self.view().excluded(&asked.at(self.now))
    }

    pub(super) fn build_for(&self, place: Place) -> Option<u64> {
        let asked = Asked::wanted(place);
        let build = self.view().build_for(&asked.at(self.now)).unwrap();
        build.map(Build::get)
    }

    /// Who is offered, the best first.
    pub(super) fn offered(&self, asked: &Asked) -> Vec<&str> {
        let ranked = self.offer(asked).unwrap().ranked;
        names(self.view(), ranked.iter().map(|one| one.mirror))
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Publish(name, number) => {
                let key = (channel(name), build(*number));
                self.oracle.signed.entry(key).or_insert(root(*number));
                self.feed(snapshot(name, *number, root(*number)));
                // As the archive does: no channel without a head.
                if !self.oracle.heads.contains_key(&channel(name)) {
                    let times = (Timestamp::EPOCH, self.now.plus_ms(1 << 50));
                    self.oracle.heads.insert(channel(name), times);
                    self.feed(head(name, times.0, times.1));
                }
            }
            Op::Fork(name, number) => {
                let key = (channel(name), build(*number));
                let signed = *self.oracle.signed.entry(key).or_insert(root(99));
                if signed != root(99) {
                    self.oracle.forked.insert(channel(name));
                }
                self.feed(snapshot(name, *number, root(99)));
            }
            Op::Retract(name, first, last) => {
                self.retractions += 1;
                let builds = (*first..=*last).map(|number| (channel(name), build(number)));
                self.oracle.retracted.extend(builds);
                self.feed(retraction(name, self.retractions, *first, *last));
            }
            Op::Say(saying) => _ = self.say(saying),
            Op::Want(name, pool, number) => self.want(name, pool, *number),
            Op::Head(name, age_ms, left_ms) => {
                let times = (self.now.plus_ms(-age_ms), self.now.plus_ms(*left_ms));
                let heads = &mut self.oracle.heads;
                let known = heads.entry(channel(name)).or_insert(times);
                if known.0 < times.0 {
                    *known = times;
                }
                self.feed(head(name, times.0, times.1));
            }
            Op::Answers(name, looked) => {
                self.oracle.silent.insert(mirror(name), 0);
                let looked = looked.map(|(name, number, serves)| {
                    let (channel, build) = (channel(name), build(number));
                    (channel, build, serves)
                });
                if let Some((channel, build, serves)) = &looked {
                    let key = (mirror(name), channel.clone());
                    self.oracle.looked.insert(key, (*build, *serves));
                }
                self.feed(Input::Probed {
                    mirror: self.find(name),
                    probed: Probed::Answered { latency_ms: 20.0 },
                    looked: looked.into_iter().collect(),
                });
            }
            Op::Silent(name) => {
                if let Some(silent) = self.oracle.silent.get_mut(&mirror(name)) {
                    *silent += 1;
                }
                self.feed(Input::Probed {
                    mirror: self.find(name),
                    probed: Probed::Silent,
                    looked: Vec::new(),
                });
            }
            Op::Sample(name, network, source, outcome) => {
                self.feed(Input::Sample(Sample {
                    mirror: self.find(name),
                    network: *network,
                    source: *source,
                    at: self.now,
                    outcome: *outcome,
                }));
            }
            Op::Tick(ms) => {
                self.now = self.now.plus_ms(*ms);
                self.feed(Input::Tick);
            }
        }
    }
}
