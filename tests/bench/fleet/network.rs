//! A network whose mirrors are those of this program.

use std::path::Path;

use e2e::{Network, Setup};
use mirrorlog_core::sign::{KeyNumber, SecretKey};

use crate::cluster::Cluster;
use crate::{Args, stub};

/// Pools of the mirrors, by turns.
const POOLS: [&str; 8] = ["nz", "au", "us", "de", "fr", "jp", "br", "za"];

/// The id of a mirror.
pub(crate) fn id(mirror: usize) -> String {
    format!("m{mirror}")
}

/// Starts NATS, archive and consistency service with their defaults for real networks, and gives each mirror a key.
pub(crate) fn start(
    args: &Args,
    port: u16,
    cluster: Option<&Cluster>,
) -> (Network, Vec<SecretKey>) {
    let network = Network::start(&Setup::mirrors(1));
    for service in ["nz1", "directory", "consistency", "archive"] {
        network.kill(service);
    }
    let folder = network.scratch().join("keys");
    std::fs::create_dir(&folder).unwrap();
    let keys: Vec<SecretKey> = (0..args.mirrors).map(key).collect();
    let mirrors = keys.iter().enumerate().map(|(number, key)| {
        let id = id(number);
        let file = folder.join(format!("{id}.pub"));
        std::fs::write(&file, wire::signify::print_public(&key.public(), &id)).unwrap();
        let mut mirror = toml::Table::new();
        mirror.insert("key".to_owned(), file.to_str().unwrap().into());
        mirror.insert("pool".to_owned(), POOLS[number % POOLS.len()].into());
        mirror.insert(
            "url".to_owned(),
            format!("http://{}:{port}", stub::address(number)).into(),
        );
        mirror.insert("id".to_owned(), id.into());
        toml::Value::Table(mirror)
    });
    let mirrors: Vec<toml::Value> = mirrors.collect();
    network.configure("consistency", |config| {
        // The short rounds are for networks of a few mirrors.
        let mut audit = toml::Table::new();
        let sample = i64::try_from(args.sample).unwrap();
        audit.insert("new_files_max".to_owned(), sample.into());
        config.insert("audit".to_owned(), audit.into());
        config.insert("mirrors".to_owned(), mirrors.into());
    });
    network.configure("archive", |config| {
        config.remove("heads");
        config.remove("reconcile");
    });
    if let Some(cluster) = cluster {
        network.kill("nats");
        for service in ["archive", "consistency"] {
            network.configure(service, |config| {
                config["nats"]["url"] = cluster.url().into();
                let nats = config["nats"].as_table_mut().unwrap();
                nats.insert("replicas".to_owned(), i64::from(args.replicas).into());
            });
        }
    }
    network.restart("archive");
    network.restart("consistency");
    (network, keys)
}

/// Copies the services' logs.
pub(crate) fn copy_logs(network: &Network, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(network.dir().join("logs")).unwrap() {
        let file = entry.unwrap().path();
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

fn key(mirror: usize) -> SecretKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    SecretKey::from_seed(KeyNumber((mirror as u64).to_be_bytes()), &seed)
}
