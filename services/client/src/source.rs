//! Who is asked: a mirror over HTTP, or the archive.

use std::sync::Arc;
use std::time::Duration;

use fetcher::web::{Pace, TooSlow};
use mirrorlog_core::client::climb::{Answer, Level};
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::limits::{PAGE_MAX_BYTES, STATEMENT_MAX_BYTES};
use mirrorlog_core::trust::RootVersion;
use reqwest::header::{ETAG, RANGE};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use crate::options::{Options, OptionsError, Proxy};
use crate::session::Trouble;
use crate::universe::Universe;

/// Connections kept to one host.
const CONNECTIONS: usize = 8;
/// Largest small answer: a status, or why something was refused.
const WORDS_MAX_BYTES: usize = 64 * 1024;
/// Fewest bytes in [`Options::stall`] that count as progress, unless an answer is at its end: whoever drips is as good as
/// silent. A link of 20 kbit/s brings six times as many.
pub(crate) const PROGRESS_BYTES: u64 = 4096;
/// Room for the signature before a signed statement.
const SIGNED_MAX_BYTES: usize = STATEMENT_MAX_BYTES + 4096;

/// HTTP as all sources are asked. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Web {
    client: Client,
    pub(crate) stall: Duration,
}

impl Web {
    pub(crate) fn new(options: &Options) -> Result<Self, OptionsError> {
        let proxy = options.proxy.clone();
        let through = reqwest::Proxy::custom(move |url| proxy.0(url));
        let builder = fetcher::web::builder(options.connect, options.stall, CONNECTIONS);
        let builder = builder.no_proxy().proxy(through);
        let client = builder.build().map_err(OptionsError::Web)?;
        Ok(Self {
            client,
            stall: options.stall,
        })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// For one question and its answer.
    pub(crate) fn pace(&self) -> Pace {
        Pace::new(PROGRESS_BYTES, self.stall)
    }

    /// Status and body of a small answer. It has to come on, and all of it has a limit too.
    pub(crate) async fn read(
        &self,
        url: &str,
        query: &[(&str, String)],
        max_bytes: usize,
    ) -> Result<(StatusCode, Vec<u8>), WebError> {
        let asked = timeout(self.stall * 3, self.read_slowly(url, query, max_bytes)).await;
        asked.unwrap_or(Err(WebError::Slow))
    }

    async fn read_slowly(
        &self,
        url: &str,
        query: &[(&str, String)],
        max_bytes: usize,
    ) -> Result<(StatusCode, Vec<u8>), WebError> {
        let ask = || self.client.get(url).query(query).send();
        // A connection that was kept may have been closed meanwhile.
        let asking = async {
            match ask().await {
                Err(error) if is_stale(&error) => ask().await,
                answer => answer,
            }
        };
        let mut pace = self.pace();
        let answer = pace.wait(asking).await??;
        let status = answer.status();
        let bytes = body(answer, max_bytes, &mut pace).await?;
        Ok((status, bytes))
    }
}

/// Why a small answer was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebError {
    #[error("{}", if .0.is_timeout() { "no answer in time" } else if .0.is_connect() { "no connection" } else { "the answer broke off" })]
    Http(#[from] reqwest::Error),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer did not come to its end in time")]
    Slow,
}

impl From<TooSlow> for WebError {
    fn from(_: TooSlow) -> Self {
        Self::Slow
    }
}

async fn body(
    mut answer: Response,
    max_bytes: usize,
    pace: &mut Pace,
) -> Result<Vec<u8>, WebError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = pace.wait(answer.chunk()).await?? {
        pace.came(chunk.len());
        if bytes.len() + chunk.len() > max_bytes {
            return Err(WebError::TooLarge(max_bytes));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// How the archive is reached.
pub(crate) struct Reach {
    proxy: Proxy,
    connect: Duration,
    stall: Duration,
}

impl Reach {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            proxy: options.proxy.clone(),
            connect: options.connect,
            stall: options.stall,
        }
    }
}

/// Somebody who may have it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Mirror(Arc<Mirror>),
    Universe(Arc<Universe>),
}

/// A mirror.
#[derive(Debug)]
pub(crate) struct Mirror {
    id: String,
    url: String,
    level: Level,
}

