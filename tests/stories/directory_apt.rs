//! apt by mirror list and by redirect, with mirrors and directories that fail on it.

use std::process::{Command, Stdio};

use e2e::{Apt, DebianRepo, Network, Setup, run, sha256, until};
use reqwest::Method;

const CHANNEL: &str = "smithy";
const SUITE: &str = "bookworm";

fn list_url(network: &Network) -> String {
    let host = network.directory().trim_start_matches("http://");
    format!("mirror+http://{host}/mirrors.txt?channel={CHANNEL}&country=nz")
}

fn network_with(repo: &DebianRepo, pools: &str) -> Network {
    let network = Network::start(&Setup::pools(pools));
    network.publish_everywhere(CHANNEL, &repo.tree());
    let mut mirrors = network.mirrors();
    mirrors.sort_unstable();
    network.await_offered(&format!("channel={CHANNEL}"), &mirrors);
    network
}

fn await_wanted(network: &Network, build: u64) {
    until(&format!("build {build} is wanted"), || {
        let answer = network.ask_directory(&format!("/v1/mirrors?channel={CHANNEL}"));
        answer.json()["build"] == build
    });
}

#[test]
fn apt_goes_by_list_and_by_redirect() {
    let mut repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=2,au=1");
    the_list_is_as_apt_needs_it(&network);
    let redirected = format!("{}/{CHANNEL}", network.directory());
    let apts = [
        Apt::new(&repo, "list", &list_url(&network), SUITE),
        Apt::new(&repo, "redirect", &redirected, SUITE),
    ];
    for build in 1..=2 {
        for apt in &apts {
            apt.update();
            let anvil = apt.download("anvil");
            let expected = sha256(&repo.files()[&newest_anvil(&repo)]);
            assert_eq!(sha256(&anvil), expected, "build {build}");
        }
        let installs = apts[0].would_install("forge");
        assert_eq!(installs, apts[1].would_install("forge"));
        if build == 1 {
            repo.upgrade();
            network.publish_everywhere(CHANNEL, &repo.tree());
            await_wanted(&network, 2);
        }
    }
}

/// The pool path of the newest anvil.
fn newest_anvil(repo: &DebianRepo) -> String {
    let files = repo.files();
    let anvils = files.keys().filter(|path| path.contains("/anvil_"));
    anvils.max().unwrap().clone()
}

/// One URI, a TAB, keys; indexes pinned, packages not; never a part, never a redirect.
fn the_list_is_as_apt_needs_it(network: &Network) {
    let path = format!("/mirrors.txt?channel={CHANNEL}&country=NZ");
    let answer = network.ask_directory(&path);
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain"));
    let text = answer.text();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 6, "{text}");
    for (pair, priority) in lines.chunks(2).zip(1..) {
        let (index, keys) = pair[0].split_once('\t').unwrap();
        assert!(index.ends_with(&format!("/@/{CHANNEL}/1/")), "{index}");
        assert_eq!(keys, format!("priority:{priority} type:index"));
        let (deb, keys) = pair[1].split_once('\t').unwrap();
        assert!(
            deb.ends_with(&format!("/{CHANNEL}/")) && !deb.contains('@'),
            "{deb}"
        );
        assert_eq!(keys, format!("priority:{priority} type:deb"));
    }
    let url = format!("{}{path}", network.directory());
    let range = format!("bytes={}-", text.len());
    // The version has a date as soon as its second is over.
    until("the list has a date", || {
        let answer = network.ask_directory(&path);
        !answer.header("last-modified").is_empty()
    });
    let date = network
        .ask_directory(&path)
        .header("last-modified")
        .to_owned();
    let again = [("range", range.as_str()), ("if-range", date.as_str())];
    assert_eq!(network.http().ask(Method::GET, &url, &again).status, 416);
    let old = [
        ("range", range.as_str()),
        ("if-range", "Sat, 01 Jan 2022 00:00:00 GMT"),
    ];
    let whole = network.http().ask(Method::GET, &url, &old);
    assert_eq!((whole.status, whole.body.len()), (200, text.len()));
    let unknown = network.ask_directory("/mirrors.txt?channel=nothing");
    assert_eq!(unknown.status, 404);
}

/// The mirror that a client in NZ is sent to first.
fn first(network: &Network) -> String {
    network
        .offered(&format!("channel={CHANNEL}&country=nz"))
        .remove(0)
}

