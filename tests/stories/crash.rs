//! Processes are killed at random moments while builds are published and read.
//!
//! `MIRRORLOG_E2E_KILLS` says how often (10); `MIRRORLOG_E2E_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::{Http, Network, Tree, until_within};
use reqwest::Method;

const CHANNEL: &str = "c";
const VICTIMS: [&str; 5] = ["archive", "nz1", "nz2", "consistency", "nats"];
const KILLS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(60);

fn number_of(variable: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise(),
    }
}

/// A small generator whose choices a seed repeats.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What the reader saw.
#[derive(Debug, Default)]
struct Seen {
    wholes: AtomicU64,
    builds: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    fn counts(&self) -> [u64; 2] {
        [&self.wholes, &self.builds].map(|of| of.load(Ordering::Relaxed))
    }

    /// The readers read, and builds were published.
    fn enough(&self) -> bool {
        let [wholes, builds] = self.counts();
        wholes > 10 && builds > 2
    }
}

#[test]
fn nothing_is_lost_and_no_half_snapshot_is_read() {
    let kills = number_of("MIRRORLOG_E2E_KILLS", || KILLS);
    let seed = number_of("MIRRORLOG_E2E_SEED", || getrandom::u64().unwrap() >> 1) | 1;
    eprintln!("MIRRORLOG_E2E_SEED={seed} MIRRORLOG_E2E_KILLS={kills}");
    let network = Network::up(2);
    let tree = Tree::new();
    for file in 0..200 {
        tree.write(&format!("d/{file}"), file.to_string());
    }
    write(&tree, 0);
    network.publish_everywhere(CHANNEL, tree.path());
    let seen = Seen::default();
    let published = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&network, &tree, &seen));
        let readers = ["nz1", "nz2"].map(|mirror| {
            let url = network.url(mirror).to_owned();
            let seen = &seen;
            scope.spawn(move || read_until(&url, seen))
        });
        let torturer = scope.spawn(|| torture(&network, kills, Chance(seed)));
        let tortured = torturer.join();
        let meanwhile = seen.counts();
        // However few came through meanwhile. Nothing may panic here, for the others would go on.
        let end = Instant::now() + PATIENCE;
        while !seen.enough() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        seen.stop.store(true, Ordering::Relaxed);
        let published = publisher.join();
        for reader in readers {
            reader.join().unwrap();
        }
        tortured.unwrap();
        assert!(meanwhile.iter().all(|many| *many > 0), "{meanwhile:?}");
        published.unwrap()
    });
    assert!(seen.enough(), "{seen:?}: {published:?}");
    nothing_was_lost(&network, &tree, &published);
}

/// `a` and `b` always have the same number; the other files change as well.
fn write(tree: &Tree, number: u64) {
    for path in ["a", "z"] {
        tree.write(path, number.to_string());
    }
    tree.write(&format!("d/{}", number % 200), format!("again {number}"));
}

/// Publishes one build after the other. Gives the builds that `publish` returned, with their roots.
fn publish_until(network: &Network, tree: &Tree, seen: &Seen) -> BTreeMap<u64, String> {
    let mut published = BTreeMap::new();
    let mut number = 0;
    while !seen.stop.load(Ordering::Relaxed) {
        number += 1;
        write(tree, number);
        let ended = network.publish(CHANNEL, tree.path(), &[]);
        match ended.code {
            0 => {
                let root = ended.json["root"].as_str().unwrap().to_owned();
                let before = published.insert(ended.build(), root.clone());
                seen.builds.store(published.len() as u64, Ordering::Relaxed);
                assert!(
                    before.is_none_or(|before| before == root),
                    "build {} has two roots",
                    ended.build()
                );
            }
            // The archive, or what it needs, is down.
            69 | 74 | 75 => {}
            code => panic!("exit code {code}: {}", ended.stderr),
        }
    }
    published
}

/// Reads what is live and, by its build's URL, its other half.
fn read_until(url: &str, seen: &Seen) {
    let http = Http::new();
    let get = |path: &str| http.try_ask(Method::GET, &format!("{url}{path}"), &[]).ok();
    while !seen.stop.load(Ordering::Relaxed) {
        let Some(live) = get(&format!("/{CHANNEL}/a")) else {
            continue;
        };
        assert_eq!(live.status, 200, "live always answers: {}", live.text());
        let build = live
            .header("mirrorlog-build")
            .strip_prefix("c=")
            .unwrap()
            .to_owned();
        let halves = ["a", "z"].map(|name| get(&format!("/@/{CHANNEL}/{build}/{name}")));
        let [Some(a), Some(z)] = halves else { continue };
        // Collected since, if the reader was slow.
        if a.status == 410 || z.status == 410 {
            continue;
        }
        assert_eq!(
            (a.status, z.status),
            (200, 200),
            "{} {}",
            a.text(),
            z.text()
        );
        assert_eq!(a.text(), live.text(), "live is not build {build}");
        assert_eq!(a.text(), z.text(), "half of build {build}");
        seen.wholes.fetch_add(1, Ordering::Relaxed);
    }
}

fn torture(network: &Network, kills: u64, mut chance: Chance) {
    for _ in 0..kills {
        // The random moment: not a wait for anything.
        std::thread::sleep(Duration::from_millis(chance.below(700)));
        let victim = VICTIMS[usize::try_from(chance.below(VICTIMS.len() as u64)).unwrap()];
        network.kill(victim);
        std::thread::sleep(Duration::from_millis(chance.below(300)));
        let begun = Instant::now();
        network.restart(victim);
        eprintln!(
            "{victim} was killed, and ready again after {:.2} s",
            begun.elapsed().as_secs_f64()
        );
    }
}

fn nothing_was_lost(network: &Network, tree: &Tree, published: &BTreeMap<u64, String>) {
    write(tree, 1_000_000);
    let mut last = 0;
    until_within(PATIENCE, "publishing works again", || {
        let ended = network.publish(CHANNEL, tree.path(), &[]);
        last = ended.json["build"].as_u64().unwrap_or(0);
        ended.code == 0
    });
    network
        .publish(CHANNEL, tree.path(), &["--wait", "all", "--timeout", "60"])
        .ok();
    let log = network.run(["log", CHANNEL]).ok().lines();
    let builds: Vec<u64> = log
        .iter()
        .map(|line| line["build"].as_u64().unwrap())
        .collect();
    assert!(builds.is_sorted_by(|a, b| a < b), "{builds:?}");
    for (build, root) in published {
        assert!(builds.contains(build), "build {build} was lost: {builds:?}");
        let shown = network.run(["show", CHANNEL, &build.to_string()]).ok();
        assert_eq!(shown.json["root"], *root, "build {build}");
    }
    for mirror in ["nz1", "nz2"] {
        assert_eq!(network.live(mirror, CHANNEL), Some(last));
        assert_eq!(network.get(mirror, "/c/z").text(), "1000000");
    }
    eprintln!("{} builds, none lost", builds.len());
}
