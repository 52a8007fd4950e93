//! Asks the directory which mirrors there are, and goes on with its last answer when it is away.

use std::time::Duration;

use mirrorlog_core::client::climb::Level;
use mirrorlog_core::directory::place::Country;
use mirrorlog_core::id::{Build, ChannelId, MirrorId, Mount};
use mirrorlog_core::time::Timestamp;
use reqwest::StatusCode;
use runtime::boot::now;
use serde::{Deserialize, Serialize};

use crate::options::Options;
use crate::source::{Reach, Source, Web, WebError};
use crate::state::State;
use crate::watch::{Event, Watch};

/// Mirrors asked for: more than anybody climbs.
const MIRRORS_MAX: usize = 200;
/// Largest answer, in bytes.
const ANSWER_MAX_BYTES: usize = 4 << 20;
/// Longest text of a refusal that is shown.
const REFUSAL_MAX: usize = 300;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// No answer, and no earlier one is kept.
    #[error(
        "the directory {url} does not answer ({reason}), and no earlier list is here; is it running?"
    )]
    Down {
        /// Its URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// It knows no such thing.
    #[error("the directory {url} says: {text}")]
    Unknown {
        /// Its URL.
        url: String,
        /// What it says.
        text: String,
    },
    /// The build was taken back.
    #[error("the directory {url} says: {text}")]
    Retracted {
        /// Its URL.
        url: String,
        /// What it says.
        text: String,
    },
    /// Whoever answers there is something else.
    #[error("{url} is no directory: it answers {text:?}; is that a mirror's URL?")]
    Other {
        /// The URL.
        url: String,
        /// What it says.
        text: String,
    },
    /// It does not understand the question.
    #[error("the directory {url} refuses the question: {text}")]
    Refused {
        /// Its URL.
        url: String,
        /// What it says.
        text: String,
    },
}

/// The mirrors for a channel, from near to far.
#[derive(Clone, Debug)]
pub(crate) struct List {
    /// The build that is wanted where the client is; none while nobody has any.
    pub(crate) build: Option<Build>,
    pub(crate) sources: Vec<Source>,
}

impl List {
    /// False when there is nobody but the archive.
    pub(crate) fn has_mirrors(&self) -> bool {
        self.sources
            .iter()
            .any(|source| source.level() != Level::Universe)
    }
}

/// A channel, as the directory serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) mount: Mount,
}

#[derive(Debug, Deserialize, Serialize)]
struct MirrorsAnswer {
    build: Option<u64>,
    mirrors: Vec<MirrorAnswer>,
    #[serde(default)]
    universe: Option<UniverseAnswer>,
}

