//! A folder as HTML that people and `pkg_add` read: one line an entry, the tag `<A HREF="…">` whole
//! on it and in front of all else, every entry on one page.
//!
//! Large folders go out in chunks; each goes on by name where the one before ended, so a slow
//! client keeps no thread and no more than a chunk in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::iter::Peekable;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{self, Entry, Listed};
use runtime::store::Pages;

use super::Desk;
use super::Fault;
use super::body::{Keep, builds_header, keep_header, set, unsized_body};
use super::conditions::{Outcome, Version, judge};
use super::refusal::Refusal;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::tree::{Place, Scope, Tree};
use mirrorlog_core::url::encode;

/// A chunk ends after the line that makes it this long.
const CHUNK_BYTES: usize = 64 * 1024;
/// Column of the dates, where names leave room.
const NAME_COLUMNS: usize = 50;
/// Goes into entity tags: to be raised when the HTML changes.
const FORMAT: u32 = 1;

/// What stands on a line behind the name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Detail {
    /// A folder.
    Folder,
    /// A file.
    File {
        /// Its length.
        size_bytes: u64,
        /// Seconds since 1970.
        modified: i64,
    },
}

/// One folder of some trees, and what else is in it.
pub(super) struct Listing {
    /// The URL's path, decoded.
    url: Vec<u8>,
    scope: Scope,
    /// The folder in the trees.
    folder: Vec<u8>,
    /// Lines from outside of the trees, by key: the name, with a slash behind a folder's.
    more: BTreeMap<Vec<u8>, Detail>,
}

/// A line as the trees have it.
enum Line {
    Listed(Listed),
    More(Detail),
}

type Lines<'a> = Peekable<Box<dyn Iterator<Item = Result<(Vec<u8>, Line), Fault>> + 'a>>;

impl Listing {
    /// A folder of these trees.
    pub(super) fn of_trees(url: &[u8], scope: Scope, folder: Vec<u8>) -> Self {
        Self {
            url: url.to_vec(),
            scope,
            folder,
            more: BTreeMap::new(),
        }
    }

    /// A folder above the mounts.
    pub(super) fn of_folders(url: &[u8], names: BTreeSet<Vec<u8>>) -> Self {
        let mut listing = Self::of_trees(url, Scope(Vec::new()), Vec::new());
        listing.add_folders(names);
        listing
    }

    /// The folder in the trees.
    pub(super) fn folder(&self) -> &[u8] {
        &self.folder
    }

    /// Adds folders that no tree has.
    pub(super) fn add_folders(&mut self, names: impl IntoIterator<Item = Vec<u8>>) {
        let keys = names
            .into_iter()
            .map(|name| [&name, b"/".as_slice()].concat());
        self.more.extend(keys.map(|key| (key, Detail::Folder)));
    }

    /// Adds a file that no tree has, or that wins over theirs.
    pub(super) fn add_file(&mut self, name: &[u8], size_bytes: u64, modified: i64) {
        let detail = Detail::File {
            size_bytes,
            modified,
        };
        self.more.insert(name.to_vec(), detail);
    }

    /// Answers a request; small listings from memory, large ones in chunks.
    ///
    /// # Errors
    /// 412; 503 when the store fails.
    pub(super) fn answer(self, desk: Desk<'_>) -> Result<Response, Refusal> {
        let Desk { face, head, .. } = desk;
        let tag = format!("\"{}\"", self.tag());
        let version = Version {
            tag: &tag,
            modified: None,
            size_bytes: 0,
        };
        let mut headers = HeaderMap::new();
        set(&mut headers, ETAG, tag.as_str());
        keep_header(&mut headers, Keep::Checked);
        builds_header(&mut headers, self.scope.builds());
        match judge(&head.method, &head.headers, version) {
            // Ranges of a listing make no sense, and need not be answered.
            Outcome::Whole | Outcome::Part(_) | Outcome::Unsatisfiable => {}
            Outcome::NotModified => {
                return Ok((StatusCode::NOT_MODIFIED, headers, unsized_body()).into_response());
            }
            Outcome::Failed => {
                return Err(Refusal::precondition(&self.url).of(self.scope.builds()));
            }
        }
        set(&mut headers, CONTENT_TYPE, "text/html; charset=utf-8");
        let mut first = self.top();
        let body = match self.chunk(&face.pages, &[], &mut first)? {
            None => Body::from(first),
            Some(from) => self.stream(face.pages.clone(), first, from),
        };
        Ok((headers, body).into_response())
    }

