//! What the client's commands share: making a client, and what its failures mean.

use std::path::PathBuf;

use client::{Client, DirectoryError, GetError, Options, PinError, Stop, Trust};
use mirrorlog_core::client::climb::Verdict;

use crate::args::ClientArgs;
use crate::failure::{ABSENT, AGAIN, CONFIG, CREATE, DATA, DOWN, Failure, IO, OrExit as _, USAGE};

/// What a client's arguments say; the caller changes the rest.
pub(crate) fn options(args: &ClientArgs) -> Result<Options, Failure> {
    if args.key.is_empty() {
        let text = "no key given: use --key FILE or MIRRORLOG_KEY with the archive's public key (archive.pub), \
                    which its operators publish";
        return Err(Failure::text(CONFIG, text));
    }
    options_for_lists(args)
}

/// The same for commands whose result others verify: without a key, statements are not verified.
pub(crate) fn options_for_lists(args: &ClientArgs) -> Result<Options, Failure> {
    let directory = args.directory.as_deref().ok_or_else(|| {
        Failure::text(
            CONFIG,
            "no directory given: use --directory URL or MIRRORLOG_DIRECTORY",
        )
    })?;
    let state = args.state.clone().or_else(state_dir);
    let trust = Trust::of_files(&args.key, state.as_deref()).or_exit(CONFIG)?;
    let mut options = Options::new(directory, trust);
    options.country = args.country;
    options.feedback = args.feedback;
    options.state = state;
    Ok(options)
}

/// `$XDG_STATE_HOME/mirrorlog`, by the XDG Base Directory Specification.
fn state_dir() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    base.map(|base| base.join("mirrorlog"))
}

/// A client.
pub(crate) fn client(options: Options) -> Result<Client, Failure> {
    Client::new(options).or_exit(CONFIG)
}

/// A failure with the code that scripts match.
pub(crate) fn failed(error: GetError) -> Failure {
    let code = match &error {
        GetError::Pin(error) => pin_code(error),
        GetError::Find(error) => find_code(error),
        GetError::Depend(_) => DATA,
        GetError::SameName { .. } => USAGE,
        GetError::Stop { source, .. } => stop_code(source),
        GetError::TimedOut { .. } => AGAIN,
        GetError::Write { .. } => CREATE,
    };
    Failure::new(code, error.into())
}

/// What the directory says, with its code.
pub(crate) fn directory_failed(error: DirectoryError) -> Failure {
    Failure::new(directory_code(&error), error.into())
}

fn directory_code(error: &DirectoryError) -> u8 {
    match error {
        DirectoryError::Down { .. } => DOWN,
        DirectoryError::Unknown { .. } => ABSENT,
        DirectoryError::Other { .. } => CONFIG,
        DirectoryError::Refused { .. } => CONFIG,
        DirectoryError::Retracted { .. } => DATA,
    }
}

fn pin_code(error: &PinError) -> u8 {
    match error {
        PinError::Directory(error) => directory_code(error),
        PinError::UnknownBuild { .. } => ABSENT,
        PinError::Key { .. }
        | PinError::Root { .. }
        | PinError::Expired { .. }
        | PinError::Fork { .. } => DATA,
        PinError::Stop { source, .. } => stop_code(source),
    }
}

fn find_code(error: &client::FindError) -> u8 {
    match error {
        client::FindError::Absent { .. } | client::FindError::Folder { .. } => ABSENT,
        client::FindError::Manifest { .. } => DATA,
        client::FindError::TooMany { .. } => USAGE,
        client::FindError::Stop(source) => stop_code(source),
    }
}

fn stop_code(stop: &Stop) -> u8 {
    match stop {
        Stop::Replan(_) | Stop::Wait | Stop::GaveUp(Verdict::Missing) => AGAIN,
        Stop::GaveUp(Verdict::Nobody | Verdict::Unreachable) => DOWN,
        Stop::GaveUp(Verdict::Corrupt | Verdict::Retracted) => DATA,
        Stop::GaveUp(Verdict::Collected) => ABSENT,
        Stop::Local(fault) if fault.source.kind() == std::io::ErrorKind::ResourceBusy => AGAIN,
        Stop::Local(_) => IO,
    }
}
