//! Days of a mirror on a slow link, simulated: the mirror's own state machine over a simulated clock and link, beside
//! rsync started by cron. How old is what readers get?
//!
//! A build replaces some of the packages that the build before brought, and adds others; content that is here is not
//! fetched again, on either side. rsync begins every few hours, if its last run has ended, and copies what the archive
//! has at that moment, package by package, while further builds come out: a copy that a build came out under has indexes
//! of one build and packages of another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Parser;
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane};
use mirrorlog_core::mirror::{Channel, Effect, HeadSeen, Input, Policy, Target};
use mirrorlog_core::time::Timestamp;

/// Simulates days of a mirror on a slow link.
#[derive(Debug, Parser)]
struct Args {
    /// Days
    #[arg(long, default_value_t = 2)]
    days: u32,
    /// The link, in Mbit/s
    #[arg(long, default_value_t = 20.0)]
    mbit: f64,
    /// Minutes between builds
    #[arg(long, default_value_t = 60)]
    every: u32,
    /// Least and most that a build brings, in MB
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 3000])]
    megabytes: Vec<u64>,
    /// Hours between two starts of rsync
    #[arg(long, default_value_t = 5)]
    cron: u32,
    /// Percent of a build's packages that the next one replaces
    #[arg(long, default_value_t = 30)]
    replaced: u64,
    /// Seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// File for the plot
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// Packages that a build brings.
const PACKAGES: u64 = 40;
/// Simulated seconds of a step.
const STEP_S: u32 = 10;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

type Package = u64;

/// What the archive has published: packages of each build, and sizes.
struct Archive {
    builds: BTreeMap<Build, (i64, BTreeSet<Package>)>,
    bytes: BTreeMap<Package, u64>,
    last: Vec<Package>,
}

impl Archive {
    fn publish(&mut self, now: i64, args: &Args, dice: &mut Dice) -> Build {
        let (least, most) = (args.megabytes[0], args.megabytes[1]);
        let bytes = (least + dice.below(most - least + 1)) * 1_000_000;
        let mut packages = self
            .builds
            .last_key_value()
            .map(|(_, (_, all))| all.clone());
        let all = packages.get_or_insert_default();
        for old in std::mem::take(&mut self.last) {
            if dice.below(100) < args.replaced {
                all.remove(&old);
            }
        }
        for _ in 0..PACKAGES {
            let package = self.bytes.len() as Package;
            self.bytes.insert(package, bytes / PACKAGES);
            self.last.push(package);
            all.insert(package);
        }
        let number = self.builds.len() as u64 + 1;
        let build = Build::new(number).unwrap();
        self.builds.insert(build, (now, packages.unwrap()));
        build
    }

    fn target(&self, build: Build) -> Target {
        Target {
            build,
            base: Build::new(build.get() - 1),
            root: Digest::of(&build.get().to_le_bytes()),
            created: Timestamp::from_seconds(self.builds[&build].0),
        }
    }

    fn missing(&self, build: Build, here: &Here) -> u64 {
        let lacking = self.builds[&build].1.difference(&here.whole);
        lacking
            .map(|package| self.bytes[package] - here.begun.get(package).copied().unwrap_or(0))
            .sum()
    }
}

/// What one side has.
#[derive(Default)]
struct Here {
    whole: BTreeSet<Package>,
    begun: BTreeMap<Package, u64>,
    fetched: u64,
}

impl Here {
    /// Takes what the link gives of these packages; gives what is left of it.
    fn fetch(&mut self, wanted: &BTreeSet<Package>, archive: &Archive, mut link: u64) -> u64 {
        let lacking: Vec<Package> = wanted.difference(&self.whole).copied().collect();
        for package in lacking {
            let begun = self.begun.entry(package).or_default();
            let part = link.min(archive.bytes[&package] - *begun);
            (*begun, link, self.fetched) = (*begun + part, link - part, self.fetched + part);
            if *begun < archive.bytes[&package] {
                break;
            }
            self.begun.remove(&package);
            self.whole.insert(package);
        }
        link
    }
}

/// The mirror's state machine, and a shell that does at once what it asks for; only the link takes time.
struct Ours {
    channel: Channel,
    policy: Policy,
    here: Here,
    syncing: Option<Target>,
    lives: Vec<(i64, Build)>,
}

