//! The command line of `select`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use mirrorlog_core::client::sources::Form;
use mirrorlog_core::id::ChannelId;

use super::ClientArgs;

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Forms of --as, for apt:
  plain         the chosen mirror's URL
  mirror+file   a list of mirrors in a file, the chosen one first; let a timer run select --auto --apply to refresh it
  mirror+http   a list that apt asks the directory for in every run
  mirrorlog     the mirrorlog method, which goes from mirror to mirror by itself

Without --key the archive's statements are not verified, which is enough here: apt verifies what it takes by
Signed-By, pkg_add by signify. Bytes of a probe are never kept.

Examples:
  mirrorlog select --directory http://mirrors.example.org          a list to choose from; nothing is written
  mirrorlog select noble --auto --apply --signed-by /usr/share/keyrings/archive.gpg
  mirrorlog select noble --auto --apply --as mirror+file           from a timer, once an hour
  mirrorlog select openbsd-amd64 --auto --apply --sources /etc/installurl")]
pub(crate) struct SelectArgs {
    /// The channel; may be left out when the directory has one channel or one mount
    pub(crate) channel: Option<ChannelId>,
    /// Try two mirrors that are thought the best and a random one, and take the fastest
    #[arg(long)]
    pub(crate) auto: bool,
    /// Write the file, and keep what was there as FILE.bak, unless it is an earlier one of ours
    #[arg(long)]
    pub(crate) apply: bool,
    /// What is written for apt
    #[arg(long = "as", value_name = "FORM", default_value = "plain", value_parser = form())]
    pub(crate) form: Form,
    /// The file to write; left out, /etc/apt/sources.list.d/mirrorlog.sources for apt, and none for pkg_add
    #[arg(long, value_name = "FILE")]
    pub(crate) sources: Option<PathBuf>,
    /// The keyring that apt verifies with; left out, what the older file says
    #[arg(long, value_name = "FILE")]
    pub(crate) signed_by: Option<PathBuf>,
    /// A suite; left out, those of the older file, else those of this system's release, else the only one
    #[arg(long = "suite", value_name = "S")]
    pub(crate) suites: Vec<String>,
    /// A component of each suite; left out, those of the older file, else all
    #[arg(long = "component", value_name = "C")]
    pub(crate) components: Vec<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

fn form() -> impl clap::builder::TypedValueParser<Value = Form> {
    PossibleValuesParser::new(Form::ALL.map(Form::as_str)).map(|text| {
        let found = Form::ALL.into_iter().find(|form| form.as_str() == text);
        found.unwrap_or(Form::Plain)
    })
}