    /// Equal for equal text: the trees say all that is in it.
    fn tag(&self) -> Digest {
        let mut text = format!("listing {FORMAT}\n").into_bytes();
        for part in [&self.url, &self.folder] {
            text.extend_from_slice(encode(part).as_bytes());
            text.push(b'\n');
        }
        let tree = |tree: &Tree| match tree.selection.is_all() {
            true => tree.root.to_hex(),
            false => format!("{} of {}", tree.selection.view(), tree.root.to_hex()),
        };
        let roots = self.scope.0.iter().map(tree);
        text.extend_from_slice(roots.collect::<String>().as_bytes());
        for (key, detail) in &self.more {
            text.extend_from_slice(format!("\n{} {detail:?}", encode(key)).as_bytes());
        }
        Digest::of(&text)
    }

    fn top(&self) -> String {
        let slash = if self.url.is_empty() { "" } else { "/" };
        let title = format!("/{}{slash}", escape(&self.url));
        let mut html = format!(
            "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>Index of {title}</title></head>\n\
             <body><h1>Index of {title}</h1>\n<pre>\n"
        );
        if !self.url.is_empty() {
            html.push_str("<A HREF=\"../\">../</A>\n");
        }
        html
    }

    /// Appends lines from the key `from` on; returns the key to go on from when that was not all.
    fn chunk(
        &self,
        pages: &Pages,
        from: &[u8],
        html: &mut String,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let mut sources = self.sources(pages, from);
        while let Some((key, line)) = next(&mut sources)? {
            if let Some(detail) = self.detail(pages, &key, line)? {
                write_line(html, key.strip_suffix(b"/").unwrap_or(&key), detail);
            }
            if html.len() >= CHUNK_BYTES {
                return Ok(Some(after(key)));
            }
        }
        html.push_str("</pre></body></html>\n");
        Ok(None)
    }

    /// What is not of a tree first: it wins.
    fn sources<'a>(&'a self, pages: &'a Pages, from: &[u8]) -> Vec<Lines<'a>> {
        let more = self.more.range(from.to_vec()..);
        let more = more.map(|(key, detail)| Ok((key.clone(), Line::More(*detail))));
        let mut sources: Vec<Lines<'a>> =
            vec![(Box::new(more) as Box<dyn Iterator<Item = _>>).peekable()];
        for tree in &self.scope.0 {
            let lines = manifest::list_from(pages, &tree.root, &self.folder, from);
            let lines =
                lines.filter(|line| line.as_ref().map_or(true, |line| self.shows(tree, line)));
            let lines = lines.map(|line| line.map(|line| (key_of(&line), Line::Listed(line))));
            sources.push((Box::new(lines) as Box<dyn Iterator<Item = _>>).peekable());
        }
        sources
    }

    /// Whether a mirror that carries a part has a line's entry, or may have some below its folder.
    fn shows(&self, tree: &Tree, line: &Listed) -> bool {
        if tree.selection.is_all() {
            return true;
        }
        let (Listed::Folder(name) | Listed::Entry(name, _)) = line;
        let slash: &[u8] = if self.folder.is_empty() { b"" } else { b"/" };
        let path = [&self.folder, slash, name].concat();
        match line {
            Listed::Folder(_) => tree.selection.has_below(&path),
            Listed::Entry(..) => EntryPath::new(&path).is_ok_and(|path| tree.selection.has(&path)),
        }
    }

