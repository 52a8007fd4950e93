//! A mirror brings builds here and shows them while its disk fails: what it shows is whole and does not go back, and it
//! arrives at the newest build.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use e2e::{Setup, Tree, noise, sha256};
use reqwest::Method;

use super::bed::{Bed, PATIENCE, Service, list, wait};
use super::mount::Mounted;
use super::{Start, Workload};

const FILES: u64 = 12;
/// Files of this size arrive in pieces.
const LARGE_BYTES: usize = 1536 * 1024;
const MIRROR: &str = "nz1";
/// The mirror's own path in its export tree.
const TRACE: &str = "project/trace/";

/// What the mirror has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Three builds are fetched and shown.
    Sync,
    /// The same as trees of files; old builds are let go, and what only they have is swept.
    Export,
}

pub(super) struct Mirror {
    bed: Bed,
    duty: Duty,
    /// What is published, in order; the last one after the fault.
    trees: Vec<Tree>,
    changed: PathBuf,
    /// Channels so far: each point has its own.
    channels: u64,
    /// Builds that are published.
    published: usize,
    /// The newest that was shown.
    shown: u64,
}

impl Mirror {
    pub(super) fn new(duty: Duty) -> Self {
        let setup = match duty {
            Duty::Sync => Setup::mirrors(1),
            Duty::Export => Setup::mirrors(1).export(),
        };
        let bed = Bed::new(&setup, MIRROR, "mirror", &["consistency", "directory"]);
        let changed = bed.network.scratch().join("changed");
        list(&changed, &["number", "file/1", "file/2", "large", "new/1"]);
        Self {
            bed,
            duty,
            trees: (1..=4).map(tree).collect(),
            changed,
            channels: 0,
            published: 0,
            shown: 0,
        }
    }

    fn channel(&self) -> String {
        format!("s{}", self.channels)
    }

    /// The work is all builds but the last.
    fn planned(&self) -> usize {
        self.trees.len() - 1
    }

    fn publish_next(&mut self) -> Result<(), String> {
        let mut command = self.bed.network.command(["publish", &self.channel()]);
        command.arg(self.trees[self.published].path());
        if self.published > 0 {
            command.arg("--changed").arg(&self.changed);
        }
        let ended = self.bed.network.run_command(&mut command);
        if ended.code != 0 {
            return Err(format!(
                "a healthy archive does not publish: {}",
                ended.stderr
            ));
        }
        self.published += 1;
        Ok(())
    }

    /// The status of an answer, and its bytes; none when nobody answers.
    fn get(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        let url = format!("{}{path}", self.bed.network.url(MIRROR));
        let answer = self
            .bed
            .network
            .http()
            .try_ask(Method::GET, &url, &[])
            .ok()?;
        Some((answer.status, answer.body))
    }

    /// The build that is live; it never goes back.
    fn live(&mut self) -> Result<u64, String> {
        let live = self.bed.network.live(MIRROR, &self.channel()).unwrap_or(0);
        if live > 0 && live < self.shown {
            return Err(format!("build {live} is live after build {}", self.shown));
        }
        self.shown = self.shown.max(live);
        Ok(live)
    }

    fn files(&self, build: u64) -> BTreeMap<String, Vec<u8>> {
        self.trees[build as usize - 1].files()
    }

    /// Each file of a build has its bytes, by the build's own URL; one that was let go is gone as a whole.
    fn check_pinned(&self, build: u64) -> Result<(), String> {
        let channel = self.channel();
        for (path, expected) in self.files(build) {
            let answer = self.get(&format!("/@/{channel}/{build}/{path}"));
            match answer {
                Some((200, bytes)) if bytes == expected => {}
                Some((410, _)) => {}
                Some((200, _)) => return Err(format!("build {build} has a wrong {path}")),
                Some((status, body)) => {
                    let body = String::from_utf8_lossy(&body).into_owned();
                    return Err(format!(
                        "build {build} answers {path} with {status}: {body}"
                    ));
                }
                None => return Err(format!("{path} of build {build}: no answer")),
            }
        }
        Ok(())
    }

    /// What is live is that build, every file of it.
    fn check_live(&self, build: u64) -> Result<(), String> {
        let channel = self.channel();
        for (path, expected) in self.files(build) {
            let Some((status, bytes)) = self.get(&format!("/{channel}/{path}")) else {
                return Err(format!("{path}: no answer"));
            };
            if status != 200 || bytes != expected {
                return Err(format!(
                    "live {path} is not that of build {build}: {status}"
                ));
            }
        }
        Ok(())
    }

    /// The build that the export tree is, if there is one: it is one whole build and nothing else.
    fn exported(&self) -> Result<u64, String> {
        let dir = self.bed.mount.join("export").join(self.channel());
        if std::fs::symlink_metadata(&dir).is_err() {
            return Ok(0);
        }
        let found =
            read(&dir).map_err(|error| format!("the export tree cannot be read: {error}"))?;
        let builds = 1..=self.published as u64;
        builds
            .rev()
            .find(|build| self.files(*build) == found)
            .ok_or_else(|| {
                let names: Vec<&String> = found.keys().collect();
                format!("the export tree is no build: {names:?}")
            })
    }

