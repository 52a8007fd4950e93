//! `nats-config`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use mirrorlog_core::id::MirrorId;

#[derive(Debug, ClapArgs)]
pub(crate) struct NatsConfigArgs {
    /// Folder of configuration, keys and users; what is there stays
    pub(crate) dir: PathBuf,
    /// Host name or address of the archive's machine, for certificates; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// A mirror to let in, with the host names of its certificate, if peers are to reach it; may be repeated
    #[arg(long, value_name = "ID[=NAME,…]", value_parser = member)]
    pub(crate) mirror: Vec<Member>,
    /// Folder of mirrors that joined by a token, `enrolled` in the archive's state: so that they can be shut out
    #[arg(long, value_name = "DIR")]
    pub(crate) enrolled: Option<PathBuf>,
    /// A user to shut out: a mirror's id, or a role; may be repeated
    #[arg(long, value_name = "USER")]
    pub(crate) revoke: Vec<String>,
    /// Where nats-server listens; left out: as before, or 0.0.0.0:4222
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Folder of the streams; left out: as before, or /var/lib/mirrorlog/jetstream
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
}

/// A mirror with its host names.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: MirrorId,
    pub(crate) hosts: Vec<String>,
}

fn member(text: &str) -> Result<Member, String> {
    let (id, hosts) = text.split_once('=').unwrap_or((text, ""));
    let id = MirrorId::new(id).map_err(|error| error.to_string())?;
    let hosts = hosts.split(',').filter(|host| !host.is_empty());
    Ok(Member {
        id,
        hosts: hosts.map(str::to_owned).collect(),
    })
}
