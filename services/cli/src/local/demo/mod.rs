//! `local demo`: the story in one command, on real packages. Every step is checked.

mod apt;
mod directory;
mod packages;
mod repository;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use self::repository::Repository;
use super::up::Network;
use crate::args::{DemoArgs, UpArgs};
use crate::failure::{DATA, Failure, IO, OrExit as _};
use crate::output::{BOLD, GOOD, Output};

/// What each mirror may fetch: slow enough to see priority overtake.
const LIMIT: &str = "40mbit";
/// Bulk that the priority fix overtakes.
const BULK_BYTES: usize = 24 * 1024 * 1024;
const POLL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells the story.
pub(crate) async fn demo(args: &DemoArgs, output: &Output) -> Result<u8, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("mirrorlog-demo-")
        .tempdir()
        .or_exit(IO)?;
    let dir = folder.path().to_owned();
    if args.keep {
        output.line(&format!(
            "everything is kept in {}",
            folder.keep().display()
        ));
    }
    let stop = runtime::boot::shutdown();
    let told = tokio::select! {
        told = tell(&dir, output) => told,
        () = stop.cancelled() => Err(Failure::text(crate::failure::AGAIN, "interrupted")),
    };
    told.map(|()| 0)
}

async fn tell(dir: &Path, output: &Output) -> Result<(), Failure> {
    let begun = Instant::now();
    output.line(&format!("{BOLD}Packages{BOLD:#}"));
    let debs = packages::gather(&dir.join("packages"), output).await?;
    let repository = Repository::new(dir, &dir.join("tree"))?;

    output.line(&format!(
        "{BOLD}A network of three mirrors{BOLD:#}, each limited to {LIMIT}"
    ));
    let up = UpArgs {
        secure: false,
        dir: dir.join("network"),
        mirrors: 3,
        pools: vec![("nz".to_owned(), 2), ("au".to_owned(), 1)],
        limit: LIMIT.parse().ok(),
        export: false,
        nats: None,
    };
    let mut story = Story {
        network: Network::start(&up, output).await?,
        repository,
        output: *output,
    };
    let told = story.tell(&debs).await;
    let Story {
        network,
        repository,
        ..
    } = story;
    network.stop().await;
    repository.close();
    told?;
    output.line(&format!(
        "{GOOD}every step was as it should be{GOOD:#}, in {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

struct Story {
    network: Network,
    repository: Repository,
    output: Output,
}

/// How a command of ours ended.
struct Ended {
    code: i32,
    json: Value,
    said: String,
    seconds: f64,
}

impl Story {
    async fn tell(&mut self, debs: &[PathBuf]) -> Result<(), Failure> {
        let (early, late) = debs.split_at(debs.len() / 2);
        self.first_and_second_build(early, late).await?;
        self.mirror_dies_and_comes_back().await?;
        self.broken_tree().await?;
        self.priority_overtakes_bulk(&debs[0]).await?;
        self.retraction().await?;
        self.apt_installs_from_every_mirror(&debs[0]).await?;
        self.apt_asks_the_directory(&debs[0]).await
    }

    fn step(&self, title: &str) {
        self.output.line(&format!("{BOLD}{title}{BOLD:#}"));
    }

    fn say(&self, text: &str) {
        self.output.line(&format!("  {text}"));
    }

    async fn first_and_second_build(
        &mut self,
        early: &[PathBuf],
        late: &[PathBuf],
    ) -> Result<(), Failure> {
        self.step("The first build");
        self.repository.add(early)?;
        self.repository.index().await?;
        let first = self.publish(&["--wait", "all"]).await?;
        self.published(&first, 1)?;
        self.step("A second build, with more packages");
        self.repository.add(late)?;
        self.repository.index().await?;
        let second = self.publish(&["--wait", "all"]).await?;
        self.published(&second, 2)?;
        let again = self.publish(&[]).await?;
        check(
            again.json["unchanged"] == true,
            "the same tree again publishes nothing",
        )?;
        self.say("the same tree again publishes nothing");
        Ok(())
    }

    fn published(&self, ended: &Ended, build: u64) -> Result<(), Failure> {
        let json = &ended.json;
        check(
            ended.code == 0 && json["build"] == build,
            &format!("publish makes build {build}: {}", ended.said),
        )?;
        let mirrors = json["complete"].as_array().map_or(0, Vec::len);
        check(mirrors == 3, "three mirrors are complete")?;
        self.say(&format!(
            "build {build}: {} entries, {} added, {} changed; complete on all three mirrors after {:.2} s",
            json["files"], json["added"], json["changed"], ended.seconds
        ));
        Ok(())
    }

    async fn mirror_dies_and_comes_back(&mut self) -> Result<(), Failure> {
        self.step("A mirror is killed and comes back");
        self.network.kill("nz2").await?;
        self.say("nz2 was killed (SIGKILL)");
        self.repository.write("doc/news.txt", b"third build\n")?;
        let third = self.publish(&["--wait", "2"]).await?;
        check(
            third.code == 0 && third.json["build"] == 3,
            &format!("the others go on: {}", third.said),
        )?;
        self.say(&format!(
            "build 3 is complete on the two others after {:.2} s",
            third.seconds
        ));
        let begun = Instant::now();
        self.network.start_again("nz2").await?;
        self.until("nz2 is complete at build 3", |status| {
            complete(status, "nz2", 3)
        })
        .await?;
        self.say(&format!(
            "nz2 is back and complete at build 3 after {:.2} s",
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn broken_tree(&mut self) -> Result<(), Failure> {
        self.step("A broken tree is refused");
        let deb = self.repository.some_deb()?;
        let content = std::fs::read(&deb).or_exit(IO)?;
        std::fs::write(&deb, &content[..content.len() / 2]).or_exit(IO)?;
        let refused = self.publish(&[]).await?;
        std::fs::write(&deb, content).or_exit(IO)?;
        check(
            refused.code == 65,
            &format!("exit code 65, not {}", refused.code),
        )?;
        for line in refused.said.lines().take(3) {
            self.say(line);
        }
        self.until("nothing changed", |status| {
            status["channels"][0]["build"] == 3
        })
        .await?;
        self.say("nothing was published");
        Ok(())
    }

    async fn priority_overtakes_bulk(&mut self, fixed: &Path) -> Result<(), Failure> {
        self.step("A security fix overtakes a bulk build");
        let bulk: Vec<u8> = noise(BULK_BYTES);
        self.repository.write("pool/main/b/bulk/bulk.bin", &bulk)?;
        let published = self.publish(&[]).await?;
        check(
            published.code == 0 && published.json["build"] == 4,
            &published.said,
        )?;
        let begun = Instant::now();
        self.say(&format!(
            "build 4 is on its way: {} MB at {LIMIT}",
            BULK_BYTES / 1_000_000
        ));
        let name = self.repository.rename_as_fix(fixed)?;
        let mut changed = self.repository.index().await?;
        changed.push(name);
        let list = self.repository.list(&changed)?;
        let fix = self
            .publish(&["--priority", "--changed", &list, "--wait", "all"])
            .await?;
        check(fix.code == 0, &fix.said)?;
        let status = self.status().await?;
        let (build, also) = (fix.json["build"].clone(), fix.json["also"].clone());
        check(
            build == 5 && also == 6,
            &format!("the fix is build 5, with 6 behind it, not {build} and {also}"),
        )?;
        let under_way = !complete(&status, "au1", 6);
        check(
            under_way,
            "the fix is complete while the bulk is still under way",
        )?;
        self.say(&format!("the fix is build {build}, complete on all three mirrors after {:.2} s; bulk still under way", fix.seconds));
        self.until("the bulk arrives", |s| {
            ["nz1", "nz2", "au1"].iter().all(|id| complete(s, id, 6))
        })
        .await?;
        self.say(&format!(
            "the bulk arrived with build {also} after {:.2} s",
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn retraction(&mut self) -> Result<(), Failure> {
        self.step("A bad build is taken back");
        self.repository
            .write("doc/oops.txt", b"this should not be here\n")?;
        let bad = self.publish(&["--wait", "all"]).await?;
        self.published(&bad, 7)?;
        self.repository.remove("doc/oops.txt")?;
        self.repository.index().await?;
        let begun = Instant::now();
        let tree = self.repository.tree().to_string_lossy().into_owned();
        let args = [
            "retract",
            "demo",
            "7",
            "--reason",
            "a mistake",
            "--replace-with",
            &tree,
        ];
        let retracted = self.run(&args).await?;
        check(retracted.code == 0, &retracted.said)?;
        self.until("the replacement is live", |s| {
            ["nz1", "nz2", "au1"].iter().all(|id| complete(s, id, 8))
        })
        .await?;
        self.say(&format!(
            "build 7 is retracted; build 8 replaced it everywhere after {:.2} s",
            begun.elapsed().as_secs_f64()
        ));
        let url = format!("{}/@/demo/7/doc/oops.txt", self.network.url("nz1")?);
        let code = apt::http_code(&url).await?;
        check(
            code == 410,
            &format!("the bad build answers 410, not {code}"),
        )?;
        self.say("asked for build 7, mirrors answer 410 Gone");
        Ok(())
    }

    async fn apt_installs_from_every_mirror(&mut self, deb: &Path) -> Result<(), Failure> {
        self.step("apt");
        let package = repository::package_of(deb);
        for id in ["nz1", "nz2", "au1"] {
            let url = format!("{}/demo", self.network.url(id)?);
            let begun = Instant::now();
            let apt = apt::Apt::new(&self.repository, id, &url)?;
            apt.run(&["update"]).await?;
            apt.run(&["download", &package]).await?;
            self.say(&format!(
                "{id}: apt-get update and download {package}, {:.2} s",
                begun.elapsed().as_secs_f64()
            ));
        }
        let table = self.run(&["status"]).await?;
        self.output.line(table.said.trim_end());
        Ok(())
    }

    async fn publish(&self, more: &[&str]) -> Result<Ended, Failure> {
        let tree = self.repository.tree().to_string_lossy().into_owned();
        let mut args = vec!["--json", "publish", "demo", &tree];
        args.extend(more);
        self.run(&args).await
    }

    async fn status(&self) -> Result<Value, Failure> {
        Ok(self.run(&["--json", "status", "demo"]).await?.json)
    }

    async fn run(&self, args: &[&str]) -> Result<Ended, Failure> {
        let begun = Instant::now();
        let ran = Command::new(std::env::current_exe().or_exit(IO)?)
            .arg("--config")
            .arg(self.network.archive_config())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .await
            .or_exit(IO)?;
        let stdout = String::from_utf8_lossy(&ran.stdout).into_owned();
        let json = serde_json::from_str(&stdout).unwrap_or_default();
        let said = if args.contains(&"--json") {
            String::from_utf8_lossy(&ran.stderr).into_owned()
        } else {
            stdout
        };
        Ok(Ended {
            code: ran.status.code().unwrap_or(-1),
            json,
            said,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if holds(&self.status().await?) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        check(false, &format!("{what}, within {} s", PATIENCE.as_secs()))
    }
}

fn complete(status: &Value, mirror: &str, build: u64) -> bool {
    let mirrors = status["mirrors"].as_array().into_iter().flatten();
    let channels = mirrors
        .filter(|one| one["id"] == mirror)
        .flat_map(|one| one["channels"].as_array().into_iter().flatten());
    channels
        .into_iter()
        .any(|c| c["live"] == build && c["state"] == "complete")
}

fn check(holds: bool, what: &str) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::text(
            DATA,
            format!("the story went wrong, expected: {what}"),
        ))
    }
}

/// Bytes that do not compress, the same each time (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}
