//! `local up`: nats-server, archive, mirrors, consistency and directory, each its own process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::boot::HeldPort;
use runtime::log::supervise::NatsServer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::children::{Service, stop_left_behind};
use super::plan::Plan;
use super::ports;
use crate::args::UpArgs;
use crate::failure::{ABSENT, AGAIN, CREATE, DOWN, Failure, OrExit as _, make_dir};
use crate::output::{BOLD, Output, count};

/// How long a server that runs already may take to answer.
const NATS_TIMEOUT: Duration = Duration::from_secs(5);
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// A running network.
pub(super) struct Network {
    pub(super) plan: Plan,
    nats: Option<NatsServer>,
    archive: Service,
    mirrors: Vec<Service>,
    consistency: Service,
    /// None only when the start failed before its turn.
    directory: Option<Service>,
    args: UpArgs,
    /// One `up` a folder, for as long as it runs.
    _held: File,
    /// While a service is down nobody else is given its port.
    _ports: Vec<HeldPort>,
}

/// Runs a network until interrupted.
pub(crate) async fn up(args: &UpArgs, output: &Output) -> Result<u8, Failure> {
    let stop = runtime::boot::shutdown();
    let args = UpArgs {
        dir: std::path::absolute(&args.dir).or_exit(CREATE)?,
        ..args.clone()
    };
    let started = tokio::select! {
        started = Network::start(&args, output) => started,
        () = stop.cancelled() => return Ok(0),
    };
    let mut network = started?;
    let document = network.write_local_json()?;
    if output.json {
        output.json(&document);
    } else {
        network.describe(output);
    }
    network.watch(&stop, output).await;
    output.note("stopping");
    network.stop().await;
    Ok(0)
}

impl Network {
    /// Starts everything and waits until all are ready.
    pub(super) async fn start(args: &UpArgs, output: &Output) -> Result<Self, Failure> {
        make_dir(&args.dir)?;
        let held = hold(&args.dir)?;
        if let Some(url) = &args.nats {
            answers(url).await?;
        }
        stop_left_behind(&args.dir, output).await;
        let (plan, drawn) = Plan::of(args)?;
        let file = Plan::file(&args.dir);
        let ports = ports::hold(drawn, plan.places(args.nats.is_none()), &file).await?;
        plan.write(args)?;
        if let Some(kept) = plan.beyond(args) {
            output.note(&format!(
                "kept from before: {kept}; an empty --dir starts a smaller network"
            ));
        }
        let dir = &args.dir;
        let logs = dir.join("logs");
        let nats = match &args.nats {
            Some(_) => None,
            None => {
                let port = ports::hold_again(plan.nats(), &file).await?;
                let server =
                    NatsServer::start_with(&dir.join("nats"), Some(port), &plan.who(dir)?).await;
                Some(server.or_exit(DOWN)?)
            }
        };
        let mut archive = Service::start("archive", "archive", &plan.archive_config(dir), &logs)?;
        let mut consistency = Service::start(
            "consistency",
            "consistency",
            &plan.consistency_config(dir),
            &logs,
        )?;
        let mut mirrors = Vec::new();
        for mirror in &plan.mirrors {
            mirrors.push(Service::start(
                &mirror.id,
                "mirror",
                &plan.mirror_config(dir, mirror),
                &logs,
            )?);
        }
        let mut directory = None;
        let ready = async {
            archive.ready(local(plan.archive.http), &logs).await?;
            for (service, mirror) in mirrors.iter_mut().zip(&plan.mirrors) {
                service.ready(mirror.http(), &logs).await?;
            }
            consistency
                .ready(local(plan.consistency.http), &logs)
                .await?;
            // A mirror that is not up when it is first probed has to earn its place back.
            let config = plan.directory_config(dir);
            let service = Service::start("directory", "directory", &config, &logs)?;
            let service = directory.insert(service);
            service.ready(local(plan.directory()?.http), &logs).await
        };
        let ready = ready.await;
        let network = Self {
            plan,
            nats,
            archive,
            mirrors,
            consistency,
            directory,
            args: args.clone(),
            _held: held,
            _ports: ports,
        };
        match ready {
            Ok(()) => Ok(network),
            Err(failure) => {
                network.stop().await;
                Err(failure)
            }
        }
    }

    fn nats_url(&self) -> String {
        let own = self
            .nats
            .as_ref()
            .map(|server| self.plan.reached(&server.url));
        own.or_else(|| self.args.nats.clone()).unwrap_or_default()
    }

    /// What everybody needs to find the network; appears by rename.
    pub(super) fn write_local_json(&self) -> Result<Value, Failure> {
        let dir = &self.args.dir;
        let local = |port: u16| local(port).to_string();
        let directory = self.plan.directory()?;
        let mirrors = self
            .plan
            .mirrors
            .iter()
            .zip(&self.mirrors)
            .map(|(mirror, service)| {
                let mut row = json!({
                    "id": mirror.id, "pool": mirror.pool,
                    "http": mirror.url(), "fetch": local(mirror.ports.grpc),
                    "config": self.plan.mirror_config(dir, mirror), "pid": service.pid,
                });
                if self.args.export {
                    row["export"] = json!(self.plan.mirror_dir(dir, mirror).join("export"));
                }
                row
            });
        let document = json!({
            "nats": { "url": self.nats_url(), "pid": self.nats.as_ref().map(|server| server.pid) },
            "archive": {
                "config": self.plan.archive_config(dir), "fetch": local(self.plan.archive.grpc),
                "key": dir.join("archive/archive.pub"), "pid": self.archive.pid,
            },
            "mirrors": mirrors.collect::<Vec<_>>(),
            "consistency": {
                "config": self.plan.consistency_config(dir), "grpc": local(self.plan.consistency.grpc),
                "pid": self.consistency.pid,
            },
            "directory": {
                "config": self.plan.directory_config(dir), "http": format!("http://{}", local(directory.http)),
                "dns": local(directory.dns), "pid": self.directory.as_ref().map(|service| service.pid),
            },
        });
        let new = dir.join(".local.json.new");
        std::fs::write(&new, format!("{document:#}\n")).or_exit(CREATE)?;
        std::fs::rename(&new, dir.join("local.json")).or_exit(CREATE)?;
        Ok(document)
    }

