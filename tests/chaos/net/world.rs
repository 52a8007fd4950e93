//! A network whose mirrors and consistency service are in places of their own.

use std::path::Path;

use e2e::{Network, Setup, until};

use super::namespaces::{Names, address};

const MOVED: [&str; 3] = ["nz1", "nz2", "consistency"];

/// Starts a network here, in the centre, and moves the others. Gives it and where its mirrors are read.
pub(super) fn spread(names: &Names) -> (Network, Vec<(String, String)>) {
    let network = Network::start(&Setup::mirrors(2));
    for name in ["nz1", "nz2", "consistency", "directory", "archive", "nats"] {
        network.kill(name);
    }
    let centre = address("centre");
    let mut urls = Vec::new();
    for mirror in ["nz1", "nz2"] {
        let here = address(mirror);
        network.configure(mirror, |config| {
            at(config, "archive", "fetch", &centre);
            at(config, "nats", "url", &format!("nats://{centre}"));
            at(config, "grpc", "listen", &here);
            at(config, "peers", "address", &here);
            let http = at(config, "http", "listen", &here);
            network.moved(mirror, &http);
            urls.push((mirror.to_owned(), format!("http://{http}")));
        });
    }
    let here = address("consistency");
    let mut consistency = String::new();
    network.configure("consistency", |config| {
        at(config, "archive", "fetch", &centre);
        at(config, "nats", "url", &format!("nats://{centre}"));
        consistency = at(config, "grpc", "listen", &here);
        network.moved("consistency", &at(config, "http", "listen", &here));
        say_where(config, &urls);
    });
    network.configure("directory", |config| say_where(config, &urls));
    network.configure("archive", |config| {
        at(config, "grpc", "listen", "0.0.0.0");
        config["consistency"]["grpc"] = consistency.into();
    });
    let nats = network.config("nats");
    let text = std::fs::read_to_string(&nats).unwrap();
    let text = text.replace("listen: \"127.0.0.1:", "listen: \"0.0.0.0:");
    std::fs::write(&nats, text).unwrap();
    for service in ["nats", "archive"] {
        network.restart(service);
    }
    for name in MOVED {
        network.spawn_by(name, &["ip", "netns", "exec", &names.of(name)], &[]);
    }
    for name in MOVED {
        until(&format!("{name} is ready in its place"), || {
            network.is_ready(name)
        });
    }
    network.restart("directory");
    (network, urls)
}

/// Gives an address of the configuration another host; gives `host:port`.
fn at(config: &mut toml::Table, section: &str, key: &str, host: &str) -> String {
    let text = config[section][key].as_str().unwrap();
    let (_, port) = text.rsplit_once(':').unwrap();
    let new = format!("{host}:{port}");
    config[section][key] = new.clone().into();
    new
}

fn say_where(config: &mut toml::Table, urls: &[(String, String)]) {
    for block in config["mirrors"].as_array_mut().unwrap() {
        let found = urls.iter().find(|(id, _)| block["id"].as_str() == Some(id));
        block["url"] = found.unwrap().1.clone().into();
    }
}

/// What a mirror answers to somebody beside it.
pub(super) fn ask_beside(names: &Names, mirror: &str, url: &str) -> (u16, String) {
    let mut curl = names.command(mirror, Path::new("curl"));
    let format = "\n%{http_code}";
    let ran = curl.args(["-s", "-m", "10", "-w", format, url]).output();
    let text = String::from_utf8_lossy(&ran.unwrap().stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_default();
    (status.parse().unwrap_or(0), body.to_owned())
}
