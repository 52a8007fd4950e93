//! The command line of `key`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Subcommand};
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::{KeyNumber, Threshold};
use mirrorlog_core::trust::Role;
use runtime::boot::Span;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key pair: BASE.sec and BASE.pub
    Generate {
        /// Path of the pair, without .sec or .pub
        base: PathBuf,
        /// Comment in the files
        #[arg(long, default_value = "mirrorlog key")]
        comment: String,
    },
    /// Show a key's number and public half, or what a root document says and who has signed it
    Show(ShowKeyArgs),
    /// Write the first root document: who is trusted for what. Sign it with `key sign`
    Root(RootArgs),
    /// Add a signature to a root document
    Sign(SignArgs),
    /// Write the version that follows a root document, with other keys or mirrors
    Rotate(RotateArgs),
    /// Write the version that follows a root document, without keys that were lost or stolen
    Revoke(RevokeArgs),
    /// Give the archive of --config the root document that follows, signed by enough keys; all others hear of it
    Install {
        /// The document
        file: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ShowKeyArgs {
    /// The file
    pub(crate) file: PathBuf,
    /// For a root document, the version before: also tell what changes, and whether the step is valid (else 65)
    #[arg(long, value_name = "OLD")]
    pub(crate) previous: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example, with three root keys that three people keep offline:
  mirrorlog key root root-1.mlr --root a.pub --root b.pub --root c.pub --threshold 2 \\
      --archive archive.pub --consistency consistency.pub --mirror nz1=nz1.pub
  mirrorlog key sign root-1.mlr --key a.sec
  mirrorlog key sign root-1.mlr --key b.sec
  mirrorlog key show root-1.mlr")]
pub(crate) struct RootArgs {
    /// The document to write
    pub(crate) file: PathBuf,
    /// Public key that may sign the next version; several times
    #[arg(long, value_name = "PUB", required = true)]
    pub(crate) root: Vec<PathBuf>,
    /// How many root keys must sign
    #[arg(long, value_name = "N", value_parser = threshold)]
    pub(crate) threshold: Threshold,
    /// Public key of the archive; several times
    #[arg(long, value_name = "PUB", required = true)]
    pub(crate) archive: Vec<PathBuf>,
    /// Public key of the consistency service; several times
    #[arg(long, value_name = "PUB", required = true)]
    pub(crate) consistency: Vec<PathBuf>,
    /// A mirror whose reports count, and its public key; several times
    #[arg(long = "mirror", value_name = "ID=PUB")]
    pub(crate) mirrors: Vec<MirrorKey>,
    /// How long it counts
    #[arg(long, value_name = "SPAN", default_value = "365d")]
    pub(crate) expires: Span,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SignArgs {
    /// The document; the signature is added to it
    pub(crate) file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "SEC")]
    pub(crate) key: PathBuf,
    /// The version before: tells what changes; needed to sign with a key that leaves
    #[arg(long, value_name = "OLD")]
    pub(crate) previous: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RotateArgs {
    /// The document in force
    pub(crate) file: PathBuf,
    /// The document to write
    #[arg(long, value_name = "NEXT")]
    pub(crate) out: PathBuf,
    /// Trust a public key for a role: root, archive or consistency; several times
    #[arg(long, value_name = "ROLE=PUB")]
    pub(crate) add: Vec<RoleKey>,
    /// Take a key from the roles that it has; several times
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    pub(crate) remove: Vec<KeyNumber>,
    /// How many root keys must sign from then on
    #[arg(long, value_name = "N", value_parser = threshold)]
    pub(crate) threshold: Option<Threshold>,
    /// Put a mirror into the roster, or give it a second key; several times
    #[arg(long = "mirror", value_name = "ID=PUB")]
    pub(crate) mirrors: Vec<MirrorKey>,
    /// Take a mirror out of the roster; several times
    #[arg(long, value_name = "ID")]
    pub(crate) drop_mirror: Vec<MirrorId>,
    /// How long it counts
    #[arg(long, value_name = "SPAN", default_value = "365d")]
    pub(crate) expires: Span,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RevokeArgs {
    /// The document in force
    pub(crate) file: PathBuf,
    /// The document to write
    #[arg(long, value_name = "NEXT")]
    pub(crate) out: PathBuf,
    /// Numbers of the keys; a mirror that has no other key leaves the roster
    #[arg(value_name = "NUMBER", required = true, value_parser = number)]
    pub(crate) numbers: Vec<KeyNumber>,
    /// A key that takes the place of a revoked one, where a role would be left with too few; several times
    #[arg(long, value_name = "ROLE=PUB")]
    pub(crate) add: Vec<RoleKey>,
    /// How long it counts
    #[arg(long, value_name = "SPAN", default_value = "365d")]
    pub(crate) expires: Span,
}

/// `ROLE=PUB`
#[derive(Clone, Debug)]
pub(crate) struct RoleKey {
    pub(crate) role: Role,
    pub(crate) file: PathBuf,
}

/// `ID=PUB`
#[derive(Clone, Debug)]
pub(crate) struct MirrorKey {
    pub(crate) mirror: MirrorId,
    pub(crate) file: PathBuf,
}

impl FromStr for RoleKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (role, file) = pair(text, "ROLE=PUB, such as root=d.pub")?;
        let role = role.parse::<Role>().map_err(|error| error.to_string())?;
        Ok(Self { role, file })
    }
}

impl FromStr for MirrorKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (mirror, file) = pair(text, "ID=PUB, such as nz1=nz1.pub")?;
        let mirror = MirrorId::new(mirror).map_err(|error| error.to_string())?;
        Ok(Self { mirror, file })
    }
}

fn pair<'a>(text: &'a str, form: &str) -> Result<(&'a str, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !file.is_empty() => Ok((name, file.into())),
        Some(_) | None => Err(format!("write it as {form}")),
    }
}

fn number(text: &str) -> Result<KeyNumber, String> {
    let digits = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
    let number = number.map(|number| KeyNumber(number.to_be_bytes()));
    number.ok_or_else(|| "a key's number has 16 hex digits; key show tells it".to_owned())
}

fn threshold(text: &str) -> Result<Threshold, String> {
    let threshold = text.parse().ok().and_then(Threshold::new);
    threshold.ok_or_else(|| {
        format!(
            "use a number from 1 to {}",
            mirrorlog_core::limits::THRESHOLD_MAX
        )
    })
}
