//! Partial mirrors fetch, serve, report and become complete for what they declare, and are offered for no more.

use std::collections::BTreeSet;
use std::path::PathBuf;

use e2e::{Network, Setup, Tree, noise, sha256, until};
use reqwest::Method;
use toml::Value;

const DEB_BYTES: usize = 40_000;

/// A repository of two architectures and two components.
struct Repository {
    tree: Tree,
    version: u64,
}

const BINARIES: [(&str, &str, &str); 5] = [
    ("main", "hello", "amd64"),
    ("main", "hello", "arm64"),
    ("main", "hello-doc", "all"),
    ("universe", "extra", "amd64"),
    ("universe", "extra", "arm64"),
];

impl Repository {
    fn new() -> Self {
        let mut repository = Self {
            tree: Tree::new(),
            version: 0,
        };
        repository.renew();
        repository
    }

    fn deb(&self, name: &str, architecture: &str) -> String {
        let component = if name == "extra" { "universe" } else { "main" };
        format!(
            "pool/{component}/{name}_{}_{architecture}.deb",
            self.version
        )
    }

    fn content(&self, name: &str, architecture: &str) -> Vec<u8> {
        let seed = sha256(format!("{name} {architecture} {}", self.version).as_bytes());
        noise(u64::from_str_radix(&seed[..8], 16).unwrap(), DEB_BYTES)
    }

    /// Another version of every package.
    fn renew(&mut self) {
        if self.version > 0 {
            for (_, name, architecture) in BINARIES {
                self.tree.remove(&self.deb(name, architecture));
            }
        }
        self.version += 1;
        let mut release = "Suite: noble\nCodename: noble\nDate: Thu, 26 Nov 2026 00:00:00 UTC\n\
             Architectures: amd64 arm64\nComponents: main universe\nSHA256:\n"
            .to_owned();
        for (_, name, architecture) in BINARIES {
            let (path, content) = (
                self.deb(name, architecture),
                self.content(name, architecture),
            );
            self.tree.write(&path, content);
        }
        for component in ["main", "universe"] {
            for architecture in ["amd64", "arm64"] {
                let own = BINARIES.iter().filter(|(of, _, arch)| {
                    *of == component && [architecture, "all"].contains(arch)
                });
                let stanza = |(_, name, arch): &(&str, &str, &str)| {
                    let content = self.content(name, arch);
                    format!(
                        "Package: {name}\nVersion: {}\nArchitecture: {arch}\nFilename: {}\nSize: {}\nSHA256: {}\n\n",
                        self.version,
                        self.deb(name, arch),
                        content.len(),
                        sha256(&content)
                    )
                };
                let packages: String = own.map(stanza).collect();
                let path = format!("{component}/binary-{architecture}/Packages");
                release += &format!(
                    " {} {} {path}\n",
                    sha256(packages.as_bytes()),
                    packages.len()
                );
                self.tree.write(&format!("dists/noble/{path}"), packages);
            }
        }
        self.tree.write("dists/noble/Release", release);
    }
}

fn view(network: &Network, mirror: &str, view: Option<&str>) {
    network.kill(mirror);
    network.configure(mirror, |config| {
        config.remove("views");
        if let Some(view) = view {
            let view: Value = Value::Table(toml::from_str(view).unwrap());
            config.insert("views".to_owned(), Value::Array(vec![view]));
        }
    });
    network.restart(mirror);
}

fn exported(network: &Network, mirror: &str) -> PathBuf {
    network.config(mirror).parent().unwrap().join("export/deb")
}

fn stored(network: &Network, mirror: &str, content: &[u8]) -> bool {
    let digest = sha256(content);
    let store = network.mirror_dir(mirror).join("store");
    store.join(&digest[..2]).join(&digest[2..]).exists()
}

