//! People and machines choose a mirror, and real apt takes what was written for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{
    Apt, DebianRepo, Ended, Network, OpenBsdRepo, Setup, Terminal, Tree, run, sha256, tool, until,
};
use rustix::process::Signal;

const CHANNEL: &str = "smithy";

fn network_with(repo: &DebianRepo, pools: &str) -> Network {
    let network = Network::start(&Setup::pools(pools));
    network.publish_everywhere(CHANNEL, &repo.tree());
    let mut mirrors = network.mirrors();
    mirrors.sort_unstable();
    network.await_offered(&format!("channel={CHANNEL}"), &mirrors);
    network
}

/// `select …` for a client in New Zealand, with a memory of its own.
fn command(network: &Network, words: &[&str]) -> Command {
    let mut command = network.command([&["select", "--country", "nz"], words].concat());
    command
        .env("MIRRORLOG_DIRECTORY", network.directory())
        .env("MIRRORLOG_CLIENT_STATE", network.scratch().join("client"))
        .env_remove("NO_COLOR");
    command
}

fn select(network: &Network, words: &[&str]) -> Ended {
    network.run_command(&mut command(network, words))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The names in a folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn anvil_is_had(repo: &DebianRepo, apt: &Apt) {
    apt.update();
    let anvil = std::fs::read(repo.deb("anvil", "1.0-1")).unwrap();
    assert_eq!(sha256(&apt.download("anvil")), sha256(&anvil));
}

#[test]
fn apt_takes_what_select_writes() {
    let repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=2,au=1");
    let keyring = repo.keyring();
    let keyring = keyring.to_str().unwrap();
    for form in ["plain", "mirror+file", "mirror+http"] {
        // apt hangs on a list in a folder with a plus in its name.
        let apt = Apt::with_parts(&repo, &form.replace('+', "-"));
        let file = apt.parts().join("smithy.sources");
        let sources = file.to_str().unwrap();
        let words = [
            "--auto",
            "--apply",
            "--as",
            form,
            "--sources",
            sources,
            "--signed-by",
            keyring,
        ];
        let ended = select(&network, &words).ok();
        let choice = ended.json["choice"].as_str().unwrap();
        assert!(network.mirrors().contains(&choice));
        let written = text(&file);
        assert_eq!(ended.json["text"], written.as_str());
        assert!(
            written.contains("\nSuites: bookworm\nComponents: main\n"),
            "{written}"
        );
        assert!(
            written.contains(&format!("\nSigned-By: {keyring}\n")),
            "{written}"
        );
        let uri = match form {
            "plain" => format!("{}/smithy/", network.url(choice)),
            "mirror+file" => {
                let list = file
                    .ancestors()
                    .nth(2)
                    .unwrap()
                    .join("smithy-smithy.mirrors");
                the_choice_is_first(&text(&list), network.url(choice));
                format!("mirror+file:{}", list.display())
            }
            _http => format!(
                "mirror+{}/mirrors.txt?channel=smithy&country=NZ",
                network.directory()
            ),
        };
        assert!(written.contains(&format!("\nURIs: {uri}\n")), "{written}");
        anvil_is_had(&repo, &apt);
        if form == "mirror+file" {
            a_list_that_nobody_refreshed_still_works(&repo, &apt);
            // The timer's run: the list is as it should be again, and nothing is kept of what can be made anew.
            select(&network, &words).ok();
            anvil_is_had(&repo, &apt);
            assert_eq!(names(&apt.parts()), ["smithy.sources"]);
        }
    }
    let none = network.scratch().join("none.sources");
    let ended = select(
        &network,
        &[
            "--auto",
            "--as",
            "mirrorlog",
            "--sources",
            none.to_str().unwrap(),
        ],
    )
    .ok();
    let host = network.directory().trim_start_matches("http://");
    let written = ended.json["text"].as_str().unwrap();
    assert!(
        written.contains(&format!("\nURIs: mirrorlog://{host}/smithy/\n")),
        "{written}"
    );
    assert!(!none.exists(), "--apply was not given");
}

fn the_choice_is_first(list: &str, url: &str) {
    let lines: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        format!("{url}/@/smithy/1/\tpriority:1 type:index"),
        format!("{url}/smithy/\tpriority:1 type:deb"),
    ];
    assert_eq!(lines[..2], expected);
    assert_eq!(lines.len(), 7, "{list}");
    let last = format!("{url}/smithy/\tpriority:1000 type:index");
    assert_eq!(lines[6], last);
}