impl Source {
    pub(crate) fn mirror(id: String, url: String, level: Level) -> Self {
        Self::Mirror(Arc::new(Mirror { id, url, level }))
    }

    /// None for what is no address, and where a proxy is to be used: gRPC does not go through those.
    pub(crate) fn universe(fetch: &str, reach: &Reach) -> Option<Self> {
        let url = if fetch.contains("://") {
            fetch.to_owned()
        } else {
            format!("http://{fetch}")
        };
        let url = reqwest::Url::parse(&url).ok()?;
        if reach.proxy.0(&url).is_some() {
            return None;
        }
        let universe = Universe::new(fetch, reach.connect, reach.stall)?;
        Some(Self::Universe(Arc::new(universe)))
    }

    /// How people call it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Mirror(mirror) => &mirror.id,
            Self::Universe(_) => "the archive",
        }
    }

    /// The mirror's id, for those that feedback may be about.
    pub(crate) fn mirror_id(&self) -> Option<&str> {
        match self {
            Self::Mirror(mirror) => Some(&mirror.id),
            Self::Universe(_) => None,
        }
    }

    pub(crate) fn url(&self) -> Option<&str> {
        match self {
            Self::Mirror(mirror) => Some(&mirror.url),
            Self::Universe(_) => None,
        }
    }

    pub(crate) fn level(&self) -> Level {
        match self {
            Self::Mirror(mirror) => mirror.level,
            Self::Universe(_) => Level::Universe,
        }
    }

    /// The channel's head, as it was signed.
    pub(crate) async fn head(&self, web: &Web, channel: &ChannelId) -> Result<Vec<u8>, Answer> {
        match self {
            Self::Mirror(mirror) => {
                let path = format!("/@/{channel}/head");
                mirror.small(web, &path, SIGNED_MAX_BYTES, channel).await
            }
            Self::Universe(universe) => universe.head(channel).await,
        }
    }

    /// A root document, as it was signed. The archive itself is not asked: mirrors have what it has.
    pub(crate) async fn root(
        &self,
        web: &Web,
        channel: &ChannelId,
        version: RootVersion,
    ) -> Result<Vec<u8>, Answer> {
        match self {
            Self::Mirror(mirror) => {
                let path = format!("/@/root/{version}");
                let most = wire::root::SIGNED_ROOT_MAX_BYTES;
                mirror.small(web, &path, most, channel).await
            }
            Self::Universe(_) => Err(Answer::Missing),
        }
    }

    /// A build's snapshot, as it was signed.
    pub(crate) async fn snapshot(
        &self,
        web: &Web,
        channel: &ChannelId,
        build: Build,
    ) -> Result<Vec<u8>, Answer> {
        match self {
            Self::Mirror(mirror) => {
                let path = format!("/@/{channel}/{build}/snapshot");
                mirror.small(web, &path, SIGNED_MAX_BYTES, channel).await
            }
            Self::Universe(universe) => universe.snapshot(channel, build).await,
        }
    }

    /// A manifest page; its digest is checked.
    pub(crate) async fn page(
        &self,
        web: &Web,
        channel: &ChannelId,
        digest: &Digest,
    ) -> Result<Vec<u8>, Trouble> {
        let bytes = match self {
            Self::Mirror(mirror) => {
                let path = format!("/@/page/{digest}");
                mirror.small(web, &path, PAGE_MAX_BYTES, channel).await?
            }
            Self::Universe(universe) => universe.page(digest).await?,
        };
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(Answer::Corrupt.into())
        }
    }
}

impl Source {
    /// Builds that it holds, oldest first, by its own word.
    pub(crate) async fn retained(
        &self,
        web: &Web,
        channel: &ChannelId,
    ) -> Result<Vec<Build>, Answer> {
        let Self::Mirror(mirror) = self else {
            return Err(Answer::Missing);
        };
        let state = mirror.state(web, channel).await.ok_or(Answer::Refused)?;
        let retained = state["retained"].as_array().into_iter().flatten();
        let mut builds: Vec<Build> = retained
            .filter_map(|one| Build::new(one.as_u64()?))
            .collect();
        builds.sort_unstable();
        Ok(builds)
    }
}

