//! What a client is told.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::directory::place::Country;
use mirrorlog_core::sign::{PublicKey, TrustedKeys};
use reqwest::Url;
use runtime::trust::{TrustConfig, TrustError};

/// Longest time without progress before the next source is asked.
const STALL: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What makes a statement of the archive's count.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A signature by one of these keys.
    Keys(TrustedKeys),
    /// A signature by a key that the root document in force names.
    Root(runtime::trust::Trust),
    /// Nothing: whoever uses the files verifies them by other means, as apt does.
    Unverified,
}

impl Trust {
    /// Trusts these keys.
    pub fn keys(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self::Keys(TrustedKeys::new(keys))
    }

    /// Trusts what these files hold: public keys, or one root document. Of the latter newer versions are kept in `state`.
    /// Without a file nothing is verified.
    ///
    /// # Errors
    /// [`TrustError`], naming the file.
    pub fn of_files(files: &[PathBuf], state: Option<&Path>) -> Result<Self, TrustError> {
        if let [file] = files
            && runtime::trust::is_root(file)?
        {
            let root = file.clone();
            let trust = runtime::trust::Trust::open(&TrustConfig { root }, state)?;
            return Ok(Self::Root(trust));
        }
        let keys = files.iter().map(|file| runtime::key::read_public(file));
        let keys: Vec<PublicKey> = keys.collect::<Result<_, _>>()?;
        match keys.is_empty() {
            true => Ok(Self::Unverified),
            false => Ok(Self::keys(keys)),
        }
    }

    /// The keys of the archive, as they are now; `None` where nothing is verified.
    pub(crate) fn archive(&self) -> Option<std::sync::Arc<TrustedKeys>> {
        match self {
            Self::Keys(keys) => Some(std::sync::Arc::new(keys.clone())),
            Self::Root(trust) => Some(trust.archive().now()),
            Self::Unverified => None,
        }
    }
}

/// What becomes of heads whose time has passed: a frozen archive, or one that is away for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiredHeads {
    /// They do not count.
    Refuse,
    /// They count.
    Accept,
}

/// Says for each URL through which proxy it is asked for; none: directly.
#[derive(Clone)]
pub struct Proxy(pub Arc<ProxyOf>);

/// Gives the proxy for a URL.
pub type ProxyOf = dyn Fn(&Url) -> Option<Url> + Send + Sync;

impl Proxy {
    /// What `http_proxy`, `https_proxy` and `no_proxy` say, in small letters or capitals.
    pub fn environment() -> Self {
        Self(Arc::new(|url| {
            Self::by_environment(url, |name| {
                let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
                set(name).or_else(|| set(&name.to_ascii_uppercase()))
            })
        }))
    }

    pub(crate) fn by_environment(url: &Url, env: impl Fn(&str) -> Option<String>) -> Option<Url> {
        let host = url.host_str().unwrap_or_default();
        if env("no_proxy").is_some_and(|list| excepts(&list, host)) {
            return None;
        }
        let named = env(&format!("{}_proxy", url.scheme())).or_else(|| env("all_proxy"));
        Self::read(&named?)
    }

    /// A proxy's URL, or `host:port`; none for words that mean none.
    pub(crate) fn read(proxy: &str) -> Option<Url> {
        let none = ["", "DIRECT", "false"]
            .iter()
            .any(|none| proxy.eq_ignore_ascii_case(none));
        if none {
            return None;
        }
        let named = Url::parse(proxy).ok().filter(Url::has_host);
        named.or_else(|| Url::parse(&format!("http://{proxy}")).ok())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy")
    }
}

/// What a client is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory's URL.
    pub directory: String,
    /// Whose statements count.
    pub trust: Trust,
    /// The client's country; left out, the directory finds it by the address.
    pub country: Option<Country>,
    /// Folder for what lasts from run to run; left out, nothing does.
    pub state: Option<PathBuf>,
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest time without progress before the next source is asked.
    pub stall: Duration,
    /// What becomes of expired heads.
    pub expired: ExpiredHeads,
    /// True: what was seen of mirrors is told to the directory.
    pub feedback: bool,
    /// Through which proxy a URL is asked for; the environment says, unless told otherwise.
    pub proxy: Proxy,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// No URL.
    #[error("{0:?} is no URL of a directory: write http://HOST:PORT")]
    Directory(String),
    /// No key.
    #[error("no key is trusted: give the archive's public key")]
    NoKeys,
    /// TLS, or a proxy.
    #[error("the web client cannot be set up")]
    Web(#[source] reqwest::Error),
}

impl Options {
    /// The usual, for a directory.
    pub fn new(directory: &str, trust: Trust) -> Self {
        Self {
            directory: directory.to_owned(),
            trust,
            country: None,
            state: None,
            connect: CONNECT,
            stall: STALL,
            expired: ExpiredHeads::Refuse,
            feedback: false,
            proxy: Proxy::environment(),
        }
    }

    pub(crate) fn checked(mut self) -> Result<Self, OptionsError> {
        self.directory
            .truncate(self.directory.trim_end_matches('/').len());
        let url = Url::parse(&self.directory).ok();
        let usable =
            url.is_some_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        if !usable {
            return Err(OptionsError::Directory(self.directory));
        }
        if let Trust::Keys(keys) = &self.trust
            && keys.is_empty()
        {
            return Err(OptionsError::NoKeys);
        }
        Ok(self)
    }
}

/// True when a list such as `localhost,.example.org` names the host.
fn excepts(list: &str, host: &str) -> bool {
    list.split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .any(|one| {
            let name = one.trim_start_matches('.');
            one == "*"
                || host == name
                || host
                    .strip_suffix(name)
                    .is_some_and(|rest| rest.ends_with('.'))
        })
}