/// The build that it pins is gone from all mirrors: apt comes to the live tree.
fn a_list_that_nobody_refreshed_still_works(repo: &DebianRepo, apt: &Apt) {
    let list = apt.parts().parent().unwrap().join("smithy-smithy.mirrors");
    let old = text(&list).replace("/@/smithy/1/", "/@/smithy/99/");
    std::fs::write(&list, old).unwrap();
    anvil_is_had(repo, apt);
}

#[test]
fn what_was_there_is_shown_and_kept() {
    let repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=1");
    let dir = network.scratch().join("etc");
    std::fs::create_dir(&dir).unwrap();
    let file = dir.join("m.sources");
    let sources = file.to_str().unwrap();
    let old = "Types: deb\nURIs: http://old.example/\nSuites: bookworm sid\nComponents: main contrib\n\
               Architectures: amd64\nSigned-By: /usr/share/keyrings/old.gpg\n";
    std::fs::write(&file, old).unwrap();

    let shown = select(&network, &["smithy", "--auto", "--sources", sources]).ok();
    assert_eq!(text(&file), old, "nothing is written without --apply");
    let diff = shown.json["files"][0]["diff"].as_str().unwrap();
    let url = network.url("nz1");
    for line in [
        "-URIs: http://old.example/",
        &format!("+URIs: {url}/smithy/"),
        "+Suites: bookworm",
        " Types: deb",
    ] {
        assert!(diff.lines().any(|one| one == line), "{line}: {diff}");
    }
    let kept = [
        "\nComponents: main\n",
        "\nArchitectures: amd64\n",
        "\nSigned-By: /usr/share/keyrings/old.gpg\n",
    ];
    let written = shown.json["text"].as_str().unwrap();
    assert!(kept.iter().all(|part| written.contains(part)), "{written}");

    let apply = |form: &str| {
        select(
            &network,
            &["--auto", "--apply", "--as", form, "--sources", sources],
        )
        .ok()
    };
    let ended = apply("plain");
    assert_eq!(ended.json["files"][0]["applied"], true);
    assert_eq!(text(&dir.join("m.sources.bak")), old);
    assert_eq!(
        apply("plain").json["files"][0]["applied"],
        false,
        "it says so already"
    );
    // Our own can be made again, and a timer would pile it up.
    apply("mirror+http");
    assert_eq!(names(&dir), ["m.sources", "m.sources.bak"]);
    assert_eq!(text(&dir.join("m.sources.bak")), old);
    it_says_what_it_may_not_do(&network, &file);
    it_refuses_what_cannot_work(&network, &dir);
}

/// As root without root's rights, or as anybody, in a folder that may not be written.
fn it_says_what_it_may_not_do(network: &Network, file: &Path) {
    let folder = file.parent().unwrap();
    run(tool("chmod").arg("0555").arg(folder));
    let words = ["--auto", "--apply", "--sources", file.to_str().unwrap()];
    let inner = command(network, &words);
    let mut outer = tool("setpriv");
    outer
        .arg("--bounding-set=-all")
        .arg(inner.get_program())
        .args(inner.get_args());
    outer.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let ended = network.run_command(&mut outer).code_is(77);
    run(tool("chmod").arg("0755").arg(folder));
    assert!(
        ended.stderr.contains("run it as root") && ended.stderr.contains("m.sources"),
        "{}",
        ended.stderr
    );
    assert!(text(file).contains("mirror+http"), "it stays as it was");
}

