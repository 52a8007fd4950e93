//! Who is in the network, and at which address. Addresses are chosen once and stay in the
//! configurations, so that a restarted process is found where it was.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::args::UpArgs;
use crate::command::write_key;
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
    /// The folder's plan, made anew for an empty folder, with the mirrors that are asked for besides those that are there.
    pub(super) fn of(args: &UpArgs) -> Result<Self, Failure> {
        let file = args.dir.join("network.toml");
        let mut free = FreePorts::default();
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
                mirrors: Vec::new(),
            }
        };
        // A folder of an earlier version has neither.
        if plan.directory.is_none() {
            let (http, dns) = (free.next()?, free.next()?);
            plan.directory = Some(DirectoryPorts { http, dns });
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
        Ok(plan)
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
        let nats = args
            .nats
            .clone()
            .unwrap_or_else(|| format!("nats://127.0.0.1:{}", self.nats_port));
        let archive = dir.join("archive");
        make_dir(&archive)?;
        let archive_key = write_key(&archive, "archive")?;
        let archive_key = absolute(&archive_key)?;
        write_config(&self.archive_config(dir), &self.archive_toml(&nats)?)?;
        let consistency = dir.join("consistency");
        make_dir(&consistency)?;
        let consistency_key = absolute(&write_key(&consistency, "consistency")?)?;
        let (mut audited, mut offered) = (String::new(), String::new());
        for mirror in &self.mirrors {
            let home = self.mirror_dir(dir, mirror);
            make_dir(&home)?;
            let key = absolute(&write_key(&home, &mirror.id)?)?;
            let keys = [archive_key.as_path(), &consistency_key];
            let config = self.mirror_toml(mirror, &nats, keys, args);
            write_config(&self.mirror_config(dir, mirror), &config)?;
            let Mirror { id, pool, .. } = mirror;
            let url = mirror.url();
            let block =
                format!("\n[[mirrors]]\nid = \"{id}\"\npool = \"{pool}\"\nurl = \"{url}\"\n");
            audited.push_str(&format!("{block}key = {}\n", quoted(&key)));
            offered.push_str(&block);
        }
        let config = self.consistency_toml(&nats, &archive_key);
        write_config(&self.consistency_config(dir), &(config + &audited))?;
        make_dir(&dir.join("directory"))?;
        let config = self.directory_toml(&nats, &archive_key, &consistency_key)?;
        write_config(&self.directory_config(dir), &(config + &offered))
    }

    /// Where the directory listens.
    pub(super) fn directory(&self) -> Result<DirectoryPorts, Failure> {
        let missing = || Failure::text(CONFIG, "the plan has no directory");
        self.directory.ok_or_else(missing)
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
             [nats]\nurl = \"{nats}\"\n\n[grpc]\nlisten = \"127.0.0.1:{}\"\n\n[http]\nlisten = \"127.0.0.1:{}\"\n\n\
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
        [archive_key, consistency_key]: [&Path; 2],
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
             [archive]\nfetch = \"127.0.0.1:{}\"\nkeys = [{}]\n\n[consistency]\nkeys = [{}]\n\n\
             [nats]\nurl = \"{nats}\"\n\n\
             [http]\nlisten = \"{}\"\n\n[grpc]\nlisten = \"127.0.0.1:{}\"\n\n\
             [peers]\naddress = \"127.0.0.1:{}\"\n{rate}{export}\n\
             [scrub]\nevery = \"10s\"\nrate = \"800mbit\"\n\n[report]\nevery = \"5s\"\n",
            self.archive.grpc,
            quoted(archive_key),
            quoted(consistency_key),
            mirror.http(),
            ports.grpc,
            ports.grpc
        )
    }

    fn consistency_toml(&self, nats: &str, archive_key: &Path) -> String {
        format!(
            "[consistency]\nstate = \"state\"\nkey = \"consistency.sec\"\n\n\
             [archive]\nfetch = \"127.0.0.1:{}\"\nkeys = [{}]\n\n[nats]\nurl = \"{nats}\"\n\n\
             [grpc]\nlisten = \"127.0.0.1:{}\"\n\n[http]\nlisten = \"127.0.0.1:{}\"\n\n\
             [audit]\nevery = \"10s\"\nretry = \"1s\"\nreport_stale = \"30s\"\nlaggard_after = \"60s\"\n",
            self.archive.grpc,
            quoted(archive_key),
            self.consistency.grpc,
            self.consistency.http
        )
    }

    fn directory_toml(
        &self,
        nats: &str,
        archive_key: &Path,
        consistency_key: &Path,
    ) -> Result<String, Failure> {
        let DirectoryPorts { http, dns } = self.directory()?;
        Ok(format!(
            "[directory]\nstate = \"state\"\nname = \"mirrors.test\"\n\n\
             [archive]\nfetch = \"127.0.0.1:{0}\"\nuniverse = \"127.0.0.1:{0}\"\nkeys = [{1}]\n\n\
             [consistency]\nkeys = [{2}]\n\n\
             [nats]\nurl = \"{nats}\"\n\n[http]\nlisten = \"127.0.0.1:{http}\"\n\n\
             [dns]\nlisten = \"127.0.0.1:{dns}\"\nzone = \"mirrors.test\"\nport = {3}\n\n\
             [probe]\nevery = \"2s\"\n\n[feedback]\nper_source = 600\n",
            self.archive.grpc,
            quoted(archive_key),
            quoted(consistency_key),
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

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).or_exit(CREATE)
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}

fn write_config(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, format!("# Written by mirrorlog local up.\n{text}")).or_exit(CREATE)
}

/// Below what systems give to outgoing connections: those would take the port of a process that is down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
const PORT_TRIES: usize = 1000;

/// Ports that nobody uses now; each is held until all are chosen, so that none is given twice. They are drawn
/// at random, for another network may be choosing too.
#[derive(Default)]
struct FreePorts(Vec<TcpListener>);

impl FreePorts {
    fn next(&mut self) -> Result<u16, Failure> {
        for _ in 0..PORT_TRIES {
            let drawn = getrandom::u32().or_exit(CREATE)? % u32::from(PORTS.end - PORTS.start);
            let port = PORTS.start + u16::try_from(drawn).or_exit(CREATE)?;
            // On every address: mirrors have addresses of their own.
            if let Ok(listener) = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            {
                self.0.push(listener);
                return Ok(port);
            }
        }
        let text = format!("no free port between {} and {}", PORTS.start, PORTS.end);
        Err(Failure::text(CREATE, text))
    }

    fn pair(&mut self) -> Result<Ports, Failure> {
        Ok(Ports {
            grpc: self.next()?,
            http: self.next()?,
        })
    }
}
