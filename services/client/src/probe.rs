//! How fast a mirror is, where nothing is known of it: bytes from a nonce that nobody has asked for before.
//!
//! What is known from real downloads is not measured again; such a mirror is only asked whether it is there.

use std::pin::pin;
use std::time::{Duration, Instant};

use fetcher::web::{Pace, TooSlow};
use mirrorlog_core::client::climb::Answer;
use mirrorlog_core::client::speed::{self, PROBE_BYTES};
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::probe::Probe;
use reqwest::Response;
use runtime::boot::now;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Client;
use crate::candidates::Candidate;
use crate::source::{Web, WebError, broken};
use crate::transfer::from_cache;

/// Longest that a probe takes: stops a mirror that drips. 128 KiB at 17 kbit/s.
const PROBE_MAX: Duration = Duration::from_secs(60);
/// Largest answer about a channel, in bytes.
const WORDS_MAX_BYTES: usize = 64 * 1024;

/// What measuring a mirror showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Milliseconds until a connection stood; none when it never did, as through a proxy.
    pub connect_ms: Option<f64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How measuring a mirror ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It gave the probe's bytes at this speed, bytes a second.
    Measured(f64),
    /// It is there, and was this fast in earlier downloads, bytes a second.
    Known(f64),
    /// It is there, and a cache in the way gave something: nothing is known of the mirror's speed.
    Cache(&'static str),
    /// It cannot be used now.
    Failed(String),
}

/// Why there is no speed.
enum Trouble {
    Cache(&'static str),
    Source(Answer, String),
}

impl From<Answer> for Trouble {
    fn from(answer: Answer) -> Self {
        Self::Source(answer, answer.describe())
    }
}

impl Client {
    /// Measures a mirror, or only asks whether it is there when its speed is known. Remembers what it finds, and tells
    /// the directory when the user wants that.
    pub async fn measure(
        &self,
        candidate: &Candidate,
        channel: &ChannelId,
        build: Build,
    ) -> Measured {
        let mut connect_ms = None;
        let mut connecting = pin!(connect_ms_of(&candidate.url, self.0.options.connect));
        let mut asking = pin!(self.ask(candidate, channel));
        let asked = loop {
            tokio::select! {
                ms = &mut connecting, if connect_ms.is_none() => connect_ms = Some(ms),
                asked = &mut asking => break asked,
            }
        };
        let id = candidate.id.as_str();
        let outcome = match asked {
            Ok(None) => Outcome::Known(candidate.known.unwrap_or_default()),
            Ok(Some(seconds)) => {
                let bytes_per_s = PROBE_BYTES as f64 / seconds;
                let known = self.0.state.speed(&candidate.url);
                let learnt = speed::learn_probe(known.as_ref(), bytes_per_s, now());
                self.0.state.keep_speed(&candidate.url, learnt);
                self.0.feedback.fine(id, build, PROBE_BYTES, seconds);
                Outcome::Measured(bytes_per_s)
            }
            Err(Trouble::Cache(why)) => Outcome::Cache(why),
            Err(Trouble::Source(answer, reason)) => {
                self.0.feedback.failed(id, build, answer);
                Outcome::Failed(reason)
            }
        };
        Measured {
            connect_ms: connect_ms.flatten(),
            outcome,
        }
    }

    /// Seconds that the probe took; none when the speed is known.
    async fn ask(
        &self,
        candidate: &Candidate,
        channel: &ChannelId,
    ) -> Result<Option<f64>, Trouble> {
        let web = &self.0.web;
        // 1. It is there and carries the channel. The probe goes over the same connection.
        let url = format!("{}/@/{channel}", candidate.url);
        match web.read(&url, &[], WORDS_MAX_BYTES).await {
            Err(WebError::Slow) => return Err(Answer::Stalled.into()),
            Err(WebError::Http(error)) => return Err(broken(&error).into()),
            Err(WebError::TooLarge(_)) => return Err(Answer::Refused.into()),
            Ok((status, _)) if !status.is_success() => {
                let reason = format!("says {} when asked for {channel}", status.as_u16());
                return Err(Trouble::Source(Answer::Refused, reason));
            }
            Ok(_) => {}
        }
        if candidate.known.is_some() {
            return Ok(None);
        }
        // 2. How fast it is.
        match timeout(PROBE_MAX, probe(web, &candidate.url)).await {
            Ok(probed) => probed.map(Some),
            Err(_dripping) => {
                let reason = format!(
                    "gives less than {} KiB in {} s",
                    PROBE_BYTES / 1024,
                    PROBE_MAX.as_secs()
                );
                Err(Trouble::Source(Answer::Stalled, reason))
            }
        }
    }
}

/// Milliseconds until a connection stands.
async fn connect_ms_of(url: &str, limit: Duration) -> Option<f64> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    let mut addresses = tokio::net::lookup_host((host, url.port_or_known_default()?))
        .await
        .ok()?;
    let address = addresses.next()?;
    let begun = Instant::now();
    timeout(limit, TcpStream::connect(address))
        .await
        .ok()?
        .ok()?;
    Some(begun.elapsed().as_secs_f64() * 1000.0)
}

/// Asks for the bytes of a new nonce, and compares each; gives the seconds from the request to the last byte.
async fn probe(web: &Web, url: &str) -> Result<f64, Trouble> {
    let nonce =
        getrandom::u64().and_then(|high| Ok(format!("{high:016x}{:016x}", getrandom::u64()?)));
    let nonce = nonce
        .map_err(|error| Trouble::Source(Answer::Refused, format!("no random number: {error}")))?;
    let Some(expected) = Probe::new(nonce.as_bytes()) else {
        return Err(Answer::Refused.into());
    };
    let url = format!("{url}/@/probe/{nonce}?bytes={PROBE_BYTES}");
    let (begun, mut pace) = (Instant::now(), web.pace());
    let asked = pace.wait(web.client().get(url).send()).await;
    let answer = asked.map_err(|TooSlow(_)| Answer::Stalled)?;
    let answer = answer.map_err(|error| broken(&error))?;
    if !answer.status().is_success() {
        let reason = format!("says {} to a probe", answer.status().as_u16());
        return Err(Trouble::Source(Answer::Refused, reason));
    }
    if from_cache(&answer) {
        return Err(Trouble::Cache("a cache in the way says that it answered"));
    }
    compare(answer, &expected.part(0, PROBE_BYTES), &mut pace).await?;
    Ok(begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE))
}

async fn compare(mut answer: Response, expected: &[u8], pace: &mut Pace) -> Result<(), Trouble> {
    const OTHER: Trouble =
        Trouble::Cache("something in the way sends other bytes than the mirror would");
    let mut left = expected;
    loop {
        let next = pace.wait(answer.chunk()).await;
        let next = next.map_err(|TooSlow(_)| Answer::Stalled)?;
        let Some(chunk) = next.map_err(|error| broken(&error))? else {
            break;
        };
        pace.came(chunk.len());
        left = left.strip_prefix(&*chunk).ok_or(OTHER)?;
    }
    if left.is_empty() { Ok(()) } else { Err(OTHER) }
}