impl Ours {
    fn step(&mut self, input: Input, archive: &Archive, now: i64) {
        let before = self.channel.live;
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let effects = self
                .channel
                .step(&self.policy, input, Timestamp::from_seconds(now));
            for effect in effects {
                match effect {
                    Effect::Start { target, .. } => self.syncing = Some(target),
                    Effect::Cancel { .. } => self.syncing = None,
                    Effect::Plan { lane, target } => inputs.push(Input::Planned {
                        lane,
                        build: target.build,
                        missing_bytes: archive.missing(target.build, &self.here),
                    }),
                    Effect::Serve
                    | Effect::Ack { .. }
                    | Effect::Collect { .. }
                    | Effect::Heal { .. }
                    | Effect::Backfill { .. }
                    | Effect::AskJournal { .. }
                    | Effect::Report => {}
                }
            }
        }
        if self.channel.live != before {
            let live = self.channel.live.unwrap();
            // A whole build: each of its packages is here.
            assert_eq!(archive.missing(live, &self.here), 0);
            self.lives.push((now, live));
        }
    }
}

/// rsync's copy.
#[derive(Default)]
struct Cron {
    here: Here,
    /// What the run copies: the build at its start, and whether another came out since.
    run: Option<(Build, bool)>,
    copies: Vec<(i64, Build, bool)>,
    skipped: u32,
}

