//! A thousand mirrors of one channel: how long after each publish the log says that all are complete.
//!
//! NATS, archive and consistency service are real. The mirrors are simulated in this program: each has its id, key,
//! URL and connection, follows the log through its own consumers and publishes signed reports. One HTTP server answers
//! for all of them, with the bytes of the build that is asked for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

mod cluster;
mod cost;
mod ledger;
mod mirror;
mod network;
mod site;
mod stub;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use cluster::Cluster;
use cost::Costs;
use e2e::{Network, Tree, binary, until_within};
use ledger::Ledger;
use mirror::Fleet;
use mirrorlog_core::id::MirrorId;
use runtime::log::{Log, NatsConfig};
use site::{Content, Site};
use table::Row;

/// The channel.
const CHANNEL: &str = "bench";
/// Longest that a publish is waited for.
const PATIENCE: Duration = Duration::from_secs(900);
/// Messages that are stored one after the other, to see how long one takes.
const PROBES: usize = 400;

/// Publishes small changes to a channel with very many mirrors.
#[derive(Debug, Parser)]
struct Args {
    /// Mirrors
    #[arg(long, default_value_t = 1000)]
    mirrors: usize,
    /// Files of the tree
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// Builds after the first one
    #[arg(long, default_value_t = 10)]
    builds: usize,
    /// Files that change in each of them
    #[arg(long, default_value_t = 50)]
    changed: usize,
    /// Bytes of each file, about
    #[arg(long, default_value_t = 600)]
    bytes: usize,
    /// Files of the first build that are audited on each mirror (`audit.new_files_max`)
    #[arg(long, default_value_t = 2000)]
    sample: usize,
    /// Seconds within which all mirrors must be complete after each publish
    #[arg(long, default_value_t = 60.0)]
    limit: f64,
    /// Servers of NATS; more than one are a cluster
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Servers of a cluster that hold each stream (`nats.replicas`)
    #[arg(long, default_value_t = 3)]
    replicas: u8,
    /// At the end, kill the server that leads the log, and publish once more
    #[arg(long, requires = "nodes")]
    kill: bool,
    /// Where the services' logs are copied to
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Another binary than the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long, conflicts_with = "binary")]
    release: bool,
}

fn main() {
    let args = Args::parse();
    let chosen = args.binary.clone().or_else(|| args.release.then(release));
    if let Some(chosen) = chosen {
        assert!(
            chosen.is_file(),
            "{} is not there: build it first",
            chosen.display()
        );
        e2e::use_binary(chosen);
    }
    assert!(
        args.sample >= args.changed,
        "--sample must not be below --changed: every new file is to be audited"
    );
    println!("binary   {}", binary().display());
    println!(
        "fleet    {} mirrors, {} files of about {} bytes, {} builds of {} changed files",
        args.mirrors, args.files, args.bytes, args.builds, args.changed
    );
    let running = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let content = Content::new(args.files, args.bytes);
    let tree = Tree::new();
    let site = Arc::new(Site::new(content, args.mirrors));
    site.write_first(&tree);
    let port = running.block_on(stub::serve(Arc::clone(&site)));
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = (args.nodes > 1).then(|| Cluster::start(args.nodes, folder.path()));
    let (network, keys) = network::start(&args, port, cluster.as_ref());
    let nats = NatsConfig::new(match &cluster {
        Some(cluster) => cluster.url(),
        None => network.nats().to_owned(),
    });
    let servers = match &cluster {
        Some(cluster) => cluster.processes(),
        None => vec![("nats".to_owned(), network.pid("nats"))],
    };
    let costs = Costs::new(&network, servers);
    print_latency(&running, &nats);

    let begun = Instant::now();
    let fleet = Arc::new(Fleet::new(Arc::clone(&site)));
    running.block_on(Arc::clone(&fleet).muster(&network, &nats, keys));
    let ledger = running.block_on(Ledger::follow(&network, &nats));
    println!(
        "joined   {:.1} s: each mirror has a connection, two durable consumers and two readers",
        begun.elapsed().as_secs_f64()
    );
    println!("memory   {}", costs.memory());

    let run = Run {
        args: &args,
        network: &network,
        site: &site,
        fleet: &fleet,
        ledger: &ledger,
        costs: &costs,
    };
    let mut rows = Vec::new();
    table::print_head(&costs);
    for build in 1..=args.builds as u64 + 1 {
        let changed = match build {
            1 => None,
            _ => Some(site.change(&tree, build, args.changed)),
        };
        let row = run.publish(&tree, build, changed);
        row.print();
        rows.push(row);
        if let Some(logs) = &args.logs {
            network::copy_logs(&network, logs);
        }
    }
    table::print_end(&rows[1..], args.limit, &costs);
    if let Some(cluster) = cluster.as_mut().filter(|_| args.kill) {
        run.lose_leader(&tree, args.builds as u64 + 2, cluster);
    }
    println!("{} reports were not taken in time", fleet.unsent());
    // The mirrors go first: they would look for a log that is gone.
    running.shutdown_background();
}

