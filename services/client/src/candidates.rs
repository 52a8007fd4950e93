//! Which mirrors there are to choose from, and why not the others.

use mirrorlog_core::client::climb::Level;
use mirrorlog_core::client::sources::is_plain_url;
use mirrorlog_core::directory::place::Country;
use mirrorlog_core::id::{Build, ChannelId, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use runtime::boot::now;
use serde::{Deserialize, Serialize};

use crate::Client;
use crate::directory::{DirectoryError, by_level, is_web_url};
use crate::watch::Watch;

/// Mirrors asked for: more than anybody chooses from.
const MIRRORS_MAX: usize = 200;
/// Largest list for apt, in bytes: what apt takes.
const LIST_MAX_BYTES: usize = 1 << 20;

/// A channel that the directory has mirrors for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Its id.
    pub id: ChannelId,
    /// Where it is served.
    pub mount: Mount,
    /// Its shape.
    pub layout: Layout,
    /// The newest build, by the signed head; none before the first.
    pub newest: Option<Build>,
}

/// A mirror that may be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: MirrorId,
    /// Its URL, without a slash at the end.
    pub url: String,
    /// Its country, when the directory knows it.
    pub country: Option<Country>,
    /// Its pool.
    pub pool: PoolId,
    /// How near it is, in the directory's word.
    pub tier: String,
    /// How far it is.
    pub level: Level,
    /// Bytes a second of earlier real downloads or probes; none when nothing is known any more.
    pub known: Option<f64>,
}

impl Candidate {
    /// Where a mount is live on it.
    pub fn live(&self, mount: &Mount) -> String {
        format!("{}{mount}/", self.url)
    }
}

/// A mirror that is not offered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Excluded {
    /// Its id.
    pub id: String,
    /// Why not.
    pub reason: String,
}

/// The mirrors for a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// The build that those offered are complete at; none while nobody has any.
    pub build: Option<Build>,
    /// From near to far, inside a level by what is known of their speed.
    pub offered: Vec<Candidate>,
    /// The others.
    pub excluded: Vec<Excluded>,
}

#[derive(Debug, Deserialize, Serialize)]
struct OfferAnswer {
    build: Option<u64>,
    mirrors: Vec<OfferedAnswer>,
    #[serde(default)]
    excluded: Vec<Excluded>,
}

#[derive(Debug, Deserialize, Serialize)]
struct OfferedAnswer {
    id: String,
    url: String,
    tier: String,
    pool: String,
    country: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct CarriedAnswers {
    channels: Vec<CarriedAnswer>,
}

#[derive(Debug, Deserialize, Serialize)]
struct CarriedAnswer {
    channel: String,
    mount: String,
    layout: String,
    build: Option<u64>,
}

impl Client {
    /// Every channel that the directory has mirrors for, those of one mount in the order in which they win paths.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn carried(&self, watch: &dyn Watch) -> Result<Vec<Carried>, DirectoryError> {
        let directory = &self.0.directory;
        let answer: CarriedAnswers = directory.ask("/v1/channels", &[], "carried", watch).await?;
        let known = answer.channels.iter().filter_map(|one| {
            Some(Carried {
                id: one.channel.parse().ok()?,
                mount: Mount::new(&one.mount).ok()?,
                layout: one.layout.parse().ok()?,
                newest: one.build.and_then(Build::new),
            })
        });
        Ok(known.collect())
    }

    /// The mirrors for a channel, from near to far, and why not the others. Asks no mirror.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn candidates(
        &self,
        channel: &ChannelId,
        watch: &dyn Watch,
    ) -> Result<Candidates, DirectoryError> {
        let query = self.query(channel);
        let name = format!("offer-{channel}");
        let directory = &self.0.directory;
        let answer: OfferAnswer = directory.ask("/v1/mirrors", &query, &name, watch).await?;
        let now = now();
        let candidate = |one: &OfferedAnswer| {
            let url = usable(&one.url)?;
            let known = self
                .0
                .state
                .speed(&url)
                .filter(|known| !known.is_forgotten(now));
            Some(Candidate {
                id: one.id.parse().ok()?,
                country: one
                    .country
                    .as_ref()
                    .and_then(|country| country.parse().ok()),
                pool: one.pool.parse().ok()?,
                tier: one.tier.clone(),
                level: Level::of_tier(&one.tier),
                known: known.map(|known| known.bytes_per_s),
                url,
            })
        };
        // What is not of the expected form is left out: one bad line costs no other.
        let offered: Vec<Candidate> = answer.mirrors.iter().filter_map(candidate).collect();
        Ok(Candidates {
            build: answer.build.and_then(Build::new),
            offered: by_level(offered, |one| one.level, |one| one.known),
            excluded: answer.excluded,
        })
    }

    /// The directory's list for apt.
    ///
    /// # Errors
    /// [`DirectoryError`]. No earlier list stands in for it: it is written into a file, where the last one is already.
    pub async fn apt_list(&self, channel: &ChannelId) -> Result<String, DirectoryError> {
        let directory = &self.0.directory;
        let query = self.query(channel);
        let bytes = directory
            .fresh("/mirrors.txt", &query, LIST_MAX_BYTES)
            .await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn query(&self, channel: &ChannelId) -> Vec<(&'static str, String)> {
        let mut query = vec![
            ("channel", channel.to_string()),
            ("limit", MIRRORS_MAX.to_string()),
        ];
        query.extend(
            self.0
                .options
                .country
                .map(|country| ("country", country.to_string())),
        );
        query
    }
}

/// A mirror's URL as it is written into files and shells, without a slash at the end. None for what a directory
/// should not have said: a person pastes it.
fn usable(text: &str) -> Option<String> {
    (is_web_url(text) && is_plain_url(text)).then(|| text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_a_shell_would_run_is_no_mirror() {
        assert_eq!(
            usable("https://m1:8443/a/"),
            Some("https://m1:8443/a".to_owned())
        );
        for bad in [
            "http://m1/$(touch${IFS}x)",
            "http://m1/;id",
            "http://m1/?a=b",
            "http://m1/#a",
            "http://m1/a b",
            "file:///etc",
            "HTTP://m1",
            "http:/m1",
            "https:m1",
            "m1",
        ] {
            assert_eq!(usable(bad), None, "{bad}");
        }
    }
}