fn main() {
    let args = Args::parse();
    let mut dice = Dice(args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut archive = Archive {
        builds: BTreeMap::new(),
        bytes: BTreeMap::new(),
        last: Vec::new(),
    };
    let mut ours = Ours {
        channel: Channel::new(ChannelId::new("noble").unwrap()),
        policy: Policy::default(),
        here: Here::default(),
        syncing: None,
        lives: Vec::new(),
    };
    let mut cron = Cron::default();
    let per_step = (args.mbit * 1e6 / 8.0 * f64::from(STEP_S)) as u64;
    let end = i64::from(args.days) * 86_400;
    let mut ages: Vec<(i64, [i64; 2])> = Vec::new();
    for now in (0..end).step_by(STEP_S as usize) {
        if now % (i64::from(args.every) * 60) == 0 {
            let build = archive.publish(now, &args, &mut dice);
            if now == 0 {
                // Both begin with the first build.
                let all = archive.builds[&build].1.clone();
                (ours.here.whole, cron.here.whole) = (all.clone(), all);
            }
            if let Some((_, came_out)) = &mut cron.run {
                *came_out = true;
            }
            let target = archive.target(build);
            let head = HeadSeen {
                build,
                root: target.root,
                retractions: Digest::of(b""),
                issued: target.created,
                expires: target.created.plus_ms(7 * 86_400_000),
            };
            ours.step(Input::Head(head), &archive, now);
            let snapshot = Input::Snapshot {
                target,
                lane: Lane::Bulk,
                sequence: Some(build.get()),
            };
            ours.step(snapshot, &archive, now);
        }
        follow(&mut ours, &archive, now, per_step);
        copy(&mut cron, &archive, &args, now, per_step);
        let age = |live: Option<Build>| live.map_or(now, |live| age_of(&archive, live, now));
        ages.push((
            now,
            [
                age(ours.channel.live),
                age(cron.copies.last().map(|copy| copy.1)),
            ],
        ));
    }
    tell(&args, &archive, &ours, &cron, &ages);
    if let Some(file) = &args.plot {
        std::fs::write(file, plot(&args, &ages, end)).unwrap();
    }
}

/// For how long there has been a newer build.
fn age_of(archive: &Archive, live: Build, now: i64) -> i64 {
    let newer = archive.builds.range(live..).nth(1);
    newer.map_or(0, |(_, (published, _))| now - published)
}

fn follow(ours: &mut Ours, archive: &Archive, now: i64, mut link: u64) {
    while let Some(target) = ours.syncing {
        let wanted = archive.builds[&target.build].1.clone();
        link = ours.here.fetch(&wanted, archive, link);
        let remaining_bytes = archive.missing(target.build, &ours.here);
        if remaining_bytes > 0 {
            let (lane, build) = (Lane::Bulk, target.build);
            ours.step(
                Input::Progress {
                    lane,
                    build,
                    remaining_bytes,
                },
                archive,
                now,
            );
            break;
        }
        ours.syncing = None;
        let (lane, build) = (Lane::Bulk, target.build);
        ours.step(Input::Staged { lane, build }, archive, now);
    }
    ours.step(
        Input::Tick {
            leased: BTreeSet::new(),
        },
        archive,
        now,
    );
}

fn copy(cron: &mut Cron, archive: &Archive, args: &Args, now: i64, link: u64) {
    if now % (i64::from(args.cron) * 3600) == 0 {
        let newest = *archive.builds.last_key_value().unwrap().0;
        match cron.run {
            // A lock file keeps the second away from the first.
            Some(_) => cron.skipped += 1,
            None => cron.run = Some((newest, false)),
        }
    }
    if let Some((build, came_out)) = cron.run {
        let wanted = archive.builds[&build].1.clone();
        cron.here.fetch(&wanted, archive, link);
        if archive.missing(build, &cron.here) == 0 {
            cron.copies.push((now, build, came_out));
            cron.run = None;
        }
    }
}

fn tell(args: &Args, archive: &Archive, ours: &Ours, cron: &Cron, ages: &[(i64, [i64; 2])]) {
    println!(
        "{} days, a link of {} Mbit/s, a build of {} to {} MB every {} minutes: {} builds",
        args.days,
        args.mbit,
        args.megabytes[0],
        args.megabytes[1],
        args.every,
        archive.builds.len()
    );
    let minutes = |side: usize| {
        let mut all: Vec<i64> = ages.iter().map(|(_, both)| both[side]).collect();
        all.sort_unstable();
        let mean = all.iter().sum::<i64>() as f64 / all.len() as f64;
        let late = all[all.len() * 95 / 100];
        [mean, late as f64, *all.last().unwrap() as f64].map(|seconds| seconds / 60.0)
    };
    let [mean, late, most] = minutes(0);
    println!(
        "mirrorlog: {} builds went live, each whole; {mean:.0} minutes behind on average, 95 % of the time at most {late:.0}, {most:.0} at most; {:.1} GB fetched",
        ours.lives.len(),
        ours.here.fetched as f64 / 1e9
    );
    let [mean, late, most] = minutes(1);
    let mixed = cron.copies.iter().filter(|copy| copy.2).count();
    println!(
        "rsync every {} h: {} copies, a build came out under {mixed} of them; {mean:.0} minutes behind on average, 95 % of the time at most {late:.0}, {most:.0} at most; {:.1} GB fetched; {} starts skipped, for the last run had not ended",
        args.cron,
        cron.copies.len(),
        cron.here.fetched as f64 / 1e9,
        cron.skipped
    );
}

/// How old what is live is, over time: two lines.
fn plot(args: &Args, ages: &[(i64, [i64; 2])], end: i64) -> String {
    let (width, height, left, top) = (760.0, 260.0, 60.0, 40.0);
    let highest = ages
        .iter()
        .flat_map(|(_, both)| both)
        .max()
        .copied()
        .unwrap_or(1)
        .max(3600);
    let x = |at: i64| left + at as f64 / end as f64 * width;
    let y = |age: i64| top + height - age as f64 / highest as f64 * height;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"20\">How long there has been a newer build than the live one: {} Mbit/s, builds of {} to {} MB every {} minutes</text>\n",
        left + width + 20.0,
        top + height + 50.0,
        args.mbit,
        args.megabytes[0],
        args.megabytes[1],
        args.every
    );
    for hour in (0..=highest / 3600).step_by(usize::try_from(highest / 3600 / 6 + 1).unwrap()) {
        let at = y(hour * 3600);
        writeln!(svg, "<line x1=\"{left}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{hour} h</text>", left + width, left - 8.0, at + 4.0).unwrap();
    }
    for hour in (0..=end / 3600).step_by(6) {
        let at = x(hour * 3600);
        writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{hour}</text>",
            top + height + 18.0
        )
        .unwrap();
    }
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">hours</text>",
        left + width / 2.0,
        top + height + 36.0
    )
    .unwrap();
    for (side, colour, name) in [
        (1, "#c44e52", format!("rsync every {} h", args.cron)),
        (0, "#1f6f8b", "mirrorlog".to_owned()),
    ] {
        let points: Vec<String> = ages
            .iter()
            .step_by(6)
            .map(|(at, both)| format!("{:.1},{:.1}", x(*at), y(both[side])))
            .collect();
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
            points.join(" ")
        )
        .unwrap();
        let at = top + 14.0 + 16.0 * f64::from(side == 0);
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{at}\" fill=\"{colour}\" text-anchor=\"end\">{name}</text>",
            left + width
        )
        .unwrap();
    }
    svg.push_str("</svg>\n");
    svg
}
