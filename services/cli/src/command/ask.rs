//! Asking the archive: its journal, its admin socket, its store.

use std::path::Path;
use std::time::Duration;

use archive::config::Config;
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{Head, Retraction, Snapshot};
use runtime::store::{Pages, Store};
use tonic::transport::Channel;
use wire::v1::admin_client::AdminClient;
use wire::v1::consistency_client::ConsistencyClient;
use wire::v1::journal_client::JournalClient;
use wire::{Signed, v1};

use crate::failure::{ABSENT, CONFIG, DATA, DOWN, Failure, IO, OrExit as _};

/// Decoded pages that a command keeps, in bytes.
const PAGES_CACHED_BYTES: usize = 8 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The archive that a command works on.
pub(crate) struct Archive {
    pub(crate) config: Config,
    keys: TrustedKeys,
    journal: JournalClient<Channel>,
}

impl Archive {
    /// Reads the configuration and reaches the daemon.
    pub(crate) async fn open(file: &Path) -> Result<Self, Failure> {
        let config = Config::load(file).or_exit(CONFIG)?;
        let own = config.signing.public_key().or_exit(CONFIG)?;
        let previous = config
            .previous_keys
            .iter()
            .map(|file| runtime::key::read_public(file));
        let mut keys = previous.collect::<Result<Vec<_>, _>>().or_exit(CONFIG)?;
        keys.push(own);
        let channel = local(&config).await?;
        let journal = JournalClient::new(channel);
        Ok(Self {
            config,
            keys: TrustedKeys::new(keys),
            journal,
        })
    }

    /// Names of all channels.
    pub(crate) async fn channels(&mut self) -> Result<Vec<ChannelId>, Failure> {
        let reply = self
            .journal
            .channels(v1::ChannelsRequest {})
            .await?
            .into_inner();
        reply
            .channels
            .iter()
            .map(|name| ChannelId::new(name).or_exit(DATA))
            .collect()
    }

    /// Refuses a channel that the archive does not have.
    pub(crate) async fn known(&mut self, channel: Option<&ChannelId>) -> Result<(), Failure> {
        let Some(channel) = channel else {
            return Ok(());
        };
        let channels = self.channels().await?;
        if channels.contains(channel) {
            return Ok(());
        }
        let names: Vec<&str> = channels.iter().map(ChannelId::as_str).collect();
        let names = if names.is_empty() {
            "none yet".to_owned()
        } else {
            names.join(", ")
        };
        let text = format!("the archive has no channel {channel}; there are: {names}");
        Err(Failure::text(ABSENT, text))
    }

