//! `token`: who may publish from another machine.

use std::path::Path;

use serde_json::json;
use wire::v1::{IssueTokenRequest, PublishToken, RevokeTokensRequest, TokensRequest};

use super::ask::Archive;
use super::nats_config::write_file;
use super::remote::Token;
use crate::args::{IssueArgs, TokenCommand};
use crate::failure::{CREATE, DATA, Failure, OrExit as _};
use crate::output::Output;

pub(crate) async fn run(
    config: &Path,
    command: TokenCommand,
    output: &Output,
) -> Result<u8, Failure> {
    match command {
        TokenCommand::Issue(args) => issue(config, args, output).await,
        TokenCommand::List => list(config, output).await,
        TokenCommand::Revoke { publisher } => revoke(config, publisher, output).await,
    }
}

async fn issue(config: &Path, args: IssueArgs, output: &Output) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    // A token that cannot be kept is not made.
    let place = args.out.as_deref().map(Reserved::of).transpose()?;
    let request = IssueTokenRequest {
        publisher: args.publisher.clone(),
        channels: args.channel.iter().map(ToString::to_string).collect(),
        verbs: args
            .may
            .iter()
            .map(|verb| verb.as_str().to_owned())
            .collect(),
        lasts_ms: u64::try_from(args.expires.0.as_millis()).unwrap_or(u64::MAX),
    };
    let reply = archive
        .admin()
        .await?
        .issue_token(request)
        .await?
        .into_inner();
    let text = Token {
        address: reply.address.clone(),
        publisher: args.publisher.clone(),
        secret: hex::encode(&reply.secret),
        ca: reply.ca,
    }
    .print()?;
    if let Some(place) = place {
        place.fill(&format!("{text}\n"))?;
    }
    if output.json {
        let shown = args.out.is_none().then_some(text);
        output.json(&json!({ "publisher": args.publisher, "address": reply.address, "token": shown, "file": args.out }));
        return Ok(0);
    }
    match &args.out {
        Some(file) => output.line(&file.display().to_string()),
        None => output.line(&text),
    }
    output.note(&format!(
        "whoever has this can publish as {}; it is good for {}; take it back with: mirrorlog token revoke {}",
        args.publisher, args.expires, args.publisher
    ));
    Ok(0)
}

/// A file that is made now and filled later, or is gone again.
struct Reserved<'a>(Option<&'a Path>);

impl<'a> Reserved<'a> {
    fn of(path: &'a Path) -> Result<Self, Failure> {
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path);
        match made {
            Ok(_file) => Ok(Self(Some(path))),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let path = path.display();
                let text = format!("{path} exists already: choose another --out, or move it away");
                Err(Failure::text(CREATE, text))
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                let text = format!("cannot make {}", path.display());
                Err(Failure::new(CREATE, error.context(text)))
            }
        }
    }

    fn fill(mut self, text: &str) -> Result<(), Failure> {
        match self.0.take() {
            Some(path) => write_file(path, text, 0o600),
            None => Ok(()),
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // Empty, and of no use to anybody.
            std::fs::remove_file(path).ok();
        }
    }
}

async fn list(config: &Path, output: &Output) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    let reply = archive.admin().await?.tokens(TokensRequest {}).await?;
    for token in reply.into_inner().tokens {
        let PublishToken {
            publisher,
            channels,
            verbs,
            issued_ms,
            expires_ms,
        } = token;
        let time = |ms| jiff::Timestamp::from_millisecond(ms).or_exit(DATA);
        let (issued, expires) = (time(issued_ms)?, time(expires_ms)?);
        if output.json {
            output.json(&json!({
                "publisher": publisher, "channels": channels, "may": verbs,
                "issued": issued.to_string(), "expires": expires.to_string(),
                "expired": expires <= jiff::Timestamp::now(),
            }));
            continue;
        }
        let over = match expires <= jiff::Timestamp::now() {
            true => "expired",
            false => "until",
        };
        output.line(&format!(
            "{publisher}: {} on {}, {over} {}",
            verbs.join(", "),
            channels.join(", "),
            expires.strftime("%F")
        ));
    }
    Ok(0)
}

async fn revoke(config: &Path, publisher: String, output: &Output) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    let request = RevokeTokensRequest {
        publisher: publisher.clone(),
    };
    let mut admin = archive.admin().await?;
    let gone = admin.revoke_tokens(request).await?.into_inner().tokens;
    if gone == 0 {
        let text = format!("{publisher} has no token; see: mirrorlog token list");
        return Err(Failure::text(crate::failure::ABSENT, text));
    }
    if output.json {
        output.json(&json!({ "publisher": publisher, "revoked": gone }));
    } else {
        output.line(&format!("{gone} of {publisher} revoked"));
    }
    Ok(0)
}
