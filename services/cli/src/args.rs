//! The command line.

mod key;
mod mirror;
mod nats;
mod select;
mod token;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use mirrorlog_core::id::{Build, ChannelId, Lane, MirrorId};
use mirrorlog_core::layout::Layout;

pub(crate) use key::{
    KeyCommand, RevokeArgs, RoleKey, RootArgs, RotateArgs, ShowKeyArgs, SignArgs,
};
pub(crate) use mirror::{AdoptArgs, DrainArgs, EnrollArgs, InviteArgs, MirrorCommand, ResumeArgs};
pub(crate) use nats::{Member, NatsConfigArgs};
pub(crate) use select::SelectArgs;
pub(crate) use token::{IssueArgs, RemoteArgs, TokenCommand};

/// Heading of the options that every command takes.
const EVERYWHERE: &str = "Options of every command";

/// Package archives as an event stream: signed builds, whole mirrors.
#[derive(Debug, Parser)]
#[command(
    name = "mirrorlog",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  mirrorlog local demo                          the whole story on this machine
  mirrorlog local up --dir net --mirrors 3      a network of three mirrors
  mirrorlog --config net/archive/archive.toml publish noble ./tree --wait all
  mirrorlog --config net/archive/archive.toml status"
)]
pub(crate) struct Args {
    /// Configuration file of the service to run, or of the archive for operators' commands
    #[arg(long, global = true, value_name = "FILE", env = "MIRRORLOG_CONFIG", help_heading = EVERYWHERE)]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON document (one a line where it streams) on stdout
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// How much to log: error, warn, info, debug, trace, or a filter such as mirror=debug
    #[arg(long, global = true, value_name = "LEVEL", help_heading = EVERYWHERE)]
    pub(crate) log: Option<String>,
    /// Say nothing that was not asked for
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// As if `apt-method` had been written.
    pub(crate) fn apt_method() -> Self {
        Self {
            config: None,
            json: false,
            log: None,
            quiet: false,
            command: Command::AptMethod,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole network on this machine
    #[command(subcommand)]
    Local(LocalCommand),
    /// Write a commented configuration and keys for a real deployment
    Init(InitArgs),
    /// Write nats-server's configuration with accounts, permissions, streams and TLS, and the users' credentials
    #[command(after_help = "\
Examples:
  mirrorlog nats-config nats --host archive.example.org --mirror nz1 --mirror au1
  mirrorlog nats-config nats --revoke nz1            nz1 is shut out when nats-server is restarted
Each service takes its user as [nats] credentials and its certificate as [tls]")]
    NatsConfig(NatsConfigArgs),
    /// Run the archive
    #[command(subcommand)]
    Archive(ServeCommand),
    /// Run a mirror
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Run the consistency service
    #[command(subcommand)]
    Consistency(ServeCommand),
    /// Run a directory, or export its lists
    #[command(subcommand)]
    Directory(DirectoryCommand),
    /// Why a mirror is, or is not, offered for a channel
    Why(WhyArgs),
    /// Download files of one build, verified, from whoever has them
    Get(GetArgs),
    /// apt's acquire method, on standard input and output; apt starts it
    #[command(after_help = "\
To install it: ln -s $(command -v mirrorlog) /usr/lib/apt/methods/mirrorlog
A source:      deb mirrorlog://mirrors.example.org/ubuntu noble main
Settings:      Acquire::mirrorlog::Key \"/etc/apt/archive.pub\"; Country, Timeout, Wait, Feedback, Proxy beside it")]
    AptMethod,
    /// Choose a mirror and write it into apt's sources, or say it for pkg_add
    Select(SelectArgs),
    /// Publish a tree as a channel's next build
    Publish(PublishArgs),
    /// Take builds back
    Retract(RetractArgs),
    /// The changelog, oldest first
    Log(LogArgs),
    /// What changed between two builds
    Diff(DiffArgs),
    /// A build's snapshot
    Show(ShowArgs),
    /// The files of a build
    Ls(LsArgs),
    /// Mirrors and channels, as the consistency service sees them
    Status(StatusArgs),
    /// Make a mirror go through the log again; nothing that it holds is fetched again
    Replay(ReplayArgs),
    /// Give a mirror older builds that it lacks
    Backfill(BackfillArgs),
    /// Compare the log with the journal and the mirrors, and say again what it lacks
    LogRepair(LogRepairArgs),
    /// Re-check content by digest
    Verify(VerifyArgs),
    /// Let content of old builds go from the archive's store
    Gc(GcArgs),
    /// Tokens with which others publish from their own machines
    #[command(subcommand)]
    Token(TokenCommand),
    /// Keys in signify's format
    #[command(subcommand)]
    Key(KeyCommand),
    /// Completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The manual page, in roff
    #[command(hide = true)]
    Man,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {
    /// Run nats-server, archive, mirrors, consistency and directory from one folder until interrupted
    #[command(after_help = "\
Examples:
  mirrorlog local up --dir net --mirrors 3
  mirrorlog local up --dir net --pools nz=2,au=1 --limit 20mbit --export")]
    Up(UpArgs),
    /// Tell the story on real packages, checking every step
    Demo(DemoArgs),
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct UpArgs {
    /// Folder of the whole network; made when absent, resumed when not
    #[arg(long, value_name = "D")]
    pub(crate) dir: PathBuf,
    /// How many mirrors a new folder gets, when --pools does not say
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) mirrors: u16,
    /// Mirrors of each pool; a resumed folder gets those that it lacks, and keeps what it has
    #[arg(long, value_name = "nz=2,au=1", value_delimiter = ',', value_parser = pool)]
    pub(crate) pools: Vec<(String, u16)>,
    /// The most that each mirror fetches; none when left out, also when the folder is resumed
    #[arg(long, value_name = "20mbit")]
    pub(crate) limit: Option<runtime::boot::ByteRate>,
    /// Give each mirror trees of files too, as nginx and rsyncd serve them; none when left out, also when resumed
    #[arg(long)]
    pub(crate) export: bool,
    /// As a real network: each service with a user of its own at nats-server and a certificate, TLS between them
    #[arg(long, conflicts_with = "nats")]
    pub(crate) secure: bool,
    /// Use a nats-server that runs already
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// Keep the network's folder and say where it is
    #[arg(long)]
    pub(crate) keep: bool,
}

fn pool(text: &str) -> Result<(String, u16), String> {
    let (name, count) = text
        .split_once('=')
        .ok_or("write POOL=NUMBER, for example nz=2")?;
    name.parse::<mirrorlog_core::id::PoolId>()
        .map_err(|error| error.to_string())?;
    let count: u16 = count
        .parse()
        .map_err(|_| format!("{count:?} is no number of mirrors"))?;
    if count == 0 || count > 100 {
        return Err("a pool has 1 to 100 mirrors".to_owned());
    }
    Ok((name.to_owned(), count))
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  mirrorlog init archive /etc/mirrorlog
  mirrorlog init mirror /etc/mirrorlog
  mirrorlog init directory /etc/mirrorlog      then put archive.pub and consistency.pub beside it")]
pub(crate) struct InitArgs {
    /// Which service
    pub(crate) service: ServiceName,
    /// Folder to write to; made when absent
    pub(crate) dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServiceName {
    Archive,
    Mirror,
    Consistency,
    Directory,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServeCommand {
    /// Run the service of --config until interrupted
    Serve,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DirectoryCommand {
    /// Run the directory of --config until interrupted
    Serve,
    /// Write the lists, feeds and pages as static files, from the directory's last state
    #[command(after_help = "\
Example: mirrorlog --config directory.toml directory export /var/www/mirrors")]
    Export {
        /// Folder to write to; made when absent
        dir: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  mirrorlog why nz1 noble
  mirrorlog why nz1 noble --client-ip 192.0.2.7 --build 37")]
pub(crate) struct WhyArgs {
    /// The mirror, by its id
    pub(crate) mirror: MirrorId,
    /// The channel
    pub(crate) channel: ChannelId,
    /// For clients that pin this build
    #[arg(long)]
    pub(crate) build: Option<Build>,
    /// For clients in this country
    #[arg(long, value_name = "CC")]
    pub(crate) country: Option<mirrorlog_core::directory::place::Country>,
    /// For the client with this address
    #[arg(long, value_name = "IP")]
    pub(crate) client_ip: Option<std::net::IpAddr>,
    /// The directory to ask; left out, that of the archive's configuration
    #[arg(long, value_name = "URL", env = "MIRRORLOG_DIRECTORY")]
    pub(crate) directory: Option<String>,
}

/// How a client's commands find the directory and the archive's key.
#[derive(Debug, ClapArgs)]
pub(crate) struct ClientArgs {
    /// The directory that knows the mirrors
    #[arg(long, value_name = "URL", env = "MIRRORLOG_DIRECTORY")]
    pub(crate) directory: Option<String>,
    /// The archive's public key, in signify's format, or a root document; whatever they do not vouch for is refused
    #[arg(long, value_name = "FILE", env = "MIRRORLOG_KEY")]
    pub(crate) key: Vec<PathBuf>,
    /// Your country; left out, the directory finds it by your address
    #[arg(long, value_name = "CC", env = "MIRRORLOG_COUNTRY")]
    pub(crate) country: Option<mirrorlog_core::directory::place::Country>,
    /// Tell the directory how mirrors did: mirror, build, bytes, time, outcome; no path, and not who you are
    #[arg(long, env = "MIRRORLOG_FEEDBACK", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub(crate) feedback: bool,
    /// Where lists, heads and speeds are kept from run to run; left out, mirrorlog below $XDG_STATE_HOME
    #[arg(long, value_name = "DIR", env = "MIRRORLOG_CLIENT_STATE")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  mirrorlog get noble dists/noble/Release --directory http://mirrors.example.org --key archive.pub
  mirrorlog get noble@37 pool/main/h/hello/ -o debs
  mirrorlog get noble pool/main/h/hello/hello_2.10-3_amd64.deb --dry-run")]
pub(crate) struct GetArgs {
    /// CHANNEL@BUILD, or CHANNEL for the build that is wanted where you are
    #[arg(value_parser = at)]
    pub(crate) at: (ChannelId, Option<Build>),
    /// Paths in the build: files, or folders with all that is below them
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<std::ffi::OsString>,
    /// Folder for the files, each by its last component; made when absent. Files of these names in it are replaced
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) output: PathBuf,
    /// Say what would be fetched, from whom, and what feedback waits; fetch nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only what is named, not what packages of an openbsd channel need besides
    #[arg(long)]
    pub(crate) no_deps: bool,
    /// Between two looks for a build that no mirror has yet; 0s: do not wait
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) retry_after: runtime::boot::Span,
    /// Stop looking for it after this time
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) give_up_after: runtime::boot::Span,
    /// Leave a mirror that sends nothing for this long
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) stall: runtime::boot::Span,
    /// Take an archive's statement of its newest build whose time has passed
    #[arg(long)]
    pub(crate) allow_expired: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  mirrorlog publish noble ./tree --wait all
  mirrorlog publish noble-security ./tree --priority --wait quorum --timeout 60
  git -C ./tree diff --relative --name-only -z HEAD^ | mirrorlog publish noble ./tree --changed - -0
  mirrorlog publish noble ./tree --archive https://archive.example.org:7074 --token-file ./token")]
pub(crate) struct PublishArgs {
    /// The channel
    pub(crate) channel: ChannelId,
    /// The tree on disk
    pub(crate) tree: PathBuf,
    /// Shape of the tree: plain, debian, openbsd
    #[arg(long)]
    pub(crate) layout: Option<Layout>,
    /// Publish on the priority lane, which overtakes all that is bulk
    #[arg(long)]
    pub(crate) priority: bool,
    /// Look only at the paths in this list (- for standard input): added, changed or gone, relative to TREE
    #[arg(long, value_name = "FILE")]
    pub(crate) changed: Option<PathBuf>,
    /// The paths of --changed are separated by NUL instead of newlines
    #[arg(short = '0', requires = "changed")]
    pub(crate) null: bool,
    /// Check and count, publish nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Check that dependencies resolve in the channel
    #[arg(long)]
    pub(crate) deps: bool,
    /// Take a Release whose Valid-Until has passed
    #[arg(long)]
    pub(crate) allow_expired: bool,
    /// Take content that was retracted before
    #[arg(long)]
    pub(crate) allow_retracted: bool,
    /// Return when that many mirrors are complete: all, quorum, or a number
    #[arg(long, value_name = "all|quorum|N", value_parser = wait)]
    pub(crate) wait: Option<Wait>,
    /// Give up waiting after this many seconds
    #[arg(long, value_name = "S", default_value_t = 600, requires = "wait")]
    pub(crate) timeout: u64,
    /// A sentence about a package that clients show
    #[arg(long, value_name = "PKG=TEXT", value_parser = notice)]
    pub(crate) notice: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// How many mirrors to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    All,
    Quorum,
    Count(usize),
}

fn wait(text: &str) -> Result<Wait, String> {
    match text {
        "all" => Ok(Wait::All),
        "quorum" => Ok(Wait::Quorum),
        number => match number.parse() {
            Ok(count) if count > 0 => Ok(Wait::Count(count)),
            _not_positive => Err("use all, quorum or a number from 1 on".to_owned()),
        },
    }
}

fn notice(text: &str) -> Result<(String, String), String> {
    let (package, sentence) = text.split_once('=').ok_or("write PACKAGE=TEXT")?;
    let bad = package.is_empty() || sentence.is_empty() || text.contains('\n');
    if bad {
        Err("write PACKAGE=TEXT on one line".to_owned())
    } else {
        Ok((package.to_owned(), sentence.to_owned()))
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  mirrorlog retract noble 38 --reason 'broken libc' --replace-with 37
  mirrorlog retract openbsd-amd64 12-14 --reason 'wrong key' --no-replacement")]
pub(crate) struct RetractArgs {
    /// The channel
    pub(crate) channel: ChannelId,
    /// A build, or a range such as 12-14
    #[arg(value_parser = range)]
    pub(crate) builds: (Build, Build),
    /// Why, for people
    #[arg(long)]
    pub(crate) reason: String,
    /// Publish this tree, or the content of this older build, in the same step; a debian channel needs this or --no-replacement
    #[arg(long, value_name = "TREE|BUILD")]
    pub(crate) replace_with: Option<String>,
    /// Publish nothing instead: mirrors go back to the newest good build that they hold; apt, which refuses older indexes, stays where it is
    #[arg(long, conflicts_with = "replace_with")]
    pub(crate) no_replacement: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

fn range(text: &str) -> Result<(Build, Build), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let parse = |text: &str| text.parse::<Build>().map_err(|error| error.to_string());
    let (first, last) = (parse(first)?, parse(last)?);
    if first <= last {
        Ok((first, last))
    } else {
        Err("the first build must not be after the last".to_owned())
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LogArgs {
    /// Only this channel
    pub(crate) channel: Option<ChannelId>,
    /// Go on with what comes
    #[arg(long)]
    pub(crate) follow: bool,
    /// From this build, or this day or time in UTC (2026-11-23, 2026-11-23T10:00:00Z) on
    #[arg(long, value_name = "BUILD|TIME")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DiffArgs {
    /// The channel
    pub(crate) channel: ChannelId,
    /// The older build
    pub(crate) old: Build,
    /// The newer build
    pub(crate) new: Build,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// The channel
    pub(crate) channel: ChannelId,
    /// The build; the newest unretracted one when left out
    pub(crate) build: Option<Build>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: mirrorlog ls noble@37 dists/")]
pub(crate) struct LsArgs {
    /// CHANNEL@BUILD, or CHANNEL for its newest build
    #[arg(value_parser = at)]
    pub(crate) at: (ChannelId, Option<Build>),
    /// Only paths that start with this
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

fn at(text: &str) -> Result<(ChannelId, Option<Build>), String> {
    let (channel, build) = match text.split_once('@') {
        Some((channel, build)) => (channel, Some(build)),
        None => (text, None),
    };
    let channel = channel
        .parse::<ChannelId>()
        .map_err(|error| error.to_string())?;
    let build = build.map(|build| build.parse::<Build>().map_err(|error| error.to_string()));
    Ok((channel, build.transpose()?))
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    /// Only this channel
    pub(crate) channel: Option<ChannelId>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: mirrorlog replay --mirror nz1 --from last-ack")]
pub(crate) struct ReplayArgs {
    /// The mirror, by its id in status
    #[arg(long, value_name = "ID")]
    pub(crate) mirror: MirrorId,
    /// Only this channel
    #[arg(long, value_name = "C")]
    pub(crate) channel: Option<ChannelId>,
    /// From this build, this time, or the last acked event on
    #[arg(long, value_name = "BUILD|TIME|last-ack")]
    pub(crate) from: String,
    /// Only this lane: bulk or priority
    #[arg(long, value_name = "L", value_parser = lane)]
    pub(crate) lane: Option<Lane>,
    /// Say what would be replayed, and order nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn lane(text: &str) -> Result<Lane, String> {
    let found = Lane::ALL.into_iter().find(|lane| lane.as_str() == text);
    found.ok_or_else(|| "use bulk or priority".to_owned())
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example: mirrorlog backfill --mirror nz1 --channel noble --from 30 --to 36

Builds that are retracted, or whose content the archive has let go, are left out. The mirror keeps them
for its setting mirror.backfill_keep, a week when left out.")]
pub(crate) struct BackfillArgs {
    /// The mirror, by its id in status
    #[arg(long, value_name = "ID")]
    pub(crate) mirror: MirrorId,
    /// The channel
    #[arg(long, value_name = "C")]
    pub(crate) channel: ChannelId,
    /// The first build
    #[arg(long, value_name = "A")]
    pub(crate) from: Build,
    /// The last build
    #[arg(long, value_name = "B")]
    pub(crate) to: Build,
    /// Say which builds would be fetched, and order nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Stop waiting after this many seconds; the mirror goes on
    #[arg(long, value_name = "S", default_value_t = 3600)]
    pub(crate) timeout: u64,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  mirrorlog log-repair --dry-run       what the log lacks
  mirrorlog log-repair                 after the log lost events that were acked")]
pub(crate) struct LogRepairArgs {
    /// Say what the log lacks, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  mirrorlog gc --dry-run               what would go
  mirrorlog gc                         from a timer, once a day

Kept are the newest [gc] keep_builds builds of each channel (100), those younger than [gc] keep (30d),
and those that are wanted. Manifests stay: diff, ls and log know all builds for ever.")]
pub(crate) struct GcArgs {
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  mirrorlog verify                     the archive's own store
  mirrorlog verify --mirror nz1        a mirror's, which heals what it lost")]
pub(crate) struct VerifyArgs {
    /// A mirror's store, by the mirror itself; left out, the archive's
    #[arg(long, value_name = "ID", conflicts_with = "store")]
    pub(crate) mirror: Option<MirrorId>,
    /// A store folder on this machine: needs no configuration and no service
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Only this channel
    #[arg(long, value_name = "C")]
    pub(crate) channel: Option<ChannelId>,
    /// Only this build
    #[arg(long, value_name = "B", requires = "channel")]
    pub(crate) build: Option<Build>,
    /// Everything in the store, whether a build names it or not
    #[arg(long)]
    pub(crate) full: bool,
}