impl Mirror {
    async fn small(
        &self,
        web: &Web,
        path: &str,
        max_bytes: usize,
        channel: &ChannelId,
    ) -> Result<Vec<u8>, Answer> {
        let url = format!("{}{path}", self.url);
        match web.read(&url, &[], max_bytes.max(WORDS_MAX_BYTES)).await {
            Err(WebError::Slow) => Err(Answer::Stalled),
            Err(WebError::Http(error)) => Err(broken(&error)),
            Err(WebError::TooLarge(_)) => Err(Answer::Corrupt),
            Ok((StatusCode::OK, bytes)) => Ok(bytes),
            Ok((status, bytes)) => Err(self.refusal(web, status, &bytes, channel).await),
        }
    }

    /// Opens a file of a build from an offset on. The caller checks what comes. Whatever else than the file it says, it
    /// has to say in the time of one question: a refusal that drips must not hold up a client that can ask others.
    pub(crate) async fn open(
        &self,
        web: &Web,
        (channel, build, path): (&ChannelId, Build, &str),
        range: Option<(u64, Option<u64>)>,
    ) -> Result<Response, Answer> {
        let opened = timeout(web.stall, self.try_open(web, (channel, build, path), range));
        opened.await.unwrap_or(Err(Answer::Stalled))
    }

    async fn try_open(
        &self,
        web: &Web,
        (channel, build, path): (&ChannelId, Build, &str),
        range: Option<(u64, Option<u64>)>,
    ) -> Result<Response, Answer> {
        let url = format!("{}/@/{channel}/{build}/{path}", self.url);
        let ask = || {
            let mut request = web.client.get(&url);
            if let Some((from, to)) = range {
                let to = to.map(|end| (end - 1).to_string()).unwrap_or_default();
                request = request.header(RANGE, format!("bytes={from}-{to}"));
            }
            request.send()
        };
        let answer = match ask().await {
            Err(error) if is_stale(&error) => ask().await,
            answer => answer,
        };
        let answer = answer.map_err(|error| broken(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let words = body(answer, WORDS_MAX_BYTES, &mut web.pace()).await;
        let words = words.unwrap_or_default();
        Err(self.refusal(web, status, &words, channel).await)
    }

    /// What a refusal means, by its status and first word.
    async fn refusal(
        &self,
        web: &Web,
        status: StatusCode,
        words: &[u8],
        channel: &ChannelId,
    ) -> Answer {
        let word = words.split(|byte| *byte == b':').next().unwrap_or_default();
        match (status, word) {
            (StatusCode::NOT_FOUND, b"unknown-build" | b"unknown-head") => Answer::Older,
            (StatusCode::GONE, b"retracted") => Answer::Retracted,
            (StatusCode::GONE, _) => self
                .newest(web, channel)
                .await
                .map_or(Answer::Missing, Answer::Newer),
            (StatusCode::NOT_FOUND, _) => Answer::Missing,
            (StatusCode::SERVICE_UNAVAILABLE, b"damaged" | b"lost" | b"unavailable") => {
                Answer::Missing
            }
            _other => Answer::Refused,
        }
    }

    /// The newest build that the mirror holds, by its own word.
    async fn newest(&self, web: &Web, channel: &ChannelId) -> Option<Build> {
        let state = self.state(web, channel).await?;
        let staged = state["staged"]
            .as_u64()
            .or_else(|| state["live"].as_u64())?;
        Build::new(staged)
    }

    /// What the mirror says of a channel.
    async fn state(&self, web: &Web, channel: &ChannelId) -> Option<Value> {
        let url = format!("{}/@/{channel}", self.url);
        let (status, bytes) = web.read(&url, &[], WORDS_MAX_BYTES).await.ok()?;
        status
            .is_success()
            .then(|| serde_json::from_slice(&bytes).ok())?
    }
}

/// True when a connection that was kept turned out to be closed: then one more try is no second question.
fn is_stale(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

/// The digest that an answer names, where its tag is one of ours.
pub(crate) fn named_digest(answer: &Response) -> Option<Digest> {
    let tag = answer.headers().get(ETAG)?.to_str().ok()?;
    tag.trim_start_matches("W/").trim_matches('"').parse().ok()
}

/// What a failure of HTTP says about the source.
pub(crate) fn broken(error: &reqwest::Error) -> Answer {
    if error.is_timeout() && !error.is_connect() {
        Answer::Stalled
    } else {
        Answer::Unreachable
    }
}
