//! `mirror invite` and `mirror enroll`: how a mirror joins a network.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use mirrorlog_core::id::MirrorId;
use runtime::log::access::{Credentials, KeyPair};
use runtime::tls::Request;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use wire::v1::enroll_client::EnrollClient;
use wire::v1::{InviteRequest, JoinReply, JoinRequest, WithdrawRequest};

use super::ask::Archive;
use super::line;
use super::nats_config::write_file;
use super::write_key;
use crate::args::{EnrollArgs, InviteArgs};
use crate::failure::{CONFIG, CREATE, DATA, DOWN, Failure, IO, OrExit as _, make_dir};
use crate::output::Output;

const MIRROR: &str = include_str!("../../../../deploy/mirror.toml");
/// How every token begins; the number is that of its form.
const PREFIX: &str = "mle1.";
/// Largest token that is read, in bytes.
const TOKEN_MAX_BYTES: u64 = 16 * 1024;
const TIMEOUT: Duration = Duration::from_secs(20);

/// What a token says. It is a secret: whoever has it first is the mirror.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Token {
    /// Where it is shown.
    address: String,
    mirror: String,
    /// Hex.
    secret: String,
    /// The authority (PEM) by which that place is known.
    ca: String,
}

impl Token {
    fn print(&self) -> Result<String, Failure> {
        line::print(PREFIX, self)
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        line::parse(PREFIX, text).ok_or_else(|| {
            Failure::text(
                DATA,
                "this is no token: copy the whole line that `mirrorlog mirror invite` printed",
            )
        })
    }
}

/// Makes a token.
pub(crate) async fn invite(
    config: &Path,
    args: &InviteArgs,
    output: &Output,
) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    let request = InviteRequest {
        mirror: args.mirror.to_string(),
        pool: args.pool.to_string(),
        hosts: args.host.clone(),
        lasts_ms: u64::try_from(args.expires.0.as_millis()).unwrap_or(u64::MAX),
        again: args.again,
    };
    let reply = archive.admin().await?.invite(request).await?.into_inner();
    let token = Token {
        address: reply.address,
        mirror: args.mirror.to_string(),
        secret: hex::encode(&reply.secret),
        ca: reply.ca,
    };
    let text = token.print()?;
    if output.json {
        output.json(&json!({ "mirror": token.mirror, "token": text, "address": token.address }));
        return Ok(0);
    }
    output.line(&text);
    output.note(&format!(
        "give this line to the operator of {} by a way that nobody else reads; it is good once, for {}",
        args.mirror, args.expires
    ));
    Ok(0)
}

/// Withdraws a mirror's tokens.
pub(crate) async fn uninvite(
    config: &Path,
    mirror: &MirrorId,
    output: &Output,
) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    let request = WithdrawRequest {
        mirror: mirror.to_string(),
    };
    let reply = archive.admin().await?.withdraw(request).await?.into_inner();
    if output.json {
        output.json(&json!({ "mirror": mirror.as_str(), "withdrawn": reply.invitations }));
    } else {
        output.line(&format!(
            "{} tokens of {mirror} withdrawn",
            reply.invitations
        ));
    }
    Ok(0)
}

