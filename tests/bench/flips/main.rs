//! A thousand builds while apt runs without pause: with mirrorlog's method, and with plain `http://` to a mirror that
//! copies the archive by rsync in two stages, over and over, as mirrors do.
//!
//! One tree is changed in place, packages first and indexes last, as archive tools do. Each change is published, and
//! each rsync that begins copies whatever is there. Both apts do `update` and then `download` of the package that
//! changed. What they say is counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::{Apt, DebianRepo, Network, Nginx, Setup, binary, tool};

/// Counts what apt says while builds change under it.
#[derive(Debug, Parser)]
struct Args {
    /// Builds
    #[arg(long, default_value_t = 1000)]
    flips: u64,
    /// Mirrors
    #[arg(long, default_value = "nz=2")]
    pools: String,
    /// Bytes a second that rsync takes, in KiB: a link, and time for the tree to change meanwhile
    #[arg(long, default_value_t = 2000)]
    rsync_kib_per_s: u32,
    /// Versions of a package that stay in the pool when a newer one has come
    #[arg(long, default_value_t = 3)]
    keep: u64,
    /// Without files by digest in the archive, as tools make it that do not know them
    #[arg(long)]
    no_by_hash: bool,
    /// Folder with usr/sbin/nginx; target/tools/bench when left out
    #[arg(long)]
    tools: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long)]
    release: bool,
}

const CHANNEL: &str = "smithy";
const SUITE: &str = "bookworm";
/// Pause of a mirror between two copies.
const MIRROR_PAUSE: Duration = Duration::from_millis(200);

fn main() {
    let args = Args::parse();
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(2).unwrap().to_owned();
    if args.release {
        e2e::use_binary(target.join("release/mirrorlog"));
    }
    let tools = args.tools.clone().unwrap_or(target.join("tools/bench"));
    println!("binary   {}", binary().display());
    let mut repo = DebianRepo::bookworm();
    if args.no_by_hash {
        repo.without_by_hash();
    }
    let network = Network::start(&Setup::pools(&args.pools));
    network.publish_everywhere(CHANNEL, &repo.tree());
    let mut mirrors = network.mirrors();
    mirrors.sort_unstable();
    network.await_offered(&format!("channel={CHANNEL}"), &mirrors);

    let copy = network.scratch().join("copy");
    std::fs::create_dir(&copy).unwrap();
    mirror(&repo.tree(), &copy, args.rsync_kib_per_s);
    let nginx = Nginx::start(&tools, &format!("root {};", copy.display()));
    let host = network.directory().trim_start_matches("http://");
    let ours = Apt::with_method(
        &repo,
        "method",
        &format!("mirrorlog://{host}/{CHANNEL}"),
        SUITE,
        &network.key(),
    );
    let plain = Apt::new(&repo, "plain", &nginx.url, SUITE);

    let (done, flips) = (AtomicBool::new(false), AtomicU64::new(0));
    let tree = repo.tree();
    let begun = Instant::now();
    let (ours, plain, copies) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| runs(&ours, &done));
        let plain = scope.spawn(|| runs(&plain, &done));
        let copies = scope.spawn(|| {
            let mut copies = 0;
            while !done.load(Ordering::Relaxed) {
                mirror(&tree, &copy, args.rsync_kib_per_s);
                copies += 1;
                std::thread::sleep(MIRROR_PAUSE);
            }
            copies
        });
        for flip in 1..=args.flips {
            next_build(&mut repo, flip, args.keep);
            repo.write();
            network
                .publish(CHANNEL, &repo.tree(), &["--wait", "all", "--timeout", "60"])
                .ok();
            flips.store(flip, Ordering::Relaxed);
            if flip % 100 == 0 {
                println!("{flip} builds after {:.0} s", begun.elapsed().as_secs_f64());
            }
        }
        done.store(true, Ordering::Relaxed);
        (
            ours.join().unwrap(),
            plain.join().unwrap(),
            copies.join().unwrap(),
        )
    });
    println!(
        "{} builds in {:.0} s, {copies} copies by rsync, by-hash: {}",
        args.flips,
        begun.elapsed().as_secs_f64(),
        !args.no_by_hash
    );
    println!("| apt with | runs | good | Hash Sum mismatch | not found | other |");
    println!("| --- | --- | --- | --- | --- | --- |");
    ours.print("mirrorlog:// and two mirrors");
    plain.print("http:// and a mirror by two-stage rsync");
    network.stop();
}

