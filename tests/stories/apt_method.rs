//! apt with mirrorlog's own method: one build a run, whatever fails or flips.

use std::path::Path;
use std::process::Output;

use e2e::{Apt, DebianRepo, Network, Setup, run, sha256, until};

const CHANNEL: &str = "smithy";
const SUITE: &str = "bookworm";

fn network_with(repo: &DebianRepo, pools: &str) -> Network {
    let network = Network::start(&Setup::pools(pools));
    network.publish_everywhere(CHANNEL, &repo.tree());
    let mut mirrors = network.mirrors();
    mirrors.sort_unstable();
    network.await_offered(&format!("channel={CHANNEL}"), &mirrors);
    network
}

fn url(network: &Network) -> String {
    let host = network.directory().trim_start_matches("http://");
    format!("mirrorlog://{host}/{CHANNEL}")
}

fn apt(repo: &DebianRepo, network: &Network, name: &str) -> Apt {
    Apt::with_method(repo, name, &url(network), SUITE, &network.key())
}

fn await_wanted(network: &Network, build: u64) {
    until(&format!("build {build} is wanted"), || {
        let answer = network.ask_directory(&format!("/v1/mirrors?channel={CHANNEL}&country=nz"));
        answer.json()["build"] == build
    });
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The mirror that a client in NZ is sent to first.
fn first(network: &Network) -> String {
    network
        .offered(&format!("channel={CHANNEL}&country=nz"))
        .remove(0)
}

#[test]
fn apt_updates_and_installs_by_the_method() {
    let mut repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=2,au=1");
    let mut apt = apt(&repo, &network, "method");
    let got = apt.try_get(&["update"]);
    assert!(
        got.status.success() && said(&got).contains("Get:1 mirrorlog://"),
        "{}",
        said(&got)
    );
    assert_eq!(
        sha256(&apt.download("anvil")),
        sha256(&std::fs::read(repo.deb("anvil", "1.0-1")).unwrap())
    );
    let hit = apt.try_get(&["update"]);
    assert!(
        hit.status.success() && said(&hit).contains("Hit:1 mirrorlog://"),
        "{}",
        said(&hit)
    );

    repo.upgrade();
    network.publish_everywhere(CHANNEL, &repo.tree());
    await_wanted(&network, 2);
    // The index that apt has is of build 1: the package is found there, though build 2 has it no more.
    let old = apt.download("anvil");
    assert_eq!(
        old.len() as u64,
        std::fs::metadata(apt.path("out/anvil_1.0-1_all.deb"))
            .unwrap()
            .len()
    );
    apt.update();
    assert_eq!(
        sha256(&apt.download("anvil")),
        sha256(&std::fs::read(repo.deb("anvil", "1.1-1")).unwrap())
    );
    assert!(
        apt.would_install("drill")
            .contains(&"drill 3.0-1".to_owned())
    );

    // Without a key apt's own checks are what counts; with a wrong one nothing is taken.
    apt.set("Acquire::mirrorlog::Key=");
    apt.update();
    let wrong = repo.tree().parent().unwrap().join("wrong");
    run(&mut network.command(["key", "generate", wrong.to_str().unwrap()]));
    apt.set(&format!(
        "Acquire::mirrorlog::Key={}",
        wrong.with_extension("pub").display()
    ));
    let refused = apt.try_get(&["update"]);
    assert!(
        said(&refused).contains("is none that is trusted"),
        "{}",
        said(&refused)
    );
    apt.set("Acquire::mirrorlog::Key=/nowhere.pub");
    let broken = apt.try_get(&["update"]);
    assert!(
        !broken.status.success() && said(&broken).contains("/nowhere.pub"),
        "{}",
        said(&broken)
    );
}

#[test]
fn the_method_gets_by_when_mirrors_fail() {
    let mut repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=3");
    let mut apt = apt(&repo, &network, "failing");
    apt.set("Acquire::http::Timeout=1");
    apt.update();

    // The first one hangs, and nobody has noticed.
    let hanging = first(&network);
    network.pause(&hanging);
    repo.upgrade();
    // One that hangs cannot become complete.
    network
        .publish(CHANNEL, &repo.tree(), &["--wait", "2", "--timeout", "60"])
        .ok();
    await_wanted(&network, 2);
    apt.update();
    apt.download("drill");
    network.resume(&hanging);
    network.await_complete(&[&hanging], CHANNEL, 2);
    network.await_offered(&format!("channel={CHANNEL}"), &["nz1", "nz2", "nz3"]);

    // The first one's copy of a package rots: same size, other bytes. apt sees nothing of it.
    let rotten = first(&network);
    let content = std::fs::read(repo.deb("bellows", "2.1-3")).unwrap();
    let digest = sha256(&content);
    let blob = network
        .mirror_dir(&rotten)
        .join("store")
        .join(&digest[..2])
        .join(&digest[2..]);
    network.pause("consistency");
    let mut bad = content.clone();
    bad[content.len() / 2] ^= 0xff;
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, bad).unwrap();
    assert_eq!(sha256(&apt.download("bellows")), digest);
    network.resume("consistency");

    // It dies, and another one; the last one is left, and then the archive.
    let dead = first(&network);
    network.kill(&dead);
    apt.update();
    apt.download("anvil");
    for mirror in ["nz1", "nz2", "nz3"] {
        if mirror != dead {
            network.kill(mirror);
        }
    }
    apt.update();
    apt.download("forge");

    // And the directory: its last list is used, and the archive that it names.
    network.kill("directory");
    apt.update();
    apt.download("drill");
}

