//! Keys.

use serde_json::json;

use crate::args::KeyCommand;
use crate::failure::{ABSENT, CREATE, DATA, Failure};
use crate::output::Output;

pub(crate) fn run(command: &KeyCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        KeyCommand::Generate { base, comment } => {
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
        }
        KeyCommand::Show { file } => {
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
        }
    }
    Ok(0)
}