    /// A symlink is shown as what it leads to; `None` when it leads nowhere.
    fn detail(&self, pages: &Pages, key: &[u8], line: Line) -> Result<Option<Detail>, Fault> {
        let file = |file: manifest::FileEntry| Detail::File {
            size_bytes: file.size_bytes,
            modified: file.mtime.as_seconds(),
        };
        Ok(match line {
            Line::More(detail) => Some(detail),
            Line::Listed(Listed::Folder(_)) => Some(Detail::Folder),
            Line::Listed(Listed::Entry(_, Entry::File(found))) => Some(file(found)),
            Line::Listed(Listed::Entry(_, Entry::Symlink { .. })) => {
                let mut path = self.folder.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(key);
                match self.scope.place(pages, &path)? {
                    Place::File(_, _, found) => Some(file(found)),
                    Place::Folder(_) => Some(Detail::Folder),
                    Place::Nothing => None,
                }
            }
        })
    }

    fn stream(self, pages: Pages, first: String, from: Vec<u8>) -> Body {
        let listing = Arc::new(self);
        let rest = futures::stream::try_unfold(Some(from), move |from| {
            let (listing, pages) = (Arc::clone(&listing), pages.clone());
            async move {
                let Some(from) = from else {
                    return Ok(None);
                };
                let made = tokio::task::spawn_blocking(move || {
                    let mut html = String::new();
                    let next = listing.chunk(&pages, &from, &mut html)?;
                    Ok((html, next))
                });
                let made: Result<_, Fault> = made.await.map_err(io::Error::other)?;
                // The client sees a chunked body without an end.
                let (html, next) = made.map_err(|error| {
                    let text = crate::inbox::chain(&error);
                    tracing::error!(error = text, "a listing was cut off");
                    io::Error::other(text)
                })?;
                Ok(Some((Bytes::from(html), next)))
            }
        });
        let first = futures::stream::iter([Ok::<_, io::Error>(Bytes::from(first))]);
        Body::from_stream(futures::StreamExt::chain(first, rest))
    }
}

/// The line of the least key; the first source that has it wins, the others pass over theirs.
fn next(sources: &mut [Lines<'_>]) -> Result<Option<(Vec<u8>, Line)>, Fault> {
    let mut least: Option<Vec<u8>> = None;
    for source in sources.iter_mut() {
        if let Some(Ok((key, _))) = source.peek()
            && least.as_ref().is_none_or(|least| key < least)
        {
            least = Some(key.clone());
        }
    }
    let mut found = None;
    for source in sources {
        let mine = |line: &Result<(Vec<u8>, Line), Fault>| match line {
            Ok((key, _)) => Some(key) == least.as_ref(),
            Err(_) => true,
        };
        if let Some(line) = source.next_if(mine) {
            let line = line?;
            found.get_or_insert(line);
        }
    }
    Ok(found)
}

fn key_of(line: &Listed) -> Vec<u8> {
    match line {
        Listed::Folder(name) => [name, b"/".as_slice()].concat(),
        Listed::Entry(name, _) => name.to_vec(),
    }
}

/// The least key above this one: names have no NUL, and nothing is listed below a folder's name.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    if key.last() == Some(&b'/') {
        key.pop();
        key.push(b'/' + 1);
    } else {
        key.push(0);
    }
    key
}

fn write_line(html: &mut String, name: &[u8], detail: Detail) {
    let (slash, date, size) = match detail {
        Detail::Folder => ("/", String::new(), "-".to_owned()),
        Detail::File {
            size_bytes,
            modified,
        } => ("", minute(modified), size_bytes.to_string()),
    };
    let (href, text) = (encode(name), escape(name));
    let columns = String::from_utf8_lossy(name).chars().count() + slash.len();
    let pad = NAME_COLUMNS.saturating_sub(columns);
    // Writing to a string cannot fail.
    writeln!(
        html,
        "<A HREF=\"{href}{slash}\">{text}{slash}</A>{:pad$} {date:16} {size:>15}",
        ""
    )
    .ok();
}

fn minute(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds);
    at.map(|at| at.strftime("%Y-%m-%d %H:%M").to_string())
        .unwrap_or_default()
}

/// Text for HTML: control characters would break lines or terminals.
fn escape(text: &[u8]) -> String {
    let mut html = String::with_capacity(text.len());
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            c if c.is_control() => html.push(char::REPLACEMENT_CHARACTER),
            c => html.push(c),
        }
    }
    html
}
