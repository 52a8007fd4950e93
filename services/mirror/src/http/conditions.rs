//! What a request's conditions and ranges come to (RFC 9110, sections 13 and 14).

use std::ops::RangeInclusive;
use std::time::{Duration, UNIX_EPOCH};

use axum::http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use axum::http::{HeaderMap, Method};
use http_range_header::{EndPosition, RangeUnsatisfiableError, StartPosition, parse_range_header};

/// The last second that an HTTP date can name: the end of year 9999.
const DATE_MAX_SECONDS: i64 = 253_402_300_799;

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200
    Whole,
    /// 206, first and last byte
    Part(RangeInclusive<u64>),
    /// 304
    NotModified,
    /// 412
    Failed,
    /// 416
    Unsatisfiable,
}

/// What tells versions of one resource apart.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// The strong entity tag, with its quotes.
    pub tag: &'a str,
    /// Seconds since 1970, when there is such a date.
    pub modified: Option<i64>,
    /// Its length.
    pub size_bytes: u64,
}

/// Goes through the conditions in the order of section 13.2.2.
pub fn judge(method: &Method, headers: &HeaderMap, version: Version<'_>) -> Outcome {
    // Step 1: If-Match; step 2: without it, If-Unmodified-Since.
    if headers.contains_key(IF_MATCH) {
        if !names(headers, &IF_MATCH, |tag| tag == version.tag) {
            return Outcome::Failed;
        }
    } else if let (Some(date), Some(modified)) =
        (date(headers, &IF_UNMODIFIED_SINCE), version.modified)
        && modified > date
    {
        return Outcome::Failed;
    }
    // Step 3: If-None-Match compares weakly; step 4: without it, If-Modified-Since. A date that is
    // only later than ours may be another version's: builds can go back.
    if headers.contains_key(IF_NONE_MATCH) {
        let weak = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == version.tag;
        if names(headers, &IF_NONE_MATCH, weak) {
            return Outcome::NotModified;
        }
    } else if version.modified.is_some() && date(headers, &IF_MODIFIED_SINCE) == version.modified {
        return Outcome::NotModified;
    }
    // Step 5: Range is defined for GET only (section 14.2), and If-Range can take it away.
    if *method != Method::GET || !range_holds(headers, version) {
        return Outcome::Whole;
    }
    range(headers, version.size_bytes)
}

/// True when one of the listed tags fits, or the list is `*`.
fn names(headers: &HeaderMap, name: &HeaderName, fits: impl Fn(&str) -> bool) -> bool {
    let values = headers.get_all(name).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut tags = texts.flat_map(|text| text.split(','));
    // Our tags hold no comma, so whatever a comma cuts was none of ours.
    tags.any(|tag| tag.trim() == "*" || fits(tag.trim()))
}

/// Seconds since 1970; `None` when there is no date, or one that does not parse.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    parse_date(headers.get(name)?.to_str().ok()?)
}

fn parse_date(text: &str) -> Option<i64> {
    let since = httpdate::parse_http_date(text).ok()?;
    let seconds = since.duration_since(UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(seconds).ok()
}

/// The date as HTTP writes it; `None` before 1970 and after 9999.
pub(super) fn http_date(seconds: i64) -> Option<String> {
    let fits = (0..=DATE_MAX_SECONDS).contains(&seconds);
    let since = Duration::from_secs(u64::try_from(seconds).ok().filter(|_| fits)?);
    Some(httpdate::fmt_http_date(UNIX_EPOCH + since))
}

/// False when If-Range names another version (section 13.1.5): strong tag, or the very date.
fn range_holds(headers: &HeaderMap, version: Version<'_>) -> bool {
    let Some(value) = headers.get(IF_RANGE) else {
        return true;
    };
    let Ok(text) = value.to_str() else {
        return false;
    };
    text == version.tag || (version.modified.is_some() && parse_date(text) == version.modified)
}

fn range(headers: &HeaderMap, size_bytes: u64) -> Outcome {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Outcome::Whole;
    };
    // Names of units have no case.
    let text = value.to_str().map(str::to_ascii_lowercase);
    let parsed = match text.as_deref().map(parse_range_header) {
        Ok(Ok(parsed)) => parsed,
        Ok(Err(RangeUnsatisfiableError::ZeroSuffix)) => return Outcome::Unsatisfiable,
        // What cannot be read, or has another unit, is passed over (section 14.2).
        Ok(Err(_)) | Err(_) => return Outcome::Whole,
    };
    // Several ranges: the whole, as section 14.2 lets a server do; no client of archives asks for them.
    let &[only] = parsed.ranges.as_slice() else {
        return Outcome::Whole;
    };
    let first = match only.start {
        StartPosition::Index(first) => first,
        StartPosition::FromLast(count) => size_bytes.saturating_sub(count),
    };
    let last = match only.end {
        EndPosition::Index(last) if last < first => return Outcome::Whole,
        EndPosition::Index(last) => last.min(size_bytes.saturating_sub(1)),
        EndPosition::LastByte => size_bytes.saturating_sub(1),
    };
    if first >= size_bytes {
        Outcome::Unsatisfiable
    } else {
        Outcome::Part(first..=last)
    }
}
