//! Who is in the network, and at which address. Addresses are chosen once and stay in the
//! configurations, so that a restarted process is found where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ports::Drawn;
use super::secure::{Known, PublicKeys};
use crate::args::UpArgs;
use crate::command::{nats_config, write_key};
use crate::failure::{CONFIG, CREATE, Failure, OrExit as _, make_dir};

/// The network of a folder: `network.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    pub(super) nats_port: u16,
    /// Where all mirrors of this plan serve, each on an address of its own: names of DNS pools say nothing of ports.
    #[serde(default)]
    mirror_port: Option<u16>,
    pub(super) archive: Ports,
    pub(super) consistency: Ports,
    #[serde(default)]
    directory: Option<DirectoryPorts>,
    /// Each service has a user at nats-server and a certificate.
    #[serde(default)]
    secure: bool,
    /// Where mirrors join by a token, in a secure network.
    #[serde(default)]
    enroll_port: Option<u16>,
    #[serde(default)]
    publish_port: Option<u16>,
    pub(super) mirrors: Vec<Mirror>,
}

/// Where a service listens.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ports {
    pub(super) grpc: u16,
    pub(super) http: u16,
}

/// Where the directory listens.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectoryPorts {
    pub(super) http: u16,
    pub(super) dns: u16,
}

/// One mirror.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mirror {
    pub(super) id: String,
    pub(super) pool: String,
    /// Where it serves; what it serves other processes is on 127.0.0.1.
    #[serde(default = "localhost")]
    address: Ipv4Addr,
    pub(super) ports: Ports,
}

impl Mirror {
    /// Where its web server listens.
    pub(super) fn http(&self) -> SocketAddr {
        (self.address, self.ports.http).into()
    }

    /// Its public URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.http())
    }
}

impl Plan {
    /// The folder's plan, made anew for an empty folder, with the mirrors that are asked for besides those that are
    /// there; and the ports that are new.
    pub(super) fn of(args: &UpArgs) -> Result<(Self, Drawn), Failure> {
        let file = Self::file(&args.dir);
        let mut free = Drawn::default();
        let mut plan = if file.exists() {
            let text = std::fs::read_to_string(&file).or_exit(CREATE)?;
            toml::from_str(&text).map_err(|error| {
                Failure::text(CONFIG, format!("{} is not valid: {error}", file.display()))
            })?
        } else {
            let (archive, consistency) = (free.pair()?, free.pair()?);
            Self {
                nats_port: free.next()?,
                mirror_port: None,
                archive,
                consistency,
                directory: None,
                secure: args.secure,
                enroll_port: None,
                publish_port: None,
                mirrors: Vec::new(),
            }
        };
        if args.secure && !plan.secure {
            let text = format!(
                "{} is a network without TLS: --secure makes a new folder only",
                args.dir.display()
            );
            return Err(Failure::text(CONFIG, text));
        }
        // A folder of an earlier version has neither.
        if plan.directory.is_none() {
            let (http, dns) = (free.next()?, free.next()?);
            plan.directory = Some(DirectoryPorts { http, dns });
        }
        if plan.secure && plan.enroll_port.is_none() {
            plan.enroll_port = Some(free.next()?);
        }
        if plan.secure && plan.publish_port.is_none() {
            plan.publish_port = Some(free.next()?);
        }
        let mirror_port = match plan.mirror_port {
            Some(port) => port,
            None => free.next()?,
        };
        plan.mirror_port = Some(mirror_port);
        for (pool, count) in pools(args, !plan.mirrors.is_empty()) {
            for number in 1..=count {
                let id = format!("{pool}{number}");
                if !plan.mirrors.iter().any(|mirror| mirror.id == id) {
                    let ports = Ports {
                        grpc: free.next()?,
                        http: mirror_port,
                    };
                    plan.mirrors.push(Mirror {
                        id,
                        pool: pool.clone(),
                        address: address(plan.mirrors.len()),
                        ports,
                    });
                }
            }
        }
        let text = toml::to_string(&plan).or_exit(CREATE)?;
        std::fs::write(&file, text).or_exit(CREATE)?;
        Ok((plan, free))
    }

    /// Where a folder has its plan.
    pub(super) fn file(dir: &Path) -> PathBuf {
        dir.join("network.toml")
    }

    /// Where anybody of the network listens, nats-server too if it is the network's own.
    pub(super) fn places(&self, own_nats: bool) -> BTreeSet<SocketAddrV4> {
        let mut ports: Vec<u16> = own_nats.then_some(self.nats_port).into_iter().collect();
        for service in [self.archive, self.consistency] {
            ports.extend([service.grpc, service.http]);
        }
        ports.extend(self.directory.iter().flat_map(|at| [at.http, at.dns]));
        ports.extend([self.enroll_port, self.publish_port].iter().flatten());
        ports.extend(self.mirrors.iter().map(|mirror| mirror.ports.grpc));
        let local = ports.into_iter().map(|port| (Ipv4Addr::LOCALHOST, port));
        let served = self.mirrors.iter();
        let served = served.map(|mirror| (mirror.address, mirror.ports.http));
        let all = local.chain(served);
        all.map(|(address, port)| SocketAddrV4::new(address, port))
            .collect()
    }

