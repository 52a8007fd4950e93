//! `init`: a commented configuration and keys for a real deployment.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::args::{InitArgs, ServiceName};
use crate::failure::{CREATE, Failure, OrExit as _, make_dir};
use crate::output::Output;

const ARCHIVE: &str = include_str!("../../../../deploy/archive.toml");
const MIRROR: &str = include_str!("../../../../deploy/mirror.toml");
const DIRECTORY: &str = include_str!("../../../../deploy/directory.toml");
const CONSISTENCY: &str = include_str!("../../../../deploy/consistency.toml");

pub(crate) fn run(args: &InitArgs, output: &Output) -> Result<u8, Failure> {
    let (name, sample) = match args.service {
        ServiceName::Archive => ("archive", ARCHIVE),
        ServiceName::Mirror => ("mirror", MIRROR),
        ServiceName::Consistency => ("consistency", CONSISTENCY),
        ServiceName::Directory => ("directory", DIRECTORY),
    };
    let file = args.dir.join(format!("{name}.toml"));
    if file.exists() {
        let text = format!(
            "{} exists already; move it away or choose another folder",
            file.display()
        );
        return Err(Failure::text(CREATE, text));
    }
    make_dir(&args.dir)?;
    // A directory signs nothing.
    let signs = args.service != ServiceName::Directory;
    let key = signs.then(|| write_key(&args.dir, name)).transpose()?;
    std::fs::write(&file, sample).or_exit(CREATE)?;
    if output.json {
        output.json(&json!({ "config": file, "key": key }));
    } else {
        let key = key.map(|key| format!(" and the key {}", key.display()));
        output.line(&format!(
            "wrote {}{}",
            file.display(),
            key.unwrap_or_default()
        ));
        output.line(&format!(
            "edit it, then run: mirrorlog --config {} {name} serve",
            file.display()
        ));
    }
    Ok(0)
}

/// Makes `<dir>/<name>.sec` and `.pub`, or keeps those that are there. Returns the public key's file.
pub(crate) fn write_key(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let base = dir.join(name);
    let (secret, public) = (
        dir.join(format!("{name}.sec")),
        dir.join(format!("{name}.pub")),
    );
    if !(secret.exists() && public.exists()) {
        runtime::key::generate(&base, &format!("mirrorlog {name}")).or_exit(CREATE)?;
    }
    Ok(public)
}