/// Joins.
pub(crate) async fn enroll(args: &EnrollArgs, output: &Output) -> Result<u8, Failure> {
    let token = Token::parse(&read_token(&args.token)?)?;
    let id = MirrorId::new(&token.mirror).or_exit(DATA)?;
    make_dir(&args.dir)?;
    let dir = std::path::absolute(&args.dir).or_exit(CREATE)?;
    let config = dir.join("mirror.toml");
    if config.exists() {
        let text = format!(
            "{} exists already: choose another --dir, or move it away",
            config.display()
        );
        return Err(Failure::text(CREATE, text));
    }
    let public = write_key(&dir, id.as_str())?;
    let user = nats_key(&dir.join("nats.nk"))?;
    // Kept until the answer is there: the same token counts again for the same keys.
    let request = Request::generate(id.as_str()).or_exit(CREATE)?;
    let report_key = runtime::key::read_public(&public).or_exit(CONFIG)?;
    let joined = join(
        &token,
        JoinRequest {
            secret: hex::decode(&token.secret).or_exit(DATA)?.into(),
            mirror: token.mirror.clone(),
            report_key: wire::signify::public_to_bytes(&report_key).to_vec().into(),
            nats_user: user.public_key(),
            certificate_request: request.pem.clone(),
        },
    )
    .await?;
    let credentials = Credentials::print(&joined.nats_token, &user).or_exit(CREATE)?;
    secret(&dir.join("nats.creds"), &credentials)?;
    secret(&dir.join("tls.key"), &request.key)?;
    plain(&dir.join("tls.pem"), joined.certificate.as_bytes())?;
    plain(&dir.join("ca.pem"), token.ca.as_bytes())?;
    plain(&dir.join("guests.pem"), joined.guests.as_bytes())?;
    let trusted = write_trusted(&dir, &joined)?;
    plain(&config, configuration(&id, &joined, &trusted).as_bytes())?;
    if output.json {
        output.json(&json!({ "mirror": token.mirror, "config": config, "key": public }));
        return Ok(0);
    }
    output.line(&format!(
        "{id} has joined; its configuration is {}",
        config.display()
    ));
    output.line(&format!(
        "look through it, then run: mirrorlog --config {} mirror serve",
        config.display()
    ));
    output.line(&format!(
        "its reports count when the archive's operators have put {} into the roster",
        public.display()
    ));
    Ok(0)
}

async fn join(token: &Token, request: JoinRequest) -> Result<JoinReply, Failure> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&token.ca));
    let endpoint = Endpoint::from_shared(format!("https://{}", token.address)).or_exit(DATA)?;
    let endpoint = endpoint.tls_config(tls).or_exit(DATA)?;
    let endpoint = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    // A connection that is taken and not answered has no end of its own.
    let connected = tokio::time::timeout(TIMEOUT, endpoint.connect()).await;
    let connected = connected.map_err(anyhow::Error::from);
    let connected = connected.and_then(|connected| Ok(connected?));
    let channel = connected
        .with_context(|| format!("the archive does not answer on {}", token.address))
        .or_exit(DOWN)?;
    Ok(EnrollClient::new(channel).join(request).await?.into_inner())
}

/// Whom the mirror believes; gives the lines of its configuration.
fn write_trusted(dir: &Path, joined: &JoinReply) -> Result<Trusted, Failure> {
    if !joined.root_document.is_empty() {
        plain(&dir.join("root.mlr"), &joined.root_document)?;
        return Ok(Trusted::Root);
    }
    let mut files = Vec::new();
    for (number, key) in joined.archive_keys.iter().enumerate() {
        let key = wire::signify::public_from_bytes(key).or_exit(DATA)?;
        let name = match number {
            0 => "archive.pub".to_owned(),
            number => format!("archive-{number}.pub"),
        };
        let text = wire::signify::print_public(&key, "mirrorlog archive public key");
        plain(&dir.join(&name), text.as_bytes())?;
        files.push(format!("\"{name}\""));
    }
    Ok(Trusted::Keys(files.join(", ")))
}

enum Trusted {
    Root,
    Keys(String),
}