fn it_refuses_what_cannot_work(network: &Network, dir: &Path) {
    let refused = |words: &[&str], code: i32, part: &str| {
        let ended = select(network, words).code_is(code);
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    };
    let list = dir.join("m.list");
    refused(
        &["--auto", "--sources", list.to_str().unwrap()],
        2,
        "does not end in .sources",
    );
    let plus = dir.join("a+b/m.sources");
    let words = [
        "--auto",
        "--as",
        "mirror+file",
        "--sources",
        plus.to_str().unwrap(),
    ];
    refused(&words, 2, "apt hangs on a list at");
    refused(&["--apply"], 2, "--apply needs --auto");
    let other = dir.join("other.sources");
    let repositories = "Types: deb-src\nEnabled: no\nURIs: http://a/\nSuites: bookworm\nComponents: main\n\n\
                        Types: deb\nURIs: http://b/\nSuites: bookworm-security\nComponents: main\n";
    std::fs::write(&other, repositories).unwrap();
    let words = ["--auto", "--apply", "--sources", other.to_str().unwrap()];
    refused(&words, 65, "2 stanzas, Enabled: no");
    assert_eq!(text(&other), repositories);
    std::fs::write(
        &other,
        "Types: deb\nURIs: http://b/\nSuites: sid\nComponents: main\n",
    )
    .unwrap();
    refused(&words, 66, "suites (sid) is there, but bookworm");
    refused(&["nothing", "--auto"], 66, "it knows smithy");
    refused(
        &["--auto", "--signed-by", "/nowhere/k.gpg"],
        64,
        "there is no keyring /nowhere/k.gpg",
    );
    refused(
        &["--auto", "--suite", "sid"],
        66,
        "has no suite sid, but bookworm",
    );
    let tree = Tree::new();
    tree.write("one", b"1");
    network.publish_everywhere("files", tree.path());
    until("the directory has both channels", || {
        let channels = network.ask_directory("/v1/channels").json();
        channels["channels"].as_array().unwrap().len() == 2
    });
    network.await_offered("channel=files", &["nz1"]);
    refused(&["--auto"], 2, "name one of files, smithy");
    refused(&["files", "--auto", "--apply"], 2, "plain tree");
    let ended = select(network, &["files", "--auto"]).ok();
    assert_eq!(
        ended.json["text"],
        format!("{}/files/\n", network.url("nz1"))
    );
}

#[test]
fn a_dead_mirror_is_not_chosen() {
    let repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=2,au=1");
    let file = network.scratch().join("m.sources");
    let words = ["--auto", "--sources", file.to_str().unwrap()];
    let before = select(&network, &words).ok();
    let dead = before.json["choice"].as_str().unwrap();
    // The directory is away too: its last list, in which the dead one stands, is all that there is.
    network.kill("directory");
    network.kill(dead);
    let after = select(&network, &words).ok();
    assert!(
        after.stderr.contains("its last list is used"),
        "{}",
        after.stderr
    );
    let choice = after.json["choice"].as_str().unwrap();
    assert_ne!(choice, dead);
    assert!(
        after.json["text"]
            .as_str()
            .unwrap()
            .contains(network.url(choice))
    );
    let candidates = after.json["candidates"].as_array().unwrap();
    let found = candidates.iter().find(|one| one["id"] == dead).unwrap();
    assert_eq!(
        (&found["speed"], &found["reason"]),
        (&"failed".into(), &"cannot be reached".into())
    );
    let fine = candidates.iter().filter(|one| one["speed"] == "known");
    assert_eq!(
        fine.count(),
        2,
        "what was measured before is not measured again: {candidates:?}"
    );
    for other in network.mirrors() {
        if other != dead {
            network.kill(other);
        }
    }
    let none = select(&network, &words).code_is(69);
    assert!(
        none.stderr.contains("no mirror for smithy answers"),
        "{}",
        none.stderr
    );
}

/// A copy of a command, without `--json`.
fn for_people(command: &Command) -> Command {
    let mut plain = Command::new(command.get_program());
    plain.args(command.get_args().filter(|arg| *arg != "--json"));
    plain.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    plain
}