/// How long one small message takes to be stored, one after the other.
fn print_latency(running: &tokio::runtime::Runtime, nats: &NatsConfig) {
    let mut seconds: Vec<f64> = running.block_on(async {
        let log = Log::connect(nats, "bench", false).await.unwrap();
        let nobody = MirrorId::new("nobody").unwrap();
        let mut seconds = Vec::new();
        for number in 0..PROBES {
            let (begun, name) = (Instant::now(), format!("probe-{number}"));
            log.publish_order(&nobody, &name, vec![0; 300].into())
                .await
                .unwrap();
            seconds.push(begun.elapsed().as_secs_f64());
        }
        seconds
    });
    seconds.sort_by(f64::total_cmp);
    println!(
        "store    {:.2} ms median, {:.2} ms p99 for a message of 300 bytes",
        seconds[PROBES / 2] * 1e3,
        seconds[PROBES * 99 / 100] * 1e3
    );
}

fn release() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    target.ancestors().nth(2).unwrap().join("release/mirrorlog")
}

/// What one publish needs.
struct Run<'a> {
    args: &'a Args,
    network: &'a Network,
    site: &'a Site,
    fleet: &'a Fleet,
    ledger: &'a Ledger,
    costs: &'a Costs,
}

impl Run<'_> {
    /// Publishes a build, waits for all mirrors, and compares what log, `publish --wait` and `status` say.
    fn publish(&self, tree: &Tree, build: u64, changed: Option<String>) -> Row {
        let (args, network) = (self.args, self.network);
        let list = network.scratch().join("changed");
        let timeout = PATIENCE.as_secs().to_string();
        let mut more = vec!["--wait", "all", "--timeout", &timeout];
        if let Some(changed) = &changed {
            std::fs::write(&list, changed).unwrap();
            more.extend(["--changed", list.to_str().unwrap()]);
        }
        let (before, asked) = (self.costs.cpu(), self.site.asked());
        let begun = self.ledger.begin(build);
        let ended = network.publish(CHANNEL, tree.path(), &more).ok();
        assert_eq!(ended.build(), build, "{}", ended.stdout);
        let what = format!("the log says that all are complete at build {build}");
        until_within(PATIENCE, &what, || {
            self.ledger.complete(build).len() == args.mirrors
        });
        let complete = self.ledger.complete(build);
        let after = self.costs.cpu();
        let waited = ended.json["complete"].as_array().unwrap().len();
        assert_eq!(
            waited, args.mirrors,
            "`publish --wait all` names other mirrors than the log"
        );
        self.check_status(build);
        if let Some(changed) = &changed {
            let new = changed.lines().count() as u64;
            let unseen = self.site.unseen(build);
            assert_eq!(unseen, 0, "new files that were not asked for on a mirror");
            assert!(complete.iter().all(|one| one.new_files == new));
            assert!(complete.iter().all(|one| one.audited_files >= new));
        }
        Row {
            build,
            files: changed.map_or(args.files, |changed| changed.lines().count()),
            published: ended.seconds - ended.json["seconds"]["wait"].as_f64().unwrap(),
            complete: complete
                .iter()
                .map(|one| one.at.duration_since(begun).as_secs_f64())
                .collect(),
            lag_ms: self.fleet.take_lags(build),
            asked: self.site.asked() - asked,
            cpu: after.since(&before),
        }
    }

    /// Kills the server that leads the log, publishes, and says when the event and the verdicts are everywhere.
    fn lose_leader(&self, tree: &Tree, build: u64, cluster: &mut Cluster) {
        let list = self.network.scratch().join("changed");
        std::fs::write(&list, self.site.change(tree, build, self.args.changed)).unwrap();
        let begun = self.ledger.begin(build);
        let killed = cluster.kill_leader_of("MIRRORLOG");
        let publish = || {
            let more = ["--changed", list.to_str().unwrap()];
            self.network.publish(CHANNEL, tree.path(), &more)
        };
        until_within(PATIENCE, "a build is published without the server", || {
            publish().code == 0
        });
        println!(
            "\n{killed} killed; published after {:.2} s",
            begun.elapsed().as_secs_f64()
        );
        for share in [25, 50, 75, 100] {
            let some = self.args.mirrors * share / 100;
            until_within(PATIENCE, "mirrors hear of it", || {
                self.fleet.heard(build) >= some
            });
            println!(
                "heard by {share} % after {:.2} s",
                begun.elapsed().as_secs_f64()
            );
        }
        until_within(PATIENCE, "all are complete", || {
            self.ledger.complete(build).len() == self.args.mirrors
        });
        println!("all complete after {:.2} s", begun.elapsed().as_secs_f64());
    }

    /// `status --json` must say the same as the log.
    fn check_status(&self, build: u64) {
        let status = self.network.status(CHANNEL);
        let mirrors = status["mirrors"].as_array().unwrap();
        let complete = mirrors.iter().filter(|mirror| {
            let channel = &mirror["channels"][0];
            channel["live"] == build && channel["state"] == "complete"
        });
        let complete = complete.count();
        assert_eq!(
            complete, self.args.mirrors,
            "`status` says that so many are complete at build {build}"
        );
    }
}