#[derive(Debug, Deserialize, Serialize)]
struct MirrorAnswer {
    id: String,
    url: String,
    tier: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct UniverseAnswer {
    fetch: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct ChannelsAnswer {
    channels: Vec<ChannelAnswer>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ChannelAnswer {
    channel: String,
    mount: String,
}

/// A directory.
pub(crate) struct Directory {
    url: String,
    country: Option<Country>,
    reach: Reach,
    web: Web,
    state: State,
}

impl Directory {
    pub(crate) fn new(options: &Options, web: Web, state: State) -> Self {
        Self {
            url: options.directory.clone(),
            country: options.country,
            reach: Reach::of(options),
            web,
            state,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The mirrors for a build of a channel; for the wanted one when none is named.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(crate) async fn mirrors(
        &self,
        channel: &ChannelId,
        build: Option<Build>,
        watch: &dyn Watch,
    ) -> Result<List, DirectoryError> {
        let mut query = vec![
            ("channel", channel.to_string()),
            ("limit", MIRRORS_MAX.to_string()),
        ];
        query.extend(build.map(|build| ("build", build.to_string())));
        query.extend(self.country.map(|country| ("country", country.to_string())));
        // An answer about a build that was named must not stand in for one about the wanted one.
        if build.is_some() {
            let answer = self.fresh("/v1/mirrors", &query, ANSWER_MAX_BYTES).await?;
            return Ok(self.list(self.parsed(&answer)?));
        }
        let name = format!("mirrors-{channel}");
        let answer: MirrorsAnswer = self.ask("/v1/mirrors", &query, &name, watch).await?;
        Ok(self.list(answer))
    }

    /// Every channel, those of one mount in the order in which they win paths.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(crate) async fn channels(&self, watch: &dyn Watch) -> Result<Vec<Channel>, DirectoryError> {
        let answer: ChannelsAnswer = self.ask("/v1/channels", &[], "channels", watch).await?;
        Ok(answer.channels.iter().filter_map(channel).collect())
    }

    fn parsed<T: for<'de> Deserialize<'de>>(&self, answer: &[u8]) -> Result<T, DirectoryError> {
        serde_json::from_slice(answer).map_err(|error| DirectoryError::Down {
            url: self.url.clone(),
            reason: format!("its answer is not to be read: {error}"),
        })
    }

    fn list(&self, answer: MirrorsAnswer) -> List {
        let mirrors = answer.mirrors.into_iter().filter_map(mirror);
        let mirrors = mirrors.map(|one| Source::mirror(one.id, one.url, one.level));
        let mut sources: Vec<Source> = mirrors.collect();
        let now = now();
        sources = by_level(sources, Source::level, |source| {
            let known = self.state.speed(source.url()?)?;
            (!known.is_forgotten(now)).then_some(known.bytes_per_s)
        });
        sources.extend(
            answer
                .universe
                .and_then(|universe| Source::universe(&universe.fetch, &self.reach)),
        );
        List {
            build: answer.build.and_then(Build::new),
            sources,
        }
    }

    /// Asks, and keeps the answer; the one kept last stands in for a directory that is away.
    pub(crate) async fn ask<T: Serialize + for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        query: &[(&str, String)],
        name: &str,
        watch: &dyn Watch,
    ) -> Result<T, DirectoryError> {
        let fresh = self.fresh(path, query, ANSWER_MAX_BYTES).await;
        let reason = match fresh.and_then(|bytes| self.parsed::<T>(&bytes)) {
            Ok(answer) => {
                self.state.keep(&self.url, name, &answer, now());
                return Ok(answer);
            }
            Err(DirectoryError::Down { reason, .. }) => reason,
            Err(
                error @ (DirectoryError::Unknown { .. }
                | DirectoryError::Other { .. }
                | DirectoryError::Retracted { .. }
                | DirectoryError::Refused { .. }),
            ) => return Err(error),
        };
        let Some(kept) = self.state.kept::<T>(&self.url, name) else {
            return Err(DirectoryError::Down {
                url: self.url.clone(),
                reason,
            });
        };
        let age_ms = now().ms_since(Timestamp::from_ms(kept.at_ms)).max(0);
        let age = Duration::from_millis(age_ms.unsigned_abs());
        watch.tell(Event::ListKept {
            age,
            reason: &reason,
        });
        Ok(kept.document)
    }

    /// Asks for what no earlier answer stands in for.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(crate) async fn fresh(
        &self,
        path: &str,
        query: &[(&str, String)],
        max_bytes: usize,
    ) -> Result<Vec<u8>, DirectoryError> {
        let (asked, url) = (format!("{}{path}", self.url), self.url.clone());
        match self.web.read(&asked, query, max_bytes).await {
            Ok((StatusCode::OK, bytes)) => Ok(bytes),
            Ok((status, text)) => {
                let text = plain(&text);
                Err(match status {
                    StatusCode::NOT_FOUND if !is_of_channels(&text) => {
                        DirectoryError::Other { url, text }
                    }
                    StatusCode::NOT_FOUND => DirectoryError::Unknown { url, text },
                    StatusCode::GONE => DirectoryError::Retracted { url, text },
                    StatusCode::BAD_REQUEST => DirectoryError::Refused { url, text },
                    _other => DirectoryError::Down {
                        url,
                        reason: format!("{status}: {text}"),
                    },
                })
            }
            Err(error) => Err(DirectoryError::Down {
                url,
                reason: short(&error),
            }),
        }
    }
}

/// A mirror, as a directory names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its URL, without a slash at the end.
    pub url: String,
    /// How near it is.
    pub level: Level,
}

/// What is not of the expected form is left out: one bad line costs no other.
fn mirror(one: MirrorAnswer) -> Option<Named> {
    let usable = is_web_url(&one.url);
    let id: MirrorId = one.id.parse().ok().filter(|_id| usable)?;
    Some(Named {
        id: id.to_string(),
        url: one.url.trim_end_matches('/').to_owned(),
        level: Level::of_tier(&one.tier),
    })
}

/// True for a URL of a web server as people, apt and the parser read it alike: the parser alone passes over line ends and
/// tabs, and takes `HTTP:` and `http:/host`.
pub(crate) fn is_web_url(text: &str) -> bool {
    let begins = ["http://", "https://"].map(|start| text.starts_with(start));
    let parsed = reqwest::Url::parse(text).is_ok_and(|url| url.has_host());
    begins.contains(&true) && parsed && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn channel(one: &ChannelAnswer) -> Option<Channel> {
    Some(Channel {
        id: one.channel.parse().ok()?,
        mount: Mount::new(&one.mount).ok()?,
    })
}

/// The mirrors in a directory's answer to `/v1/mirrors`, in its order.
///
/// # Errors
/// When it is no such answer.
pub fn read_mirrors(answer: &[u8]) -> Result<Vec<Named>, serde_json::Error> {
    let answer: MirrorsAnswer = serde_json::from_slice(answer)?;
    Ok(answer.mirrors.into_iter().filter_map(mirror).collect())
}

/// The channels and their mounts in a directory's answer to `/v1/channels`, in its order.
///
/// # Errors
/// When it is no such answer.
pub fn read_channels(answer: &[u8]) -> Result<Vec<(ChannelId, Mount)>, serde_json::Error> {
    let answer: ChannelsAnswer = serde_json::from_slice(answer)?;
    let known = answer.channels.iter().filter_map(channel);
    Ok(known.map(|one| (one.id, one.mount)).collect())
}

/// What is of each level, the nearest first, by what is known of its speed.
pub(crate) fn by_level<T: Clone>(
    all: Vec<T>,
    level: impl Fn(&T) -> Level,
    speed: impl Fn(&T) -> Option<f64>,
) -> Vec<T> {
    let mut ranked = Vec::with_capacity(all.len());
    for here in [
        Level::Country,
        Level::Continent,
        Level::World,
        Level::Universe,
    ] {
        let here: Vec<&T> = all.iter().filter(|one| level(one) == here).collect();
        let speeds: Vec<Option<f64>> = here.iter().map(|one| speed(one)).collect();
        let order = mirrorlog_core::client::speed::rank(&speeds);
        ranked.extend(order.into_iter().map(|index| here[index].clone()));
    }
    ranked
}

/// True for what a directory says of channels and builds that it does not know.
fn is_of_channels(text: &str) -> bool {
    ["unknown-channel", "unknown-build"]
        .iter()
        .any(|word| text.starts_with(word))
}

/// What it is, and the innermost cause: the way in between is the library's.
fn short(error: &WebError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    match causes.last() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Text of somebody else's on one line, without orders to a terminal.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    line.take(REFUSAL_MAX).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_would_forge_lines_is_no_mirror() {
        let read = |id: &str, url: &str| {
            let mirror = serde_json::json!({ "id": id, "url": url, "tier": "world" });
            let answer = serde_json::json!({ "build": 1, "mirrors": [mirror] });
            read_mirrors(answer.to_string().as_bytes()).unwrap()
        };
        let good = Named {
            id: "nz1".to_owned(),
            url: "https://m:8443/a".to_owned(),
            level: Level::World,
        };
        assert_eq!(read("nz1", "https://m:8443/a/"), [good]);
        for (id, url) in [
            ("nz1\u{1b}[2J", "http://m"),
            ("nz1\nnz2", "http://m"),
            ("", "http://m"),
            ("nz1", "http://m/\nhttp://n"),
            ("nz1", "http://m/\u{1b}[2J"),
            ("nz1", "ht\ttp://m"),
            ("nz1", "file:///m"),
            ("nz1", "HTTP://m"),
            ("nz1", "hTtps://m"),
            ("nz1", "http:/m"),
            ("nz1", "http:\\\\m"),
            ("nz1", "https:m"),
            ("nz1", "http://"),
        ] {
            assert_eq!(read(id, url), [], "{id:?} {url:?}");
        }
    }
}