#[test]
fn a_person_chooses_from_a_list() {
    let repo = DebianRepo::bookworm();
    let network = network_with(&repo, "nz=2,au=1,de=1");
    network.kill("de1");
    network.await_offered(&format!("channel={CHANNEL}"), &["au1", "nz1", "nz2"]);
    let file = network.scratch().join("m.sources");
    let words = ["--sources", file.to_str().unwrap()];

    let out = network.scratch().join("out.json");
    let stdout = std::fs::File::create(&out).unwrap();
    let terminal = Terminal::start(&command(&network, &words), 80, Some(stdout));
    until("all three are measured", || {
        terminal.screen().matches("/s measured").count() == 3
    });
    let screen = terminal.screen();
    let line = |id: &str| {
        terminal
            .line(&format!("{id} "))
            .unwrap_or_else(|| panic!("{id}: {screen}"))
    };
    assert!(
        line("au1").contains("AU       continent, ") && line("au1").contains(" ms  "),
        "{screen}"
    );
    assert!(line("nz1").contains("NZ       country, "), "{screen}");
    assert!(
        terminal.line("de1").unwrap().len() > "   de1     ".len(),
        "its reason is there: {screen}"
    );
    assert!(screen.contains("Mirrors for smithy, build 1"), "{screen}");
    let rows: Vec<&str> = screen
        .lines()
        .skip_while(|line| !line.contains("COUNTRY"))
        .skip(1)
        .collect();
    assert!(rows[0].starts_with('>'), "{screen}");
    assert!(rows.iter().all(|row| row.chars().count() <= 80));
    assert!(terminal.is_coloured());
    let second = ["nz1", "nz2"]
        .into_iter()
        .find(|id| rows[1].contains(id))
        .unwrap();

    // The last one is not offered; the second one is taken.
    terminal.press("G\r");
    terminal.await_text("de1 cannot be chosen: ");
    terminal.press("gj");
    until("the second line is chosen", || {
        terminal
            .line(second)
            .is_some_and(|line| line.starts_with('>'))
    });
    terminal.press("\r");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    let document: serde_json::Value = serde_json::from_str(&text(&out)).unwrap();
    assert_eq!(document["choice"], second);
    assert!(!screen.contains("MIRROR"), "the list is gone: {screen}");

    // With --apply, all on the terminal, and without colours.
    let mut plain = for_people(&command(&network, &[&words[..], &["--apply"]].concat()));
    plain.env("NO_COLOR", "1");
    let terminal = Terminal::start(&plain, 120, None);
    until("all three are known", || {
        terminal.screen().matches("/s known").count() >= 3
    });
    assert!(terminal.line("POOL").is_some() && !terminal.is_coloured());
    terminal.press("\r");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(
        screen.contains("+Suites: bookworm") && screen.contains("m.sources is written"),
        "{screen}"
    );
    assert!(text(&file).contains("Suites: bookworm"));

    people_may_leave(&network, &words);
}

#[test]
fn pkg_add_is_told_where_its_packages_are() {
    const BSD: &str = "openbsd-amd64";
    let repo = OpenBsdRepo::new();
    let network = Network::start(&Setup::pools("nz=1"));
    network.publish_everywhere(BSD, &repo.tree());
    network.await_offered(&format!("channel={BSD}"), &["nz1"]);
    let expected = format!("{}/{BSD}\n", network.url("nz1"));
    let shown = select(&network, &["--auto"]).ok();
    assert_eq!(shown.json["text"], expected.as_str());
    assert_eq!(shown.json["files"].as_array().unwrap().len(), 0);
    let none = select(&network, &["--auto", "--apply"]).code_is(2);
    assert!(none.stderr.contains("--sources FILE"), "{}", none.stderr);
    let file = network.scratch().join("installurl");
    std::fs::write(&file, "# ours\nhttps://cdn.openbsd.org/pub/OpenBSD\n").unwrap();
    select(
        &network,
        &["--auto", "--apply", "--sources", file.to_str().unwrap()],
    )
    .ok();
    assert_eq!(text(&file), format!("# ours\n{expected}"));
    let kept = network.scratch().join("installurl.bak");
    assert!(text(&kept).contains("cdn.openbsd.org"));
    // As pkg_add makes it of the line: `/%c/packages/%a/`.
    let url = format!("{}/7.8/packages/amd64/index.txt", expected.trim());
    assert_eq!(network.http().get(&url).status, 200);
}

fn people_may_leave(network: &Network, words: &[&str]) {
    let before = text(&PathBuf::from(words[1]));
    for (key, code) in [("q", 0), ("\u{1b}", 0), ("\u{3}", 130)] {
        let terminal = Terminal::start(&for_people(&command(network, words)), 80, None);
        terminal.await_text("q or Esc: leave");
        terminal.press(key);
        let (ended, screen) = terminal.end();
        assert_eq!(ended, code, "{screen}");
        assert_eq!(screen.contains("nothing was chosen"), code == 0, "{screen}");
    }
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let terminal = Terminal::start(&for_people(&command(network, words)), 80, None);
        terminal.await_text("q or Esc: leave");
        assert!(terminal.is_taken());
        terminal.signal(signal);
        until("the terminal is as it was", || !terminal.is_taken());
        let (ended, screen) = terminal.end();
        assert_eq!(ended, code, "{screen}");
    }
    assert_eq!(text(&PathBuf::from(words[1])), before);
    // Without a terminal the same is a table.
    let ended = network
        .run_command(&mut for_people(&command(network, words)))
        .ok();
    assert!(
        ended.stdout.contains("au1") && ended.stdout.contains("/s known"),
        "{}",
        ended.stdout
    );
    assert!(ended.stderr.contains("use --auto"), "{}", ended.stderr);
}
