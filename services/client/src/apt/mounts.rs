//! Which channels a URI may be of, and its path there.

use mirrorlog_core::id::ChannelId;
use mirrorlog_core::url::Asked;
use reqwest::Url;

use crate::directory::Channel;

/// A URI of apt's, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The directory's URL.
    pub(super) directory: String,
    /// The path, mount included, decoded.
    path: Vec<u8>,
}

impl Wanted {
    /// Reads `mirrorlog://host[:port]/mount/path`; `mirrorlog+https` asks the directory over TLS.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(uri: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{uri} is no URI of this method: {why}");
        let (scheme, rest) = uri.split_once(':').ok_or_else(|| bad("it has no scheme"))?;
        let scheme = match scheme {
            "mirrorlog" | "mirrorlog+http" => "http",
            "mirrorlog+https" => "https",
            _other => return Err(bad("it begins with mirrorlog://")),
        };
        let host = rest
            .strip_prefix("//")
            .ok_or_else(|| bad("it has no host"))?;
        if host.starts_with('/') {
            return Err(bad("it has no host"));
        }
        // Of a scheme that it knows, the parser takes host and port apart.
        let url =
            Url::parse(&format!("{scheme}:{rest}")).map_err(|error| bad(&error.to_string()))?;
        let host = url.host_str().ok_or_else(|| bad("it has no host"))?;
        let port = url
            .port()
            .map_or_else(String::new, |port| format!(":{port}"));
        let directory = format!("{scheme}://{host}{port}");
        // As apt wrote it: the parser would resolve dots.
        let raw = rest.trim_start_matches('/');
        let raw = raw.find('/').map_or("/", |at| &raw[at..]);
        let asked = Asked::parse(raw).map_err(|error| bad(&error.to_string()))?;
        Ok(Self {
            directory,
            path: asked.path,
        })
    }

    /// The directory's URL.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// The path, mount included, decoded.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The channels of the longest mount that the path is below, in the order in which they win paths, and the path
    /// there; none when nothing is mounted there.
    pub(super) fn find<'a>(&self, channels: &'a [Channel]) -> Option<(Vec<&'a ChannelId>, &[u8])> {
        let below = |channel: &Channel| {
            let mount = &channel.mount.as_str().as_bytes()[1..];
            let rest = self.path.strip_prefix(mount)?;
            rest.strip_prefix(b"/")
        };
        let found = channels
            .iter()
            .filter_map(|channel| Some((channel, below(channel)?)));
        let (first, rest) = found.min_by_key(|(_, rest)| rest.len())?;
        let here = channels
            .iter()
            .filter(|channel| channel.mount == first.mount);
        Some((here.map(|channel| &channel.id).collect(), rest))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mirrorlog_core::id::Mount;

    use super::*;

    #[test]
    fn a_uri_names_a_directory_and_a_path() {
        let wanted = Wanted::parse("mirrorlog://d.example:8080/ubuntu/pool/a%20b+c").unwrap();
        assert_eq!(
            (wanted.directory.as_str(), wanted.path.as_slice()),
            ("http://d.example:8080", &b"ubuntu/pool/a b+c"[..])
        );
        let secure = Wanted::parse("mirrorlog+https://d.example/x").unwrap();
        assert_eq!(secure.directory, "https://d.example");
        for bad in [
            "mirrorlog:///x",
            "http://d/x",
            "mirrorlog://d/../x",
            "mirrorlog://d/a%2fb",
            "nothing",
        ] {
            assert!(Wanted::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_mount_wins_and_its_channels_keep_their_order() {
        let channel = |id: &str, mount: &str| Channel {
            id: id.parse().unwrap(),
            mount: Mount::new(mount).unwrap(),
        };
        let channels = [
            channel("all", "/pub"),
            channel("noble-security", "/pub/ubuntu"),
            channel("noble", "/pub/ubuntu"),
        ];
        let find = |uri: &str| {
            let wanted = Wanted::parse(uri).unwrap();
            let (ids, rest) = wanted.find(&channels)?;
            let ids: Vec<&str> = ids.into_iter().map(ChannelId::as_str).collect();
            Some((ids.join(" "), String::from_utf8(rest.to_vec()).unwrap()))
        };
        assert_eq!(
            find("mirrorlog://d/pub/ubuntu/dists/x").unwrap(),
            ("noble-security noble".into(), "dists/x".into())
        );
        assert_eq!(
            find("mirrorlog://d/pub/ubuntu2/x").unwrap(),
            ("all".into(), "ubuntu2/x".into())
        );
        assert_eq!(find("mirrorlog://d/debian/x"), None);
    }
}
