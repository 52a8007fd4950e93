//! An archive on another machine: where it is, and the token for it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use archive::publish::{PublishError, Remote};
use serde::{Deserialize, Serialize};

use super::line;
use crate::args::RemoteArgs;
use crate::failure::{ABSENT, CONFIG, DATA, Failure, IO, OrExit as _};

/// How every token for publishing begins; the number is that of its form.
const PREFIX: &str = "mlp1.";
/// Largest token that is read, in bytes.
const TOKEN_MAX_BYTES: u64 = 16 * 1024;
/// Where publishers are listened to unless the URL says otherwise.
const PORT: u16 = 7074;

/// What a token says. It is a secret.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    /// Where it is shown.
    pub(crate) address: String,
    pub(crate) publisher: String,
    /// Hex.
    pub(crate) secret: String,
    /// The authority (PEM) by which that place is known.
    pub(crate) ca: String,
}

impl Token {
    pub(crate) fn print(&self) -> Result<String, Failure> {
        line::print(PREFIX, self)
    }

    fn parse(text: &str) -> Option<Self> {
        let token: Self = line::parse(PREFIX, text)?;
        let is_hex = token.secret.len() == 64 && hex::decode(&token.secret).is_ok();
        is_hex.then_some(token)
    }

    fn read(file: &Path) -> Result<Self, Failure> {
        use std::os::unix::fs::PermissionsExt as _;
        let cannot = || format!("cannot read the token {}", file.display());
        let opened = std::fs::File::open(file).map_err(|error| {
            let absent = error.kind() == std::io::ErrorKind::NotFound;
            let code = if absent { ABSENT } else { IO };
            Failure::new(code, anyhow::Error::new(error).context(cannot()))
        })?;
        let mode = opened.metadata().with_context(cannot).or_exit(IO)?;
        if !mode.is_file() {
            let text = format!("{}: a folder", cannot());
            return Err(Failure::text(DATA, text));
        }
        if mode.permissions().mode() & 0o077 != 0 {
            let file = file.display();
            let text = format!("the token {file} can be read by others; run: chmod 600 {file}");
            return Err(Failure::text(CONFIG, text));
        }
        let mut text = String::new();
        let read = opened.take(TOKEN_MAX_BYTES).read_to_string(&mut text);
        read.with_context(cannot).or_exit(IO)?;
        Self::parse(&text).ok_or_else(|| {
            let file = file.display();
            Failure::text(
                DATA,
                format!(
                    "{file} holds no token: it is one line that `mirrorlog token issue` printed"
                ),
            )
        })
    }
}

/// The archive that these arguments name; none for that of this machine.
pub(crate) fn archive(args: &RemoteArgs) -> Result<Option<Remote>, Failure> {
    let Some(file) = &args.token_file else {
        return Ok(None);
    };
    let token = Token::read(file)?;
    Ok(Some(Remote {
        address: match &args.archive {
            Some(url) => address(url)?,
            None => token.address,
        },
        ca: token.ca,
        secret: token.secret,
        cache: match &args.cache {
            Some(dir) => dir.clone(),
            None => cache(|name| std::env::var_os(name)).ok_or_else(|| {
                Failure::text(
                    CONFIG,
                    "there is no place to remember files: set HOME, or give --cache DIR",
                )
            })?,
        },
    }))
}

/// The configuration of this machine's archive, where no token names another.
pub(crate) fn or_config(config: Option<PathBuf>) -> Result<PathBuf, Failure> {
    config.ok_or_else(|| {
        Failure::text(
            CONFIG,
            "no archive given: use --config FILE or MIRRORLOG_CONFIG for that of this machine, --token-file F for another's",
        )
    })
}

/// `host:port` of a URL.
fn address(url: &str) -> Result<String, Failure> {
    let bad = |why: &str| Failure::text(CONFIG, format!("--archive {url}: {why}"));
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    if scheme != "https" {
        return Err(bad(
            "use https://HOST:PORT, the token must not be seen on the way",
        ));
    }
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
        return Err(bad("use https://HOST:PORT"));
    }
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    Ok(match after_address.contains(':') {
        true => host.to_owned(),
        false => format!("{host}:{PORT}"),
    })
}

/// Where the XDG base directories want it.
fn cache(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("mirrorlog/publish"))
}

/// With the exit code that it has.
pub(crate) fn failed(error: PublishError) -> Failure {
    let code = error.exit_code();
    Failure::new(code, error.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_is_one_line_that_reads_back() {
        let token = Token {
            address: "archive.example.org:7074".into(),
            publisher: "security".into(),
            secret: "0f".repeat(32),
            ca: "-----BEGIN CERTIFICATE-----\n".into(),
        };
        let text = token.print().unwrap();
        assert!(!text.contains(char::is_whitespace));
        let read = Token::parse(&format!(" {text}\n")).unwrap();
        assert_eq!(
            (read.publisher, read.secret),
            (token.publisher, token.secret)
        );
        for bad in ["", "mlp1.", "mlp1.zz", "x", &text[..text.len() - 2]] {
            assert!(Token::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_address_has_a_port_and_no_path() {
        let good = [
            ("https://a.example.org:1234", "a.example.org:1234"),
            ("https://a.example.org/", "a.example.org:7074"),
            ("a.example.org", "a.example.org:7074"),
            ("https://[::1]", "[::1]:7074"),
            ("https://[::1]:5", "[::1]:5"),
        ];
        for (url, expected) in good {
            assert_eq!(address(url).unwrap(), expected);
        }
        for bad in [
            "http://a",
            "https://",
            "https://a/b",
            "https://u@a",
            "ftp://a",
            "a b",
        ] {
            assert_eq!(address(bad).unwrap_err().code, CONFIG, "{bad}");
        }
    }

    #[test]
    fn the_cache_is_where_xdg_says() {
        let with = |xdg: Option<&str>, home: Option<&str>| {
            cache(|name| match name {
                "XDG_CACHE_HOME" => xdg.map(Into::into),
                _home => home.map(Into::into),
            })
        };
        let below = |dir: &str| Some(PathBuf::from(dir).join("mirrorlog/publish"));
        assert_eq!(with(Some("/c"), Some("/h")), below("/c"));
        assert_eq!(with(Some("relative"), Some("/h")), below("/h/.cache"));
        assert_eq!(with(None, None), None);
    }
}