/// A newer version of one package; some older ones stay in the pool, as archives keep them for those whose indexes
/// are old.
fn next_build(repo: &mut DebianRepo, flip: u64, keep: u64) {
    let deb = |repo: &DebianRepo, flip: u64| repo.deb("anvil", &format!("2.{flip}-1"));
    let kept: Vec<PathBuf> = (1..flip)
        .rev()
        .take(usize::try_from(keep).unwrap())
        .map(|flip| deb(repo, flip))
        .filter(|file| file.exists())
        .collect();
    let aside = repo.tree().parent().unwrap().to_owned();
    let aside = |file: &Path| aside.join(file.file_name().unwrap());
    kept.iter()
        .for_each(|file| std::fs::rename(file, aside(file)).unwrap());
    repo.drop_package(SUITE, "anvil");
    kept.iter()
        .for_each(|file| std::fs::rename(aside(file), file).unwrap());
    if let Some(old) = flip.checked_sub(keep + 1).filter(|old| *old > 0) {
        std::fs::remove_file(deb(repo, old)).ok();
    }
    repo.add(SUITE, "anvil", &format!("2.{flip}-1"), "");
}

/// How runs of apt ended.
#[derive(Default)]
struct Runs {
    good: u64,
    mismatch: u64,
    absent: u64,
    other: BTreeMap<String, u64>,
}

/// `update` and `download` without pause.
fn runs(apt: &Apt, done: &AtomicBool) -> Runs {
    let mut runs = Runs::default();
    while !done.load(Ordering::Relaxed) {
        let failed = [&["update"][..], &["download", "anvil"]]
            .into_iter()
            .find_map(|words| {
                let ended = apt.try_get(words);
                let said = [ended.stdout, ended.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                let complains = said.lines().any(|line| {
                    line.starts_with("E:") || line.starts_with("W:") || line.starts_with("Err:")
                });
                (!ended.status.success() || complains).then_some(said)
            });
        match failed {
            None => runs.good += 1,
            Some(said) if said.contains("Hash Sum mismatch") => runs.mismatch += 1,
            Some(said)
                if said.contains("404")
                    || said.contains("Unable to locate")
                    || said.contains("unexpected size") =>
            {
                runs.absent += 1
            }
            Some(said) => {
                let line = said
                    .lines()
                    .find(|line| line.starts_with("E:") || line.starts_with("W:"));
                *runs
                    .other
                    .entry(line.unwrap_or("?").to_owned())
                    .or_default() += 1;
            }
        }
    }
    runs
}

impl Runs {
    fn print(&self, name: &str) {
        let other: u64 = self.other.values().sum();
        let all = self.good + self.mismatch + self.absent + other;
        println!(
            "| {name} | {all} | {} | {} | {} | {other} |",
            self.good, self.mismatch, self.absent
        );
        for (line, count) in &self.other {
            println!("  {count} times: {line}");
        }
    }
}

/// One copy in two stages, as Debian's mirrors make it: everything but the indexes first, deletions last.
fn mirror(from: &Path, to: &Path, kib_per_s: u32) {
    let stage = |more: &[&str]| {
        let mut rsync: Command = tool("rsync");
        rsync
            .args(["-a", &format!("--bwlimit={kib_per_s}")])
            .args(more);
        rsync
            .arg(format!("{}/", from.display()))
            .arg(format!("{}/", to.display()));
        // Files vanish while it copies: it says so and goes on.
        let ended = rsync.output().unwrap();
        assert!(
            [0, 23, 24].contains(&ended.status.code().unwrap()),
            "{}",
            String::from_utf8_lossy(&ended.stderr)
        );
    };
    stage(&["--exclude=/dists"]);
    stage(&["--delete-after"]);
}