    /// Where nats-server listens, if it is the network's own.
    pub(super) fn nats(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.nats_port)
    }

    /// Mirrors that are there from before, when others were asked for.
    pub(super) fn beyond(&self, args: &UpArgs) -> Option<String> {
        let asked = pools(args, true);
        let is_asked = |mirror: &Mirror| {
            let count = asked.get(&mirror.pool).copied().unwrap_or(0);
            (1..=count).any(|number| mirror.id == format!("{}{number}", mirror.pool))
        };
        let beyond = self.mirrors.iter().filter(|mirror| !is_asked(mirror));
        let names: Vec<&str> = beyond.map(|mirror| mirror.id.as_str()).collect();
        (!asked.is_empty() && !names.is_empty()).then(|| names.join(", "))
    }

    /// Writes every service's configuration and keys.
    pub(super) fn write(&self, args: &UpArgs) -> Result<(), Failure> {
        let dir = &args.dir;
        let own = || self.reached(&format!("nats://127.0.0.1:{}", self.nats_port));
        let nats = args.nats.clone().unwrap_or_else(own);
        let keys = self.write_keys(dir)?;
        let known = match self.secure {
            true => Known::of(&absolute(&self.access_dir(dir))?, self.nats_port, &keys)?,
            false => Known::nothing(),
        };
        let nats_of = |service: &str| format!("url = \"{nats}\"\n{}", known.nats(service));
        let trusted = known.keys([&keys.archive], "keys");
        let config = self.archive_toml(&nats_of("archive"))? + &known.sections("archive");
        let config = config + &known.enroll(self.enroll_port, self.archive.grpc, &nats);
        let config = config + &known.publish(self.publish_port);
        write_config(&self.archive_config(dir), &config)?;
        let words = known.keys([&keys.consistency], "keys");
        let (mut audited, mut offered) = (String::new(), String::new());
        for mirror in &self.mirrors {
            let config = self.mirror_toml(mirror, &nats_of(&mirror.id), [&trusted, &words], args);
            let config = config + &known.sections(&mirror.id);
            write_config(&self.mirror_config(dir, mirror), &config)?;
            let Mirror { id, pool, .. } = mirror;
            let url = mirror.url();
            let block =
                format!("\n[[mirrors]]\nid = \"{id}\"\npool = \"{pool}\"\nurl = \"{url}\"\n");
            let key = keys.mirrors.get(id).map(|key| known.key(key));
            audited.push_str(&format!("{block}{}", key.unwrap_or_default()));
            offered.push_str(&block);
        }
        let config = self.consistency_toml(&nats_of("consistency"), &trusted);
        let config = config + &known.sections("consistency");
        write_config(&self.consistency_config(dir), &(config + &audited))?;
        make_dir(&dir.join("directory"))?;
        let config = self.directory_toml(&nats_of("directory"), &trusted, &words)?;
        let config = config + &known.sections("directory");
        write_config(&self.directory_config(dir), &(config + &offered))
    }

    /// Makes every service's folder and key; those that are there stay. Gives the public halves.
    fn write_keys(&self, dir: &Path) -> Result<PublicKeys, Failure> {
        let key = |home: &Path, name: &str| {
            make_dir(home)?;
            absolute(&write_key(home, name)?)
        };
        let mirrors = self.mirrors.iter().map(|mirror| {
            let key = key(&self.mirror_dir(dir, mirror), &mirror.id)?;
            Ok((mirror.id.clone(), key))
        });
        Ok(PublicKeys {
            mirrors: mirrors.collect::<Result<_, Failure>>()?,
            archive: key(&dir.join("archive"), "archive")?,
            consistency: key(&dir.join("consistency"), "consistency")?,
        })
    }

    /// Where the directory listens.
    pub(super) fn directory(&self) -> Result<DirectoryPorts, Failure> {
        let missing = || Failure::text(CONFIG, "the plan has no directory");
        self.directory.ok_or_else(missing)
    }

    /// nats-server's URL, as its clients need it.
    pub(super) fn reached(&self, url: &str) -> String {
        match self.secure {
            true => url.replacen("nats://", "tls://", 1),
            false => url.to_owned(),
        }
    }

    /// What nats-server is told of users and TLS.
    pub(super) fn who(&self, dir: &Path) -> Result<String, Failure> {
        match self.secure {
            true => nats_config::security(&absolute(&self.access_dir(dir))?),
            false => Ok(String::new()),
        }
    }

    /// The folder of users and certificates of a secure network.
    pub(super) fn access_dir(&self, dir: &Path) -> PathBuf {
        dir.join("access")
    }

    pub(super) fn directory_config(&self, dir: &Path) -> PathBuf {
        dir.join("directory/directory.toml")
    }

    pub(super) fn archive_config(&self, dir: &Path) -> PathBuf {
        dir.join("archive/archive.toml")
    }

    pub(super) fn consistency_config(&self, dir: &Path) -> PathBuf {
        dir.join("consistency/consistency.toml")
    }

    pub(super) fn mirror_dir(&self, dir: &Path, mirror: &Mirror) -> PathBuf {
        dir.join("mirrors").join(&mirror.id)
    }

    pub(super) fn mirror_config(&self, dir: &Path, mirror: &Mirror) -> PathBuf {
        self.mirror_dir(dir, mirror).join("mirror.toml")
    }

    fn archive_toml(&self, nats: &str) -> Result<String, Failure> {
        Ok(format!(
            "[archive]\nstate = \"state\"\nstore = \"store\"\nkey = \"archive.sec\"\nallow_undeclared = true\n\n\
             [nats]\n{nats}\n[grpc]\nlisten = \"127.0.0.1:{}\"\n\n[http]\nlisten = \"127.0.0.1:{}\"\n\n\
             [heads]\nrenew = \"10s\"\nexpire = \"7d\"\n\n[reconcile]\nevery = \"5s\"\nhear = \"10s\"\n\n\
             [consistency]\ngrpc = \"127.0.0.1:{}\"\n\n[directory]\nhttp = \"http://127.0.0.1:{}\"\n",
            self.archive.grpc,
            self.archive.http,
            self.consistency.grpc,
            self.directory()?.http
        ))
    }

    fn mirror_toml(
        &self,
        mirror: &Mirror,
        nats: &str,
        [trusted, words]: [&str; 2],
        args: &UpArgs,
    ) -> String {
        let Mirror {
            id, pool, ports, ..
        } = mirror;
        let rate = args.limit.map_or_else(String::new, |rate| {
            format!("\n[fetch]\nrate = \"{rate}\"\n")
        });
        let export = match args.export {
            true => "\n[export]\ndir = \"export\"\nsettle = \"5s\"\n",
            false => "",
        };
        format!(
            "[mirror]\nid = \"{id}\"\npool = \"{pool}\"\nstate = \"state\"\nstore = \"store\"\nkey = \"{id}.sec\"\n\n\
             [archive]\nfetch = \"127.0.0.1:{}\"\n{trusted}\n[consistency]\n{words}\n\
             [nats]\n{nats}\n\
             [http]\nlisten = \"{}\"\n\n[grpc]\nlisten = \"127.0.0.1:{}\"\n\n\
             [peers]\naddress = \"127.0.0.1:{}\"\n{rate}{export}\n\
             [scrub]\nevery = \"10s\"\nrate = \"800mbit\"\n\n[report]\nevery = \"5s\"\n",
            self.archive.grpc,
            mirror.http(),
            ports.grpc,
            ports.grpc
        )
    }

    fn consistency_toml(&self, nats: &str, trusted: &str) -> String {
        format!(
            "[consistency]\nstate = \"state\"\nkey = \"consistency.sec\"\n\n\
             [archive]\nfetch = \"127.0.0.1:{}\"\n{trusted}\n[nats]\n{nats}\n\
             [grpc]\nlisten = \"127.0.0.1:{}\"\n\n[http]\nlisten = \"127.0.0.1:{}\"\n\n\
             [audit]\nevery = \"10s\"\nretry = \"1s\"\nreport_stale = \"30s\"\nlaggard_after = \"60s\"\n",
            self.archive.grpc, self.consistency.grpc, self.consistency.http
        )
    }

    fn directory_toml(&self, nats: &str, trusted: &str, words: &str) -> Result<String, Failure> {
        let DirectoryPorts { http, dns } = self.directory()?;
        // Clients have no certificate of the network's authority.
        let universe = match self.secure {
            true => String::new(),
            false => format!("universe = \"127.0.0.1:{}\"\n", self.archive.grpc),
        };
        Ok(format!(
            "[directory]\nstate = \"state\"\nname = \"mirrors.test\"\n\n\
             [archive]\nfetch = \"127.0.0.1:{0}\"\n{universe}{trusted}\n\
             [consistency]\n{words}\n\
             [nats]\n{nats}\n[http]\nlisten = \"127.0.0.1:{http}\"\n\n\
             [dns]\nlisten = \"127.0.0.1:{dns}\"\nzone = \"mirrors.test\"\nport = {1}\n\n\
             [probe]\nevery = \"2s\"\n\n[feedback]\nper_source = 600\n",
            self.archive.grpc,
            self.mirror_port.unwrap_or_default(),
        ))
    }
}

/// An address of this machine's own for each mirror, from 127.0.1.1 on.
fn address(number: usize) -> Ipv4Addr {
    let (block, place) = (number / 250, number % 250);
    let byte = |number: usize| u8::try_from(number + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, 0, byte(block), byte(place))
}

fn localhost() -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

/// Pools and their sizes. Nothing asked for, and mirrors there already: those.
fn pools(args: &UpArgs, resumed: bool) -> BTreeMap<String, u16> {
    let asked: BTreeMap<String, u16> = args.pools.iter().cloned().collect();
    if asked.is_empty() && !resumed {
        return BTreeMap::from([("nz".to_owned(), args.mirrors)]);
    }
    asked
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).or_exit(CREATE)
}

/// A path as a TOML string.
pub(super) fn quoted(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}

fn write_config(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, format!("# Written by mirrorlog local up.\n{text}")).or_exit(CREATE)
}