    fn describe(&self, output: &Output) {
        let dir = &self.args.dir;
        output.line(&format!(
            "{BOLD}network of {} is up{BOLD:#} in {}",
            count(self.mirrors.len() as u64, "mirror"),
            dir.display()
        ));
        for mirror in &self.plan.mirrors {
            output.line(&format!("  {:9} {}", mirror.id, mirror.url()));
        }
        if let Ok(directory) = self.plan.directory() {
            output.line(&format!(
                "  directory http://{}, DNS {}",
                local(directory.http),
                local(directory.dns)
            ));
        }
        let config = self.plan.archive_config(dir);
        output.line(&format!(
            "publish with: mirrorlog --config {} publish CHANNEL TREE --wait all",
            config.display()
        ));
        output.line("stop with Ctrl-C");
    }

    /// Says when a process dies, until told to stop.
    async fn watch(&mut self, stop: &CancellationToken, output: &Output) {
        let mut nats_lives = self.nats.is_some();
        loop {
            if stop
                .run_until_cancelled(tokio::time::sleep(WATCH_PAUSE))
                .await
                .is_none()
            {
                return;
            }
            for service in self
                .mirrors
                .iter_mut()
                .chain([&mut self.archive, &mut self.consistency])
                .chain(&mut self.directory)
            {
                service.watch(output);
            }
            if let Some(server) = self.nats.as_mut().filter(|_| nats_lives)
                && let Ok(Ok(status)) =
                    tokio::time::timeout(Duration::from_millis(1), server.wait()).await
            {
                nats_lives = false;
                output.note(&format!("nats-server has died: {status}"));
            }
        }
    }

    /// The configuration for operators' commands.
    /// The archive's public key.
    pub(super) fn archive_key(&self) -> PathBuf {
        self.args.dir.join("archive/archive.pub")
    }

    pub(super) fn archive_config(&self) -> PathBuf {
        self.plan.archive_config(&self.args.dir)
    }

    /// A mirror's public URL.
    pub(super) fn url(&self, id: &str) -> Result<String, Failure> {
        let (mirror, _) = self.mirror(id)?;
        Ok(self.plan.mirrors[mirror].url())
    }

    /// The directory's URL.
    pub(super) fn directory_url(&self) -> Result<String, Failure> {
        Ok(format!("http://{}", local(self.plan.directory()?.http)))
    }

    /// Kills a mirror, as a crash would.
    pub(super) async fn kill(&mut self, id: &str) -> Result<(), Failure> {
        let (at, _) = self.mirror(id)?;
        self.mirrors[at].kill().await
    }

    /// Starts a mirror again.
    pub(super) async fn start_again(&mut self, id: &str) -> Result<(), Failure> {
        let (at, config) = self.mirror(id)?;
        let logs = self.args.dir.join("logs");
        let mut service = Service::start(id, "mirror", &config, &logs)?;
        service.ready(self.plan.mirrors[at].http(), &logs).await?;
        self.mirrors[at] = service;
        Ok(())
    }

    fn mirror(&self, id: &str) -> Result<(usize, PathBuf), Failure> {
        let at = self.plan.mirrors.iter().position(|mirror| mirror.id == id);
        let at = at.ok_or_else(|| Failure::text(ABSENT, format!("no mirror is called {id}")))?;
        Ok((
            at,
            self.plan
                .mirror_config(&self.args.dir, &self.plan.mirrors[at]),
        ))
    }

    /// Stops everything; readers of the log before the log.
    pub(super) async fn stop(self) {
        let services = self
            .mirrors
            .into_iter()
            .chain(self.directory)
            .chain([self.consistency, self.archive]);
        futures::future::join_all(services.map(Service::stop)).await;
        if let Some(nats) = self.nats
            && let Err(error) = nats.stop().await
        {
            tracing::warn!(%error, "nats-server did not stop cleanly");
        }
        remove(&self.args.dir.join("local.json"));
    }
}

/// Takes the folder for this process; two networks in one folder would end each other.
fn hold(dir: &Path) -> Result<File, Failure> {
    let path = dir.join("up.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let mut file = file.or_exit(CREATE)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).or_exit(CREATE)?;
            write!(file, "{}", std::process::id()).or_exit(CREATE)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).or_exit(CREATE)?;
            let text = format!(
                "the network in {} runs already (process {pid}): stop that one first, or choose another --dir",
                dir.display()
            );
            Err(Failure::text(AGAIN, text))
        }
        Err(TryLockError::Error(error)) => Err(error).or_exit(CREATE),
    }
}

/// A server that is not there is said at once, not after every service has waited for it.
async fn answers(url: &str) -> Result<(), Failure> {
    // One of a cluster is enough.
    let servers: Vec<&str> = url.split(',').map(str::trim).collect();
    let connected = tokio::time::timeout(NATS_TIMEOUT, async_nats::connect(servers)).await;
    match connected {
        Ok(Ok(_client)) => Ok(()),
        Ok(Err(error)) => Err(Failure::new(
            DOWN,
            anyhow::Error::new(error).context(format!("nats-server does not answer on {url}")),
        )),
        Err(_elapsed) => Err(Failure::text(
            DOWN,
            format!("nats-server does not answer on {url}"),
        )),
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %file.display(), "cannot remove");
    }
}
