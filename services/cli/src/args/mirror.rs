//! `mirror`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use mirrorlog_core::id::{MirrorId, Mount, PoolId};

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Run the mirror of --config until interrupted
    Serve,
    /// Take over a tree that is already there, such as rsync's copy: nothing that it has is fetched
    #[command(after_help = "\
Examples:
  mirrorlog --config mirror.toml mirror adopt --mount /debian --from /srv/mirror/debian --dry-run
  mirrorlog --config mirror.toml mirror adopt --mount /debian --from /srv/mirror/debian
  mirrorlog --config mirror.toml mirror serve          until it serves the mount, with [export]
  mirrorlog --config mirror.toml mirror adopt --mount /debian --from /srv/mirror/debian --switch")]
    Adopt(AdoptArgs),
    /// Print a configuration of nginx that serves the mirror's export trees
    #[command(after_help = "\
Example: mirrorlog --config mirror.toml mirror nginx-snippet > /etc/nginx/sites-enabled/mirror")]
    NginxSnippet,
    /// Make a token with which one mirror may join, once: for operators of the archive
    #[command(after_help = "\
Examples:
  mirrorlog --config archive.toml mirror invite nz9 --pool nz --host mirror.example.org
  mirrorlog mirror enroll --token T                  on the mirror")]
    Invite(InviteArgs),
    /// Withdraw a mirror's invitations: none of its tokens counts any more
    Uninvite {
        /// The mirror's id
        mirror: MirrorId,
    },
    /// Join a network: writes keys, credentials and a configuration
    Enroll(EnrollArgs),
    /// Send a mirror no more clients; it goes on following and serving
    #[command(after_help = "\
Examples:
  mirrorlog mirror drain nz1 --reason 'new disk on Tuesday'
  mirrorlog mirror resume nz1")]
    Drain(DrainArgs),
    /// Send a mirror clients again
    Resume(ResumeArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DrainArgs {
    /// The mirror, by its id in status
    pub(crate) mirror: MirrorId,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ResumeArgs {
    /// The mirror, by its id in status
    pub(crate) mirror: MirrorId,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InviteArgs {
    /// The mirror's id
    pub(crate) mirror: MirrorId,
    /// Its pool; starts with the country's code
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: PoolId,
    /// Host name for its certificate, where peers are to reach it; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// How long the token is good
    #[arg(long, value_name = "SPAN", default_value = "24h")]
    pub(crate) expires: runtime::boot::Span,
    /// Also for a mirror that is in the roster, as after the loss of its machine
    #[arg(long)]
    pub(crate) again: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EnrollArgs {
    /// The token, or @FILE, or - for standard input: others see what is written on a command line
    #[arg(long, value_name = "T")]
    pub(crate) token: String,
    /// Folder to write to; made when absent
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AdoptArgs {
    /// Where the archive's channels are served, such as /debian
    #[arg(long, value_name = "M")]
    pub(crate) mount: Mount,
    /// The tree: what lies there is only read, and never changed
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// Say what the tree has and what would be fetched; files of the right size and date are not read
    #[arg(long, group = "deed")]
    pub(crate) dry_run: bool,
    /// Give the tree's name to the mirror's export tree, in one step; the old tree stays beside it
    #[arg(long, group = "deed")]
    pub(crate) switch: bool,
    /// Give the name back to the old tree, in one step
    #[arg(long, group = "deed")]
    pub(crate) undo: bool,
}