    /// The newest signed head; `None` when a channel has no unretracted build.
    pub(crate) async fn head(&mut self, channel: &ChannelId) -> Result<Option<Head>, Failure> {
        let request = v1::HeadRequest {
            channel: channel.to_string(),
        };
        let signed = match self.journal.head(request).await {
            Ok(reply) => Signed::from_proto(reply.into_inner()).or_exit(DATA)?,
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        signed.open_head(&self.keys).or_exit(DATA).map(Some)
    }

    /// Snapshots from `from` on, oldest first, with their signed form.
    pub(crate) async fn snapshots(
        &mut self,
        channel: &ChannelId,
        from: Build,
    ) -> Result<Vec<(Signed, Snapshot)>, Failure> {
        let mut all = Vec::new();
        let mut next = from;
        loop {
            let request = v1::SnapshotsRequest {
                channel: channel.to_string(),
                from: next.get(),
                limit: 0,
            };
            let mut stream = self.journal.snapshots(request).await?.into_inner();
            let before = all.len();
            while let Some(proto) = stream.message().await? {
                let signed = Signed::from_proto(proto).or_exit(DATA)?;
                let snapshot = signed.open_snapshot(&self.keys).or_exit(DATA)?;
                next = snapshot.build.next();
                all.push((signed, snapshot));
            }
            if all.len() == before {
                return Ok(all);
            }
        }
    }

    /// One snapshot.
    pub(crate) async fn snapshot(
        &mut self,
        channel: &ChannelId,
        build: Build,
    ) -> Result<(Signed, Snapshot), Failure> {
        let request = v1::SnapshotsRequest {
            channel: channel.to_string(),
            from: build.get(),
            limit: 1,
        };
        let mut stream = self.journal.snapshots(request).await?.into_inner();
        if let Some(proto) = stream.message().await? {
            let signed = Signed::from_proto(proto).or_exit(DATA)?;
            let snapshot = signed.open_snapshot(&self.keys).or_exit(DATA)?;
            if snapshot.build == build {
                return Ok((signed, snapshot));
            }
        }
        Err(Failure::text(
            ABSENT,
            format!("channel {channel} has no build {build}; see: mirrorlog log {channel}"),
        ))
    }

    /// The build that was asked for, or the newest unretracted one.
    pub(crate) async fn build_or_head(
        &mut self,
        channel: &ChannelId,
        build: Option<Build>,
    ) -> Result<(Signed, Snapshot), Failure> {
        self.known(Some(channel)).await?;
        let build = match build {
            Some(build) => build,
            None => {
                let head = self.head(channel).await?;
                let none =
                    || Failure::text(ABSENT, format!("channel {channel} has no build to show"));
                head.ok_or_else(none)?.build
            }
        };
        self.snapshot(channel, build).await
    }

    /// All retractions of a channel.
    pub(crate) async fn retractions(
        &mut self,
        channel: &ChannelId,
    ) -> Result<Vec<Retraction>, Failure> {
        let request = v1::RetractionsRequest {
            channel: channel.to_string(),
        };
        let mut stream = self.journal.retractions(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(proto) = stream.message().await? {
            let signed = Signed::from_proto(proto).or_exit(DATA)?;
            all.push(signed.open_retraction(&self.keys).or_exit(DATA)?);
        }
        Ok(all)
    }

    /// Builds of a channel whose content the archive has let go: first and last of each range.
    pub(crate) async fn collected(&self, channel: &ChannelId) -> Result<Vec<(u64, u64)>, Failure> {
        let request = v1::DescribeRequest {
            channel: channel.to_string(),
            declare: None,
        };
        let reply = self.admin().await?.describe(request).await?.into_inner();
        let ranges = reply.collected.iter();
        Ok(ranges.map(|range| (range.first, range.last)).collect())
    }

    /// The manifests' pages, from the archive's own store.
    pub(crate) fn pages(&self) -> Result<Pages, Failure> {
        let store = Store::open(&self.config.store).or_exit(IO)?;
        Ok(Pages::new(store, PAGES_CACHED_BYTES))
    }

    /// The daemon's admin service, on its local socket.
    pub(crate) async fn admin(&self) -> Result<AdminClient<Channel>, Failure> {
        let socket = self.config.admin_socket();
        let channel = archive::publish::connect(&socket).await.map_err(|error| {
            let code = error.exit_code();
            Failure::new(code, error.into())
        })?;
        Ok(AdminClient::new(channel))
    }

    /// The same for work that takes as long as the archive is large.
    pub(crate) async fn patient_admin(&self) -> Result<AdminClient<Channel>, Failure> {
        Ok(AdminClient::new(local(&self.config).await?))
    }

    /// The consistency service.
    pub(crate) async fn consistency(&self) -> Result<ConsistencyClient<Channel>, Failure> {
        let Some(address) = &self.config.consistency_grpc else {
            let text =
                "the archive's configuration names no consistency service: set [consistency] grpc";
            return Err(Failure::text(CONFIG, text));
        };
        Ok(ConsistencyClient::new(
            connect(address, "consistency service", &self.config).await?,
        ))
    }
}

/// The daemon on its local socket, for calls that take as long as the archive is large.
async fn local(config: &Config) -> Result<Channel, Failure> {
    let connected = archive::publish::connect_for_long(&config.admin_socket()).await;
    connected.map_err(|error| {
        let code = error.exit_code();
        Failure::new(code, error.into())
    })
}

async fn connect(address: &str, what: &str, config: &Config) -> Result<Channel, Failure> {
    let tls = runtime::tls::load(config.tls.as_ref()).or_exit(CONFIG)?;
    let endpoint = runtime::tls::endpoint(address, tls.as_ref()).or_exit(CONFIG)?;
    let connected = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
    connected.map_err(|error| {
        let error = anyhow::Error::new(error);
        let text = format!("the {what} does not answer on {address}; is it running?");
        Failure::new(DOWN, error.context(text))
    })
}