#[test]
fn a_partial_mirror_is_complete_for_what_it_carries_and_offered_for_no_more() {
    let network = Network::start(&Setup::pools("nz=3").export());
    view(
        &network,
        "nz2",
        Some("architectures = [\"amd64\"]\ncomponents = [\"main\"]\n"),
    );
    let mut repository = Repository::new();
    let publish = |repository: &Repository| {
        let options = ["--layout", "debian", "--wait", "all"];
        network
            .publish("deb", repository.tree.path(), &options)
            .ok()
            .build()
    };
    assert_eq!(publish(&repository), 1);
    assert!(network.is_complete("nz2", "deb", 1));
    let standing = network.standing("nz2", "deb");
    assert_eq!(
        standing["view"], "architectures amd64; components main",
        "{standing}"
    );
    assert_eq!(network.standing("nz1", "deb")["view"], "everything");

    let here = |repository: &Repository, name: &str, architecture: &str| {
        let path = repository.deb(name, architecture);
        let build = network.live("nz2", "deb").unwrap();
        for url in [format!("/deb/{path}"), format!("/@/deb/{build}/{path}")] {
            let answer = network.get("nz2", &url);
            match answer.status {
                200 => assert_eq!(answer.body, repository.content(name, architecture)),
                404 => assert!(answer.text().contains("not-carried: "), "{}", answer.text()),
                other => panic!("{url}: {other}"),
            }
        }
        let carried = network.get("nz2", &format!("/deb/{path}")).status == 200;
        assert_eq!(
            carried,
            stored(&network, "nz2", &repository.content(name, architecture))
        );
        assert_eq!(
            carried,
            exported(&network, "nz2").join(&path).exists(),
            "{path}"
        );
        carried
    };
    let carried = |repository: &Repository| -> Vec<(&str, &str)> {
        let all = BINARIES
            .iter()
            .filter(|(_, name, arch)| here(repository, name, arch));
        all.map(|(_, name, arch)| (*name, *arch)).collect()
    };
    assert_eq!(
        carried(&repository),
        [("hello", "amd64"), ("hello-doc", "all")]
    );
    let listing = network.get("nz2", "/deb/dists/noble/main/").text();
    assert!(
        listing.contains("binary-amd64/") && !listing.contains("arm64"),
        "{listing}"
    );
    assert!(!network.get("nz2", "/deb/pool/").text().contains("universe"));
    let trace = network.get("nz2", "/deb/project/trace/nz2").text();
    assert!(
        trace.contains("\nArchitectures: amd64\nArchitectures-Configuration: INCLUDE amd64\n"),
        "{trace}"
    );

    // Lists name it to those only who need no more.
    let directory = network.dir().join("local.json");
    let local: serde_json::Value =
        serde_json::from_slice(&std::fs::read(directory).unwrap()).unwrap();
    let directory = local["directory"]["http"].as_str().unwrap().to_owned();
    let asked = |question: &str| network.http().get(&format!("{directory}{question}"));
    let offered = |more: &str| -> BTreeSet<String> {
        let answer = asked(&format!("/v1/mirrors?channel=deb&country=nz{more}")).json();
        let mirrors = answer["mirrors"].as_array().unwrap().iter();
        mirrors
            .map(|mirror| mirror["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let names = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    until("all that are whole are offered", || {
        offered("") == names("nz1 nz3")
    });
    let enough = "&arch=amd64&component=main";
    until("those that have enough are offered", || {
        offered(enough) == names("nz1 nz2 nz3")
    });
    assert_eq!(offered("&arch=amd64"), names("nz1 nz3"));
    let (amd64, arm64) = (
        repository.deb("hello", "amd64"),
        repository.deb("hello", "arm64"),
    );
    assert_eq!(offered(&format!("&path={amd64}")), names("nz1 nz2 nz3"));
    assert_eq!(offered(&format!("&path={arm64}")), names("nz1 nz3"));
    let all = asked("/v1/mirrors?channel=deb&country=nz").json();
    let excluded = &all["excluded"][0];
    assert_eq!(excluded["id"], "nz2");
    assert_eq!(
        excluded["reason"],
        "part-only: the mirror carries architectures amd64; components main"
    );
    let partial = network.url("nz2");
    assert!(
        !asked("/mirrors.txt?channel=deb&country=nz")
            .text()
            .contains(partial)
    );
    assert!(
        asked(&format!("/mirrors.txt?channel=deb&country=nz{enough}"))
            .text()
            .contains(partial)
    );
    let metalink = |path: &str| asked(&format!("/metalink?channel=deb&path={path}")).text();
    assert!(metalink(&amd64).contains(partial) && !metalink(&arm64).contains(partial));
    let sent = |path: &str| {
        let url = format!("{directory}/deb/{path}");
        let answer = network.http().ask(Method::GET, &url, &[]);
        format!("{} {}", answer.header("location"), answer.header("link"))
    };
    assert!(!sent(&arm64).contains(partial), "{}", sent(&arm64));

    // It follows, and a wider or a narrower view is made true of what is here.
    repository.renew();
    assert_eq!(publish(&repository), 2);
    assert_eq!(
        carried(&repository),
        [("hello", "amd64"), ("hello-doc", "all")]
    );
    view(&network, "nz2", None);
    until("everything is here, and checked", || {
        network.standing("nz2", "deb")["view"] == "everything"
            && network.is_complete("nz2", "deb", 2)
            && exported(&network, "nz2")
                .join(repository.deb("extra", "arm64"))
                .exists()
    });
    assert_eq!(carried(&repository).len(), BINARIES.len());
    view(
        &network,
        "nz2",
        Some("exclude = [\"**/*_arm64.deb\", \"dists/*/*/binary-arm64/\"]\n"),
    );
    until("what is no longer carried is gone", || {
        network.is_complete("nz2", "deb", 2)
            && network.standing("nz2", "deb")["view"] != "everything"
            && !stored(&network, "nz2", &repository.content("hello", "arm64"))
            && !exported(&network, "nz2")
                .join(repository.deb("hello", "arm64"))
                .exists()
    });
    let without = [("hello", "amd64"), ("hello-doc", "all"), ("extra", "amd64")];
    assert_eq!(carried(&repository), without);
    network.stop();
}
