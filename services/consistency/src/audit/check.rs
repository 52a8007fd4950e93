//! One file: asked for, hashed, compared.

use mirrorlog_core::consistency::{Audit, AuditOutcome, Scope};
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::RevokeReason;
use reqwest::header::{CONTENT_RANGE, ETAG};
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use wire::causes;

use super::connections::is_own_fault;
use super::http::Http;
use super::plan::{Depth, File};
use super::url_path;

const BUILD_HEADER: &str = "mirrorlog-build";

/// What was found of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its bytes are as signed.
    Same,
    /// Length and tag are as signed; the bytes were not read.
    Glanced,
    /// The mirror says that another channel of the mount wins the path.
    Shadowed,
    /// No answer, none in time, or one that was cut short.
    Silent,
    /// It could not be asked for, for want of something here.
    Unasked,
    /// The live URL serves a newer build by now, says the mirror.
    Moved,
    /// Something else than signed.
    Faulty(RevokeReason),
}

/// Asks for one file.
pub(super) async fn file(http: &Http, audit: &Audit, file: &File) -> Found {
    let found = ask_in_time(http, audit, file).await;
    if let (Found::Faulty(_), Scope::Live) = (&found, audit.scope) {
        return settle_live(http, audit, found).await;
    }
    found
}

async fn ask_in_time(http: &Http, audit: &Audit, file: &File) -> Found {
    let patience = http.patience(file.entry.size_bytes);
    let asked = tokio::time::timeout(patience, ask(http, audit, file));
    asked.await.unwrap_or_else(|_too_slow| {
        tracing::debug!(path = %file.path, ?patience, "answer takes too long");
        Found::Silent
    })
}

/// For builds without files: that the mirror answers for the build.
pub(super) async fn alone(http: &Http, audit: &Audit) -> AuditOutcome {
    let path = format!("/@/{}/{}/snapshot", audit.channel, audit.build);
    let answer = tokio::time::timeout(http.patience(0), http.get(&path, None)).await;
    match answer {
        Ok(Ok(answer)) if answer.status().is_success() => AuditOutcome::Passed {
            audited_files: 0,
            new_files: 0,
            sampled_files: 0,
        },
        Ok(Ok(answer)) if !answer.status().is_server_error() => {
            AuditOutcome::Faulty(RevokeReason::Dropped)
        }
        Ok(Err(error)) if is_own_fault(&error) => AuditOutcome::Inconclusive,
        Ok(_) | Err(_) => AuditOutcome::Unreachable,
    }
}

async fn ask(http: &Http, audit: &Audit, file: &File) -> Found {
    let range = match file.depth {
        Depth::Whole => None,
        Depth::Glance => Some("bytes=0-0"),
    };
    let answer = match http
        .get(&url_path(audit, file.path.as_bytes()), range)
        .await
    {
        Ok(answer) => answer,
        Err(error) if is_own_fault(&error) => {
            tracing::warn!(error = causes(&error), path = %file.path, "file cannot be asked for");
            return Found::Unasked;
        }
        Err(error) => {
            tracing::debug!(%error, path = %file.path, "mirror does not answer");
            return Found::Silent;
        }
    };
    // Channels that share a path have equal content there, in builds that belong together. While the
    // mirror moves from one to the next, the channel that wins may have another one.
    let shadowed = named(&answer).is_some_and(|(channel, _)| {
        let wins = |above: &ChannelId| above.as_str() == channel;
        audit.above.iter().any(wins)
    });
    let found = compare(answer, audit, file).await;
    if shadowed && matches!(found, Found::Faulty(RevokeReason::DigestMismatch { .. })) {
        return Found::Shadowed;
    }
    found
}