    fn check_export(&mut self) -> Result<(), String> {
        let build = self.exported()?;
        if build < self.shown {
            return Err(format!(
                "the export tree is build {build}; {} was shown",
                self.shown
            ));
        }
        Ok(())
    }

    /// Waits until a build is live, or the power is gone. What ends is started again.
    fn await_live(
        &mut self,
        build: u64,
        service: &mut Service,
        disk: &Mounted,
    ) -> Result<(), String> {
        wait(PATIENCE, &format!("build {build} is live"), || {
            if disk.disk().volume().is_dead() {
                return Some(Ok(()));
            }
            self.bed.tend(service);
            match self.live() {
                Ok(live) => (live == build).then_some(Ok(())),
                Err(error) => Some(Err(error)),
            }
        })?
    }

    /// Waits until what only the first build has is swept, or the power is gone.
    fn await_sweep(&self, service: &mut Service, disk: &Mounted) -> Result<(), String> {
        let digest = sha256(&self.files(1)["number"]);
        let blob = self
            .bed
            .mount
            .join("store")
            .join(&digest[..2])
            .join(&digest[2..]);
        wait(PATIENCE, "what only the first build has is swept", || {
            self.bed.tend(service);
            let gone = disk.disk().volume().is_dead() || !blob.exists();
            gone.then_some(())
        })
    }

    /// With archive and log away, what was shown is shown again, and whole.
    fn check_alone(&mut self, service: &mut Service) -> Result<(), String> {
        for one in ["archive", "nats"] {
            self.bed.network.pause(one);
        }
        let checked = self.check_served(service);
        for one in ["archive", "nats"] {
            self.bed.network.resume(one);
        }
        checked
    }

    fn check_served(&mut self, service: &mut Service) -> Result<(), String> {
        let limit = Duration::from_secs(10);
        let what = format!("build {} is served without archive and log", self.shown);
        let live = wait(limit, &what, || {
            if let Some(how) = service.ended() {
                return Some(Err(format!("it does not start: {how}")));
            }
            let answers = self.get("/healthz").is_some();
            match self.live() {
                Ok(0) if self.shown > 0 || !answers => None,
                live => Some(live),
            }
        })??;
        if live == 0 {
            return Ok(());
        }
        self.check_pinned(live)?;
        let checked = self.check_live(live);
        // One that was whole here may have taken its place meanwhile.
        if self.live()? > live { Ok(()) } else { checked }
    }
}

/// Twelve files and what tells the trees apart; the second has a large one.
fn tree(number: u64) -> Tree {
    let tree = Tree::new();
    for file in 0..FILES {
        tree.write(&format!("file/{file}"), format!("file {file}"));
    }
    tree.write("number", format!("number {number}"));
    if number > 1 {
        tree.write("file/1", format!("changed {number}"));
        tree.write("new/1", "new");
    }
    match number {
        2 => tree.write("large", noise(number, LARGE_BYTES)),
        3 => tree.remove("file/2"),
        _ => {}
    }
    tree
}

/// Every file below a folder by path, but the mirror's own.
fn read(dir: &std::path::Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let dir = dir.canonicalize()?;
    let (mut files, mut folders) = (BTreeMap::new(), vec![dir.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&dir).map_err(std::io::Error::other)?;
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(TRACE) {
                files.insert(name, std::fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

impl Workload for Mirror {
    fn bed(&self) -> &Bed {
        &self.bed
    }

    fn begin(&mut self) -> Result<(), String> {
        self.channels += 1;
        (self.published, self.shown) = (0, 0);
        let (channel, duty) = (self.channel(), self.duty);
        self.bed.network.configure(MIRROR, |config| {
            let mirror = config["mirror"].as_table_mut().unwrap();
            mirror.insert("channels".to_owned(), vec![channel].into());
            // What was lost is not to be found by chance.
            config["scrub"]
                .as_table_mut()
                .unwrap()
                .insert("every".to_owned(), "24h".into());
            if duty == Duty::Export {
                let mirror = config["mirror"].as_table_mut().unwrap();
                mirror.insert("retain_builds".to_owned(), 1.into());
                mirror.insert("grace".to_owned(), "0s".into());
                let export = config["export"].as_table_mut().unwrap();
                export.insert("settle".to_owned(), "0s".into());
            }
        });
        self.publish_next()
    }

    fn drive(&mut self, service: &mut Service, disk: &Mounted) -> Result<(), String> {
        loop {
            self.await_live(self.published as u64, service, disk)?;
            let dead = disk.disk().volume().is_dead();
            if dead || self.published == self.planned() {
                break;
            }
            self.publish_next()?;
        }
        match self.duty {
            Duty::Sync => Ok(()),
            Duty::Export => self.await_sweep(service, disk),
        }
    }

    fn look(&mut self) -> Result<(), String> {
        match self.duty {
            Duty::Sync => Ok(()),
            Duty::Export => self.check_export(),
        }
    }

    fn check(&mut self, service: &mut Service, disk: &Mounted, start: Start) -> Result<(), String> {
        if start == Start::New {
            self.check_alone(service)?;
            self.bed.await_ready(service, disk)?;
        }
        while self.published < self.trees.len() {
            self.publish_next()?;
        }
        let newest = self.published as u64;
        self.await_live(newest, service, disk)?;
        self.check_pinned(newest)?;
        self.check_live(newest)?;
        self.look()
    }
}
