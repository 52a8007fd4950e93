//! Builds are published and taken back while the archive's disk fails: what `publish` returned stays, whatever happens.

use std::path::PathBuf;
use std::process::Command;

use e2e::{Setup, Tree, noise};

use super::bed::{Bed, PATIENCE, Service, list, wait};
use super::mount::Mounted;
use super::{Start, Workload};

const CHANNEL: &str = "c";
const FILES: u64 = 12;
/// Files of this size are not stored in one write.
const LARGE_BYTES: usize = 300 * 1024;

/// An operator's command.
enum Step {
    /// The tree of this number, and the list of what changed in it.
    Publish(usize, Option<PathBuf>),
    /// Takes the newest build back and puts a tree in its place.
    Replace(usize),
}

/// A build that a command said is published.
struct Acked {
    build: u64,
    root: Option<String>,
}

pub(super) struct Publish {
    bed: Bed,
    trees: Vec<Tree>,
    steps: Vec<Step>,
    acked: Vec<Acked>,
}

impl Publish {
    pub(super) fn new() -> Self {
        let idle = ["nz1", "consistency", "directory"];
        let bed = Bed::new(&Setup::mirrors(1), "archive", "archive", &idle);
        let trees: Vec<Tree> = (0..5).map(tree).collect();
        let changed = bed.network.scratch().join("changed");
        list(&changed, &["number", "file/1", "new/1"]);
        let steps = vec![
            Step::Publish(0, None),
            Step::Publish(1, Some(changed)),
            Step::Publish(2, None),
            Step::Replace(3),
        ];
        Self {
            bed,
            trees,
            steps,
            acked: Vec::new(),
        }
    }

    fn command(&self, step: &Step) -> Command {
        match step {
            Step::Publish(tree, changed) => {
                let mut command = self.bed.network.command(["publish", CHANNEL]);
                command.arg(self.trees[*tree].path());
                if let Some(changed) = changed {
                    command.arg("--changed").arg(changed);
                }
                command
            }
            Step::Replace(tree) => {
                // Numbers that a fault has burned are not there.
                let build = self.acked.last().map_or(1, |acked| acked.build).to_string();
                let mut command = self.bed.network.command(["retract", CHANNEL, &build]);
                command.args(["--reason", "chaos", "--replace-with"]);
                command.arg(self.trees[*tree].path());
                command
            }
        }
    }

    fn ask(&self, args: &[&str], service: &mut Service, disk: &Mounted) -> super::bed::Ran {
        self.bed
            .run(&mut self.bed.network.command(args), service, disk)
    }

    /// Every build that is there has one root, and its content; what was acked is there.
    fn check_builds(&self, service: &mut Service, disk: &Mounted) -> Result<(), String> {
        let log = self
            .ask(&["log", CHANNEL], service, disk)
            .ok("log")?
            .lines();
        let builds: Vec<u64> = log
            .iter()
            .filter_map(|line| line["build"].as_u64())
            .collect();
        if !builds.is_sorted_by(|a, b| a < b) {
            return Err(format!("builds are not in order: {builds:?}"));
        }
        for Acked { build, root } in &self.acked {
            if !builds.contains(build) {
                return Err(format!(
                    "build {build} was published and is lost: {builds:?}"
                ));
            }
            let build = build.to_string();
            let shown = self
                .ask(&["show", CHANNEL, &build], service, disk)
                .ok("show")?
                .json();
            let found = shown["root"].as_str();
            if root.is_some() && found != root.as_deref() {
                return Err(format!(
                    "build {build} has another root: {root:?}, then {found:?}"
                ));
            }
        }
        for build in builds {
            let build = build.to_string();
            let args = ["verify", "--channel", CHANNEL, "--build", &build];
            let verified = self.ask(&args, service, disk);
            verified.ok(&format!("verify of build {build}"))?;
        }
        Ok(())
    }
}

/// Twelve files and what tells the trees apart; the third has a large one.
fn tree(number: u64) -> Tree {
    let tree = Tree::new();
    for file in 0..FILES {
        tree.write(&format!("file/{file}"), format!("file {file}"));
    }
    tree.write("number", number.to_string());
    if number > 0 {
        tree.write("file/1", format!("changed {number}"));
        tree.write("new/1", "new");
    }
    if number == 2 {
        tree.write("large", noise(number, LARGE_BYTES));
    }
    tree
}

impl Workload for Publish {
    fn bed(&self) -> &Bed {
        &self.bed
    }

    fn begin(&mut self) -> Result<(), String> {
        self.acked.clear();
        self.bed.empty_nats();
        Ok(())
    }

    fn drive(&mut self, service: &mut Service, disk: &Mounted) -> Result<(), String> {
        for number in 0..self.steps.len() {
            let done = wait(PATIENCE, "a build is published", || {
                let mut command = self.command(&self.steps[number]);
                let ran = self.bed.run(&mut command, service, disk);
                // A command that failed at the very end was carried out all the same.
                if ran.code() == Some(0) || ran.says("is retracted already") {
                    return Some(Some(ran.json()));
                }
                if disk.disk().volume().is_dead() {
                    return Some(None);
                }
                // A disk that fails for a while: a supervisor starts what ended.
                self.bed.tend(service);
                None
            });
            let Some(said) = done? else { break };
            let build = said["build"].as_u64();
            let build = build.or_else(|| said["builds"].as_array()?.first()?.as_u64());
            if let Some(build) = build {
                let root = said["root"].as_str().map(str::to_owned);
                self.acked.push(Acked { build, root });
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn check(&mut self, service: &mut Service, disk: &Mounted, start: Start) -> Result<(), String> {
        if start == Start::New {
            self.bed.await_ready(service, disk)?;
        }
        if !self.acked.is_empty() {
            self.check_builds(service, disk)?;
        }
        let last = Step::Publish(4, None);
        let mut refused = String::new();
        let said = wait(PATIENCE, "publishing goes on", || {
            let ran = self.bed.run(&mut self.command(&last), service, disk);
            let ran = ran.ok("publish").map_err(|error| refused = error).ok()?;
            Some(ran.json())
        });
        let said = said.map_err(|error| format!("{error}; {refused}"))?;
        let build = said["build"].as_u64().unwrap_or(0);
        // A tree that is published again is the same build.
        if self.acked.iter().any(|acked| acked.build > build) {
            return Err(format!("build {build} comes after a higher one"));
        }
        let root = said["root"].as_str().map(str::to_owned);
        self.acked.push(Acked { build, root });
        self.check_builds(service, disk)
    }
}
