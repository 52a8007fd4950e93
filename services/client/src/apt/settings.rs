//! What apt's configuration says, as it comes in message 601.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use super::message::{Message, is_true};
use crate::options::Proxy;

/// apt's configuration; names in lower case, as apt does not tell cases apart.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<String, Vec<String>>);

/// Longest time without progress, when apt does not say.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Settings {
    /// Reads `Config-Item: NAME=VALUE` fields, in which `%XX` stands for what a line cannot hold.
    pub fn of(message: &Message) -> Self {
        let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for item in message.all("Config-Item") {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            // A list's items have names that end in colons.
            let name = decode(name).to_ascii_lowercase();
            let name = name.trim_end_matches(':').to_owned();
            settings.entry(name).or_default().push(decode(value));
        }
        Self(settings)
    }

    fn get(&self, name: &str) -> Option<&str> {
        let values = self.0.get(&name.to_ascii_lowercase())?;
        values
            .last()
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Of this method, else of apt's own one for HTTP.
    fn method(&self, name: &str) -> Option<&str> {
        self.get(&format!("Acquire::mirrorlog::{name}"))
            .or_else(|| self.get(&format!("Acquire::http::{name}")))
    }

    /// The archive's public keys: `Acquire::mirrorlog::Key`, or the environment's `MIRRORLOG_KEY`.
    pub fn keys(&self) -> Vec<PathBuf> {
        let named = self.0.get("acquire::mirrorlog::key").into_iter().flatten();
        let named: Vec<PathBuf> = named
            .filter(|file| !file.is_empty())
            .map(PathBuf::from)
            .collect();
        if named.is_empty() {
            return std::env::var_os("MIRRORLOG_KEY")
                .map(PathBuf::from)
                .into_iter()
                .collect();
        }
        named
    }

    /// `Acquire::mirrorlog::Country`, or the environment's `MIRRORLOG_COUNTRY`.
    pub fn country(&self) -> Option<String> {
        let named = self.get("Acquire::mirrorlog::Country").map(str::to_owned);
        named
            .or_else(|| std::env::var("MIRRORLOG_COUNTRY").ok())
            .filter(|country| !country.is_empty())
    }

    /// `Acquire::mirrorlog::Feedback`: true when the directory may be told how mirrors did.
    pub fn feedback(&self) -> bool {
        self.get("Acquire::mirrorlog::Feedback")
            .is_some_and(is_true)
    }

    /// `Acquire::mirrorlog::Wait`, in seconds: how long a build is waited for that nobody has yet.
    pub fn wait(&self) -> Duration {
        let seconds = self
            .get("Acquire::mirrorlog::Wait")
            .and_then(|seconds| seconds.parse().ok());
        Duration::from_secs(seconds.unwrap_or(0))
    }

    /// `Acquire::mirrorlog::Timeout` or `Acquire::http::Timeout`, in seconds.
    pub fn timeout(&self) -> Duration {
        let seconds = self
            .method("Timeout")
            .and_then(|seconds| seconds.parse().ok());
        seconds
            .filter(|seconds| *seconds > 0)
            .map_or(TIMEOUT, Duration::from_secs)
    }

    /// Where lists, heads and speeds are kept: `mirrorlog` in apt's cache.
    pub fn state(&self) -> Option<PathBuf> {
        let root = PathBuf::from(self.get("RootDir").unwrap_or("/"))
            .join(self.get("Dir").unwrap_or("/").trim_start_matches('/'));
        let cache = self.get("Dir::Cache")?;
        let cache = if cache.starts_with('/') {
            PathBuf::from(cache)
        } else {
            root.join(cache)
        };
        Some(cache.join("mirrorlog"))
    }

    /// Whose rights are enough: `APT::Sandbox::User`.
    pub fn user(&self) -> Option<&str> {
        self.get("APT::Sandbox::User")
            .filter(|user| *user != "root")
    }

    /// True when what happens is written to standard error: `Debug::Acquire::mirrorlog`.
    pub fn debug(&self) -> bool {
        self.get("Debug::Acquire::mirrorlog").is_some_and(is_true)
    }

    /// Proxies as apt's own methods choose them: for the host, for the scheme, else the environment's.
    pub(super) fn proxy(&self) -> Proxy {
        let settings = self.clone();
        Proxy(Arc::new(move |url| {
            settings.proxy_for(url, |name| std::env::var(name).ok())
        }))
    }

    fn proxy_for(&self, url: &Url, env: impl Fn(&str) -> Option<String>) -> Option<Url> {
        let host = url.host_str().unwrap_or_default();
        let schemes: &[&str] = if url.scheme() == "https" {
            &["mirrorlog", "https", "http"]
        } else {
            &["mirrorlog", "http"]
        };
        let by_host = schemes
            .iter()
            .find_map(|scheme| self.get(&format!("Acquire::{scheme}::Proxy::{host}")));
        let by_scheme = || {
            schemes
                .iter()
                .find_map(|scheme| self.get(&format!("Acquire::{scheme}::Proxy")))
        };
        let named = by_host.or_else(by_scheme).map(str::to_owned);
        match named {
            Some(named) => Proxy::read(&named),
            None => Proxy::by_environment(url, env),
        }
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|two| std::str::from_utf8(two).ok());
        let escaped = escaped.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn settings(items: &[&str]) -> Settings {
        let message = items
            .iter()
            .fold(Message::new(601, "Configuration"), |message, item| {
                message.with("Config-Item", item)
            });
        Settings::of(&message)
    }

    #[test]
    fn names_are_found_in_any_case_and_lists_are_whole() {
        let settings = settings(&[
            "Dir=/",
            "Dir::Cache=var/cache/apt",
            "acquire::HTTP::Timeout=3",
            "Acquire::mirrorlog::Key::=/a%20b",
            "Acquire::mirrorlog::Key::=/c",
            "APT::Sandbox::User=_apt",
            "Acquire::mirrorlog::Wait=60",
            "Empty=",
        ]);
        assert_eq!(settings.timeout(), Duration::from_secs(3));
        assert_eq!(
            settings.keys(),
            [PathBuf::from("/a b"), PathBuf::from("/c")]
        );
        assert_eq!(
            settings.state().unwrap(),
            PathBuf::from("/var/cache/apt/mirrorlog")
        );
        assert_eq!(
            (
                settings.user(),
                settings.wait().as_secs(),
                settings.feedback()
            ),
            (Some("_apt"), 60, false)
        );
        assert_eq!(settings.get("empty"), None);
    }

    #[test]
    fn proxies_are_chosen_as_apt_does() {
        let none = |_: &str| None;
        let url = |text: &str| Url::parse(text).unwrap();
        let host = |settings: &Settings, target: &str| {
            settings
                .proxy_for(&url(target), none)
                .map(|proxy| proxy.host_str().unwrap().to_owned())
        };
        let both = settings(&[
            "Acquire::http::Proxy=http://p:3128",
            "Acquire::http::Proxy::m1=DIRECT",
        ]);
        assert_eq!(host(&both, "http://m1/x"), None);
        assert_eq!(host(&both, "http://m2/x").unwrap(), "p");
        assert_eq!(host(&both, "https://m2/x").unwrap(), "p");
        let own = settings(&[
            "Acquire::http::Proxy=http://p:3128",
            "Acquire::mirrorlog::Proxy=q:1",
        ]);
        assert_eq!(host(&own, "http://m2/x").unwrap(), "q");
        let env = |name: &str| match name {
            "http_proxy" => Some("http://e:1".to_owned()),
            "no_proxy" => Some("localhost, .example.org".to_owned()),
            _other => None,
        };
        let bare = settings(&[]);
        let target = |text: &str| bare.proxy_for(&url(text), env).is_some();
        assert!(
            target("http://m/x") && !target("https://m/x") && !target("http://a.example.org/x")
        );
        assert!(!target("http://localhost/x") && target("http://notlocalhost/x"));
        assert!(
            settings(&["Acquire::http::Proxy=DIRECT"])
                .proxy_for(&url("http://m/x"), env)
                .is_none()
        );
    }
}