#[test]
fn apt_gets_by_when_the_first_mirror_fails() {
    let mut repo = DebianRepo::bookworm();
    // Two of three are a quorum without the stale one.
    let network = network_with(&repo, "nz=3");
    let redirected = format!("{}/{CHANNEL}", network.directory());
    let fresh = |repo: &DebianRepo, name: &str| {
        [
            Apt::new(repo, &format!("{name}-list"), &list_url(&network), SUITE),
            Apt::new(repo, &format!("{name}-redirect"), &redirected, SUITE),
        ]
    };
    // Nobody is sent to `bad`: apt says whom it asks.
    let works_without = |bad: &str, apts: [Apt; 2]| {
        let host = |mirror: &str| network.url(mirror).replace("http://", "Host: ");
        for mut apt in apts {
            apt.set("Debug::Acquire::http=true");
            let mut said = apt.update();
            let download = apt.try_get(&["download", "forge"]);
            assert!(download.status.success());
            said += &String::from_utf8_lossy(&download.stderr);
            assert!(!said.contains(&host(bad)), "{said}");
            let asked = network.mirrors().into_iter();
            let asked = asked.filter(|mirror| said.contains(&host(mirror)));
            assert!(asked.count() > 0, "{said}");
        }
    };

    // Dead, and nobody has noticed: the list's next line is taken.
    let dead = first(&network);
    network.kill(&dead);
    let apt = Apt::new(&repo, "at-once", &list_url(&network), SUITE);
    let output = apt.try_get(&["update"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    until("the dead mirror is out", || first(&network) != dead);
    works_without(&dead, fresh(&repo, "dead"));
    network.restart(&dead);
    let mut mirrors = network.mirrors();
    mirrors.sort_unstable();
    network.await_offered(&format!("channel={CHANNEL}"), &mirrors);

    // Hanging: it takes connections and says nothing.
    let hanging = first(&network);
    network.pause(&hanging);
    until("the hanging mirror is out", || first(&network) != hanging);
    works_without(&hanging, fresh(&repo, "hanging"));
    network.resume(&hanging);
    network.await_offered(&format!("channel={CHANNEL}"), &mirrors);

    // Stale: it serves on, and no longer hears of new builds.
    let stale = first(&network);
    network.kill(&stale);
    network.configure(&stale, |config| {
        config["nats"]["url"] = "nats://127.0.0.1:9".into();
        config["archive"]["fetch"] = "127.0.0.1:9".into();
    });
    network.restart(&stale);
    repo.upgrade();
    network.publish(CHANNEL, &repo.tree(), &[]).ok();
    await_wanted(&network, 2);
    assert_eq!(network.live(&stale, CHANNEL), Some(1), "it is stale");
    for (name, url) in [
        ("list", list_url(&network)),
        ("redirect", redirected.clone()),
    ] {
        let apt = Apt::new(&repo, &format!("stale-{name}"), &url, SUITE);
        apt.update();
        let anvil = apt.download("anvil");
        let expected = sha256(&repo.files()[&newest_anvil(&repo)]);
        assert_eq!(sha256(&anvil), expected, "{name}: the new build");
    }

    // Corrupt, of the same size: found by the mirror's own scrub or from outside, and out of every answer.
    let corrupt = first(&network);
    let deb = repo.files()[&newest_anvil(&repo)].clone();
    let digest = sha256(&deb);
    let blob = network
        .mirror_dir(&corrupt)
        .join("store")
        .join(&digest[..2])
        .join(&digest[2..]);
    // It cannot fetch a good one either.
    network.kill("archive");
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, vec![0; deb.len()]).unwrap();
    until("the corrupt mirror is out", || first(&network) != corrupt);
    for (name, url) in [("list", list_url(&network)), ("redirect", redirected)] {
        let apt = Apt::new(&repo, &format!("corrupt-{name}"), &url, SUITE);
        apt.update();
        assert_eq!(sha256(&apt.download("anvil")), digest, "{name}");
    }
}

#[test]
fn a_run_of_apt_is_of_one_build_while_builds_flip() {
    let mut repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=2");
    let redirected = format!("{}/{CHANNEL}", network.directory());
    let publisher = std::sync::atomic::AtomicBool::new(true);
    let (network, publishing) = (&network, &publisher);
    let keyed = [
        Apt::new(&repo, "flips-redirect", &redirected, SUITE),
        Apt::new(&repo, "flips-list", &list_url(network), SUITE),
    ];
    let repo = &mut repo;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for version in 0..6 {
                repo.add(SUITE, "anvil", &format!("9.{version}-1"), "");
                repo.write();
                network.publish_everywhere(CHANNEL, &repo.tree());
            }
            publishing.store(false, std::sync::atomic::Ordering::SeqCst);
        });
        while publishing.load(std::sync::atomic::Ordering::SeqCst) {
            for apt in &keyed {
                apt.update();
                assert!(!apt.download("anvil").is_empty());
            }
        }
    });
}

#[test]
fn a_directory_dies_under_apt() {
    let repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=2");
    network.second_directory("directory2", "127.0.0.2");
    let port = network.directory().rsplit_once(':').unwrap().1.to_owned();
    // One name, two addresses, as a zone would have it; in a mount namespace of its own.
    let hosts = network.scratch().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost dir.test\n127.0.0.2 dir.test\n").unwrap();
    let inside = |apt: &Apt, words: &[&str]| {
        let get = apt.get(words);
        let mut inside = Command::new("unshare");
        let mount = "mount --bind \"$HOSTS\" /etc/hosts; exec \"$@\"";
        inside
            .args(["--mount", "sh", "-ec", mount, "sh"])
            .env("HOSTS", &hosts)
            .arg(get.get_program())
            .args(get.get_args())
            .current_dir(get.get_current_dir().unwrap());
        for (variable, value) in get.get_envs() {
            inside.env(variable, value.unwrap());
        }
        inside
    };
    let both = |name: &str, url: &str| {
        let apt = Apt::new(&repo, name, url, SUITE);
        // Each of the two dies while apt runs, and apt goes on with the other.
        for dies in ["directory", "directory2"] {
            for what in [&["update"][..], &["download", "forge", "anvil", "chisel"]] {
                // As apt does by default: what breaks under way is asked for again.
                let words = &[&["-o", "Acquire::Retries=3"], what].concat();
                let mut command = inside(&apt, words);
                let running = command.stdout(Stdio::piped()).stderr(Stdio::piped());
                let running = running.spawn().unwrap();
                network.kill(dies);
                let ended = running.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&ended.stderr);
                assert!(ended.status.success(), "{name}, {dies}: {said}");
                assert!(
                    !said.contains("W: ") && !said.contains("E: "),
                    "{name}, {dies}: {said}"
                );
                // With one of them away from the start too.
                run(&mut inside(&apt, words));
                network.restart(dies);
            }
        }
    };
    both("two-redirect", &format!("http://dir.test:{port}/{CHANNEL}"));
    both(
        "two-list",
        &format!("mirror+http://dir.test:{port}/mirrors.txt?channel={CHANNEL}"),
    );
}
