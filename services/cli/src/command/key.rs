//! Keys, and the root document that says what they are trusted for. Files only: nothing here uses a network.

mod file;
mod root;
mod told;

use std::path::Path;

use serde_json::json;

use crate::args::{KeyCommand, ShowKeyArgs};
use crate::failure::{ABSENT, CONFIG, CREATE, DATA, Failure};
use crate::output::Output;

pub(crate) fn run(command: &KeyCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        KeyCommand::Generate { base, comment } => generate(base, comment, output),
        KeyCommand::Show(args) => show(args, output),
        KeyCommand::Root(args) => root::first(args, output),
        KeyCommand::Sign(args) => root::sign(args, output),
        KeyCommand::Rotate(args) => root::rotate(args, output),
        KeyCommand::Revoke(args) => root::revoke(args, output),
    }
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
