//! Keys, and the root document that says what they are trusted for. All but `install` is done in files, offline.

mod file;
mod root;
mod told;

use std::path::{Path, PathBuf};

use serde_json::json;
use wire::v1::{InstallRootReply, InstallRootRequest};

use super::ask::Archive;
use crate::args::{KeyCommand, ShowKeyArgs};
use crate::failure::{ABSENT, CONFIG, CREATE, DATA, Failure};
use crate::output::Output;

pub(crate) async fn run(
    config: Option<PathBuf>,
    command: &KeyCommand,
    output: &Output,
) -> Result<u8, Failure> {
    match command {
        KeyCommand::Generate { base, comment } => generate(base, comment, output),
        KeyCommand::Show(args) => show(args, output),
        KeyCommand::Root(args) => root::first(args, output),
        KeyCommand::Sign(args) => root::sign(args, output),
        KeyCommand::Rotate(args) => root::rotate(args, output),
        KeyCommand::Revoke(args) => root::revoke(args, output),
        KeyCommand::Install { file } => install(&super::need(config)?, file, output).await,
    }
}

/// Hands a document to the archive.
async fn install(config: &Path, file: &Path, output: &Output) -> Result<u8, Failure> {
    let document = runtime::trust::read(file).map_err(|error| {
        let absent = file.try_exists().is_ok_and(|there| !there);
        Failure::new(if absent { ABSENT } else { DATA }, error.into())
    })?;
    let archive = Archive::open(config).await?;
    let request = InstallRootRequest {
        document: document.encode().into(),
    };
    let reply = archive.patient_admin().await?.install_root(request).await?;
    let InstallRootReply {
        version,
        known,
        resigned,
    } = reply.into_inner();
    if output.json {
        output.json(&json!({ "version": version, "known": known, "resigned": resigned }));
        return Ok(0);
    }
    let known = if known {
        "is in force already"
    } else {
        "is in force"
    };
    output.line(&format!("root document {version} {known}"));
    if resigned > 0 {
        output.line(&format!(
            "{resigned} statements of earlier keys were signed again with the present one"
        ));
    }
    Ok(0)
}

fn generate(base: &Path, comment: &str, output: &Output) -> Result<u8, Failure> {
    let key = runtime::key::generate(base, comment);
    let key = key.map_err(|error| Failure::new(CREATE, error.into()))?;
    let (secret, public) = (
        base.with_added_extension("sec"),
        base.with_added_extension("pub"),
    );
    let number = key.public().number().to_string();
    if output.json {
        output.json(&json!({ "number": number, "secret": secret, "public": public }));
    } else {
        output.line(&format!(
            "key {number}: {} (secret), {}",
            secret.display(),
            public.display()
        ));
    }
    Ok(0)
}

fn show(args: &ShowKeyArgs, output: &Output) -> Result<u8, Failure> {
    let file = &args.file;
    if let Some(document) = file::find(file)? {
        return root::show(&document, args.previous.as_deref(), output);
    }
    if args.previous.is_some() {
        let text = format!(
            "{} is a key; --previous is for root documents",
            file.display()
        );
        return Err(Failure::text(CONFIG, text));
    }
    let public = runtime::key::read_public(file).or_else(|error| {
        runtime::key::read_secret(file)
            .map(|key| key.public())
            .map_err(|_| error)
    });
    let public = public.map_err(|error| {
        let absent = matches!(error, runtime::key::KeyError::Absent(_));
        Failure::new(if absent { ABSENT } else { DATA }, error.into())
    })?;
    let number = public.number().to_string();
    let text = wire::signify::print_public(&public, &format!("mirrorlog key {number}"));
    if output.json {
        output.json(&json!({ "number": number, "public": text }));
    } else {
        output.line(text.trim_end());
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
