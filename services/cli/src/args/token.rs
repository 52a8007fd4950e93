//! Arguments of publishing from another machine.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use mirrorlog_core::id::ChannelId;

/// Heading of the options for one.
const ELSEWHERE: &str = "An archive on another machine";

/// An archive on another machine; without them it is that of this machine's configuration.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct RemoteArgs {
    /// The archive on another machine; left out, it is where the token says
    #[arg(
        long,
        value_name = "URL",
        requires = "token_file",
        help_heading = ELSEWHERE
    )]
    pub(crate) archive: Option<String>,
    /// File with the token of `mirrorlog token issue`, for an archive on another machine
    #[arg(long, value_name = "F", help_heading = ELSEWHERE)]
    pub(crate) token_file: Option<PathBuf>,
    /// Folder in which it is remembered what the tree's files were; ~/.cache/mirrorlog/publish when left out
    #[arg(
        long,
        value_name = "DIR",
        requires = "token_file",
        help_heading = ELSEWHERE
    )]
    pub(crate) cache: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token with which somebody may publish from another machine
    #[command(after_help = "\
Examples:
  mirrorlog token issue nightly --channel noble --may publish --expires 90d --out nightly.token
  mirrorlog token issue security --channel noble-security --may priority,retract --out security.token")]
    Issue(IssueArgs),
    /// Tokens that were made and not revoked
    List,
    /// Take back all tokens of a publisher; a publication under way is not finished any more
    Revoke {
        /// Whose
        publisher: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct IssueArgs {
    /// Whose it is: the name under which the archive logs what is done with it
    pub(crate) publisher: String,
    /// A channel that it is for; may be repeated, or a list
    #[arg(long, value_name = "C", required = true, value_delimiter = ',')]
    pub(crate) channel: Vec<ChannelId>,
    /// What it is for
    #[arg(long, value_name = "VERBS", required = true, value_delimiter = ',')]
    pub(crate) may: Vec<Verb>,
    /// How long it is good
    #[arg(long, value_name = "SPAN", default_value = "90d")]
    pub(crate) expires: runtime::boot::Span,
    /// Write it to this file, for its owner alone, in place of printing it
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Verb {
    /// Builds on the bulk lane
    Publish,
    /// Builds on the priority lane
    Priority,
    /// Retractions, and content that was retracted
    Retract,
}

impl Verb {
    /// As the archive calls it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Priority => "priority",
            Self::Retract => "retract",
        }
    }
}