#[test]
fn flips_do_not_show() {
    let mut repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=2");
    let apt = apt(&repo, &network, "flips");
    let flips =
        std::env::var("MIRRORLOG_E2E_FLIPS").map_or(15, |flips| flips.parse::<u64>().unwrap());
    let (done, mut runs) = (std::sync::atomic::AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for flip in 0..flips {
                // Only the newest of it is kept in the tree, as archives do.
                repo.drop_package(SUITE, "anvil");
                repo.add(SUITE, "anvil", &format!("2.{flip}-1"), "");
                repo.write();
                network.publish_everywhere(CHANNEL, &repo.tree());
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            apt.update();
            apt.download("anvil");
            runs += 1;
        }
    });
    assert!(runs > 3, "apt ran {runs} times only");
    await_wanted(&network, flips + 1);
    apt.update();
    let newest = repo.deb("anvil", &format!("2.{}-1", flips - 1));
    assert_eq!(
        sha256(&apt.download("anvil")),
        sha256(&std::fs::read(newest).unwrap())
    );
}

#[test]
fn the_method_resumes_and_asks_proxies_as_apt_says() {
    let repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=1");
    let mut apt = apt(&repo, &network, "helper");
    let path = DebianRepo::pool_path("bellows", "2.1-3");
    let content = std::fs::read(repo.deb("bellows", "2.1-3")).unwrap();
    let target = apt.path("bellows.deb");
    let fetch = |apt: &Apt| {
        let uri = format!("{}/{path}", url(&network));
        let digest = format!("SHA256:{}", sha256(&content));
        apt.helper(&["download-file", &uri, target.to_str().unwrap(), &digest])
            .output()
            .unwrap()
    };
    std::fs::write(&target, &content[..content.len() / 2]).unwrap();
    let got = fetch(&apt);
    assert!(got.status.success(), "{}", said(&got));
    assert_eq!(std::fs::read(&target).unwrap(), content);
    let seconds = |file: &Path| {
        let modified = std::fs::metadata(file).unwrap().modified().unwrap();
        modified
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    assert_eq!(
        seconds(&target),
        seconds(&repo.deb("bellows", "2.1-3")),
        "apt asks by it the next time"
    );

    // A proxy that nobody runs is asked, unless the host is exempt.
    let remove = |target: &Path| std::fs::remove_file(target).unwrap();
    remove(&target);
    apt.set("Acquire::http::Proxy=http://127.0.0.1:1");
    let nobody = fetch(&apt);
    assert!(!nobody.status.success(), "{}", said(&nobody));
    apt.set("Acquire::http::Proxy::127.0.0.1=DIRECT");
    let direct = fetch(&apt);
    // The mirror is at another address, for which there is no exception: the archive itself gives it.
    assert!(direct.status.success(), "{}", said(&direct));
    remove(&target);
    let absent = apt.helper(&[
        "download-file",
        &format!("{}/nothing", url(&network)),
        target.to_str().unwrap(),
    ]);
    let absent = { absent }.output().unwrap();
    assert!(
        !absent.status.success() && said(&absent).contains("404"),
        "{}",
        said(&absent)
    );
}