/// The sample, with what is known filled in.
fn configuration(id: &MirrorId, joined: &JoinReply, trusted: &Trusted) -> String {
    let (keys, root) = match trusted {
        Trusted::Root => (
            String::new(),
            "\n[trust]\nroot = \"root.mlr\"           # who speaks for the archive; newer versions come by themselves\n",
        ),
        Trusted::Keys(files) => (format!("keys = [{files}]\n"), ""),
    };
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let lines = [
        ("id = \"nz1\"", format!("id = \"{id}\"")),
        ("pool = \"nz\"", format!("pool = {}", quoted(&joined.pool))),
        ("key = \"mirror.sec\"", format!("key = \"{id}.sec\"")),
        ("send mirror.pub to", format!("send {id}.pub to")),
        (
            "fetch = \"archive.example.org:7070\"\n",
            format!("fetch = {}\n", quoted(&joined.fetch)),
        ),
        ("keys = [\"archive.pub\"]\n", keys),
        (
            "url = \"nats://archive.example.org:4222\"\n",
            format!(
                "url = {}\ncredentials = \"nats.creds\"\nca = \"ca.pem\"\n",
                quoted(&joined.nats_url)
            ),
        ),
    ];
    let filled = lines.iter().fold(MIRROR.to_owned(), |text, (from, to)| {
        text.replacen(from, to, 1)
    });
    format!(
        "{filled}\n[tls]\nca = \"ca.pem\"\nguests = \"guests.pem\"\ncert = \"tls.pem\"\nkey = \"tls.key\"\n{root}"
    )
}

fn read_token(given: &str) -> Result<String, Failure> {
    let mut text = String::new();
    match given.strip_prefix('@') {
        None if given != "-" => return Ok(given.to_owned()),
        None => std::io::stdin()
            .take(TOKEN_MAX_BYTES)
            .read_to_string(&mut text),
        Some(file) => std::fs::File::open(file)
            .and_then(|file| file.take(TOKEN_MAX_BYTES).read_to_string(&mut text)),
    }
    .with_context(|| format!("cannot read the token ({given})"))
    .or_exit(IO)?;
    Ok(text)
}

/// The key of the mirror's user; made once.
fn nats_key(path: &PathBuf) -> Result<KeyPair, Failure> {
    if path.exists() {
        let seed = std::fs::read_to_string(path).or_exit(IO)?;
        return KeyPair::from_seed(seed.trim())
            .with_context(|| format!("{} holds no NATS key", path.display()))
            .or_exit(CONFIG);
    }
    let key = KeyPair::new_user();
    secret(path, &format!("{}\n", key.seed().or_exit(CREATE)?))?;
    Ok(key)
}

fn secret(path: &Path, text: &str) -> Result<(), Failure> {
    write_file(path, text, 0o600)
}

fn plain(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_file(path, bytes, 0o644)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_is_one_line_that_reads_back() {
        let token = Token {
            address: "archive.example.org:7073".into(),
            mirror: "nz9".into(),
            secret: "00ff".into(),
            ca: "-----BEGIN CERTIFICATE-----\n".into(),
        };
        let text = token.print().unwrap();
        assert!(!text.contains(char::is_whitespace));
        assert_eq!(Token::parse(&format!(" {text}\n")).unwrap().mirror, "nz9");
        for bad in ["", "mle1.", "mle1.zz", "x", &text[..text.len() - 2]] {
            let refused = Token::parse(bad).map(|token| token.mirror);
            assert_eq!(refused.unwrap_err().code, DATA, "{bad}");
        }
    }

    #[test]
    fn the_configuration_that_is_written_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let joined = JoinReply {
            pool: "nz".into(),
            fetch: "a.example.org:7070".into(),
            nats_url: "tls://a.example.org:4222".into(),
            ..JoinReply::default()
        };
        let id = MirrorId::new("nz9").unwrap();
        for trusted in [Trusted::Root, Trusted::Keys("\"archive.pub\"".into())] {
            let file = dir.path().join("mirror.toml");
            std::fs::write(&file, configuration(&id, &joined, &trusted)).unwrap();
            let config = mirror::config::Config::load(&file).unwrap();
            assert_eq!(config.mirror.id, id);
            assert_eq!(config.mirror.key, dir.path().join("nz9.sec"));
            assert_eq!(config.archive.fetch, "a.example.org:7070");
            assert_eq!(config.nats.url, "tls://a.example.org:4222");
            assert_eq!(config.nats.credentials, Some(dir.path().join("nats.creds")));
            assert_eq!(config.trust.is_some(), matches!(trusted, Trusted::Root));
            assert_eq!(
                config.archive.keys.len(),
                usize::from(config.trust.is_none())
            );
            assert!(config.tls.is_some());
        }
    }
}