async fn compare(answer: Response, audit: &Audit, file: &File) -> Found {
    // 1. The build that answers must be the one that was asked for.
    if let Some(found) = other_build(&answer, audit) {
        return found;
    }
    // 2. It must have the file. A server at fault is no answer.
    let status = answer.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Found::Silent;
    }
    if status == StatusCode::GONE {
        return Found::Faulty(RevokeReason::Dropped);
    }
    let empty = file.entry.size_bytes == 0 && status == StatusCode::RANGE_NOT_SATISFIABLE;
    if !status.is_success() && !empty {
        tracing::info!(%status, path = %file.path, "file is not served");
        return Found::Faulty(RevokeReason::Missing {
            path: file.path.clone(),
        });
    }
    // 3. What it says of the file must be true.
    if says_other(&answer, file) {
        return mismatch(&file.path);
    }
    match file.depth {
        Depth::Glance => Found::Glanced,
        // 4. Its bytes must have the signed length and digest.
        Depth::Whole => hash(answer, file).await,
    }
}

async fn hash(mut answer: Response, file: &File) -> Found {
    let (mut hasher, mut length) = (Sha256::new(), 0_u64);
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                length += chunk.len() as u64;
                if length > file.entry.size_bytes {
                    return mismatch(&file.path);
                }
                hasher.update(&chunk);
            }
            Ok(None) => break,
            // Cut short: HTTP says so, and it proves nothing about the bytes.
            Err(error) => {
                tracing::debug!(%error, path = %file.path, "answer ended early");
                return Found::Silent;
            }
        }
    }
    let digest = Digest::from_bytes(hasher.finalize().into());
    if digest == file.entry.digest && length == file.entry.size_bytes {
        Found::Same
    } else {
        mismatch(&file.path)
    }
}

/// Channel and build in `Mirrorlog-Build: CHANNEL=N`; absent behind other servers.
fn named(answer: &Response) -> Option<(&str, &str)> {
    let header = answer.headers().get(BUILD_HEADER)?.to_str().ok()?;
    header.split_once('=')
}

/// What the answer says of its build, if it is not the one that was asked for. A path that channels of
/// a mount share is answered by one of them; absent is fine where the digest is right.
fn other_build(answer: &Response, audit: &Audit) -> Option<Found> {
    let (_, build) = named(answer).filter(|(channel, _)| *channel == audit.channel.as_str())?;
    let build: Option<Build> = build.parse().ok();
    match audit.scope {
        _ if build == Some(audit.build) => None,
        Scope::Live if build > Some(audit.build) => Some(Found::Moved),
        Scope::Live | Scope::Pinned => Some(Found::Faulty(RevokeReason::WrongBuild)),
    }
}

/// True when the answer's own headers name another digest or length.
fn says_other(answer: &Response, file: &File) -> bool {
    let header = |name| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let tag = header(ETAG).map(|tag| tag.trim_start_matches("W/").trim_matches('"'));
    // Other servers in front have tags of their own kind.
    let digest = tag.and_then(|tag| tag.parse::<Digest>().ok());
    let whole = match answer.status() {
        StatusCode::PARTIAL_CONTENT => {
            header(CONTENT_RANGE).and_then(|range| range.rsplit('/').next()?.parse().ok())
        }
        StatusCode::OK => answer.content_length(),
        _other => None,
    };
    digest.is_some_and(|digest| digest != file.entry.digest)
        || whole.is_some_and(|length: u64| length != file.entry.size_bytes)
}

/// Something is wrong under the live URL: unless the mirror has moved on in between, it counts.
async fn settle_live(http: &Http, audit: &Audit, found: Found) -> Found {
    let state = http
        .bytes(&format!("/@/{}", audit.channel), 64 * 1024)
        .await;
    let state: Option<serde_json::Value> =
        state.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let live = state.and_then(|state| state.get("live")?.as_u64());
    if live.is_some_and(|live| live > audit.build.get()) {
        Found::Moved
    } else {
        found
    }
}

fn mismatch(path: &EntryPath) -> Found {
    Found::Faulty(RevokeReason::DigestMismatch { path: path.clone() })
}
