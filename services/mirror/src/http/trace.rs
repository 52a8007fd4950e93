//! `project/trace/<fqdn>`: what monitors of Debian mirrors read, and the one path outside the manifest.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::Bytes;
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::{self, Listed};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::View;
use runtime::store::Pages;

use super::Fault;
use super::body::{Content, Keep};
use super::mounts::Mounted;
use crate::config::Config;
use crate::serving::ServedChannel;

/// Its folder, and the one above.
const FOLDER: &[u8] = b"project/trace";
const PARENT: &[u8] = b"project";
/// Folders that exist wherever there is a trace.
pub(super) const FOLDERS: [&[u8]; 2] = [PARENT, FOLDER];
/// Folders that are listed to learn the architectures: bounds the cost of one trace.
const LISTED_MAX: usize = 256;
/// Folders between `dists` and `binary-…`, at most: suite, its part (`updates`), component.
const DEPTH_MAX: usize = 3;

/// What the trace says of this mirror.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Host name, and the trace's file name.
    pub(super) host: String,
    pub(super) maintainer: Option<String>,
    pub(super) country: String,
    pub(super) upstream: String,
}

impl Site {
    #[cfg(test)]
    pub(crate) fn named(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            maintainer: None,
            country: "NZ".to_owned(),
            upstream: "archive.test".to_owned(),
        }
    }

    pub(crate) fn of(config: &Config) -> Self {
        let mirror = &config.mirror;
        let fetch = &config.archive.fetch;
        let upstream = fetch
            .rsplit_once(':')
            .map_or(fetch.as_str(), |(host, _)| host);
        Self {
            host: mirror.fqdn.clone().unwrap_or_else(|| mirror.id.to_string()),
            maintainer: mirror.maintainer.clone(),
            country: mirror.pool.country().to_ascii_uppercase(),
            upstream: upstream.to_owned(),
        }
    }
}

/// The trace of one mount: of the channel that moved last.
pub(crate) struct Trace<'a> {
    site: &'a Site,
    channel: &'a ChannelId,
    served: &'a ServedChannel,
    live: Build,
    created: Timestamp,
}

impl<'a> Trace<'a> {
    /// `None` when nothing of the mount is live.
    pub(crate) fn of(site: &'a Site, mounted: &Mounted<'a>) -> Option<Self> {
        let traces = mounted.channels.iter().filter_map(|&(channel, served)| {
            let live = served.live?;
            let created = served.builds.get(&live)?.created;
            Some(Self {
                site,
                channel,
                served,
                live,
                created,
            })
        });
        traces.max_by_key(Self::date)
    }

    /// Its path below the mount.
    pub(crate) fn path(&self) -> Vec<u8> {
        [FOLDER, b"/", self.site.host.as_bytes()].concat()
    }

    /// The name by which a folder's listing has the trace or leads to it, and whether that is the trace.
    /// Mounts of other layouts are not listed with a folder that nobody looks for.
    pub(super) fn line_in(&self, folder: &[u8]) -> Option<Line> {
        let debian = self.served.layout == Layout::Debian;
        match folder {
            FOLDER => Some(Line::Trace(self.site.host.clone())),
            PARENT => Some(Line::Folder("trace")),
            b"" if debian => Some(Line::Folder("project")),
            _other => None,
        }
    }

    /// Channel and build that it tells of.
    pub(super) fn build(&self) -> (&'a ChannelId, Build) {
        (self.channel, self.live)
    }

    /// When the mirror last changed. After a restart only the build's own time is known, which is
    /// never later.
    pub(super) fn date(&self) -> Timestamp {
        self.served.flip.map_or(self.created, |flip| flip.finished)
    }

    /// The file.
    ///
    /// # Errors
    /// A [`Fault`] of the store.
    pub(super) fn content<'n>(&self, pages: &Pages, name: &'n [u8]) -> Result<Content<'n>, Fault> {
        let text = Bytes::from(self.text(pages)?);
        let kind = "text/plain; charset=utf-8";
        let mut content = Content::memory(name, kind, text, Keep::Checked);
        content.modified = Some(self.date().as_seconds());
        Ok(content)
    }

    /// The fields in ftpsync's order (FORMATS.md).
    pub(crate) fn text(&self, pages: &Pages) -> Result<String, Fault> {
        let version = concat!("mirrorlog/", env!("CARGO_PKG_VERSION"));
        let date = self.date();
        let mut text = format!("{}\n", written(date, "%a %b %e %H:%M:%S UTC %Y"));
        let mut field = |name: &str, value: &str| {
            // Writing to a string cannot fail. A newline in a value would make a field of its own.
            writeln!(text, "{name}: {}", value.replace(['\n', '\r'], " ")).ok();
        };
        let long = "%a, %d %b %Y %H:%M:%S +0000";
        field("Date", &written(date, long));
        if let Some(flip) = self.served.flip {
            field("Date-Started", &written(flip.started, long));
        }
        field("Archive serial", &written(self.created, "%Y%m%d%H"));
        field("Used ftpsync version", version);
        field("Creator", version);
        field("Running on host", &self.site.host);
        if let Some(maintainer) = &self.site.maintainer {
            field("Maintainer", maintainer);
        }
        field("Country", &self.site.country);
        let architectures = self.architectures(pages)?;
        if !architectures.is_empty() {
            let names: Vec<&str> = architectures.iter().map(String::as_str).collect();
            field("Architectures", &names.join(" "));
        }
        let configured = match self.served.selection.view() {
            View::Part(part) if !part.architectures.is_empty() => {
                let names: Vec<&str> = part.architectures.iter().map(String::as_str).collect();
                format!("INCLUDE {}", names.join(" "))
            }
            View::All | View::Part(_) => "ALL".to_owned(),
        };
        field("Architectures-Configuration", &configured);
        field("Upstream-mirror", &self.site.upstream);
        if let Some(flip) = self.served.flip {
            let seconds = u64::try_from(flip.finished.ms_since(flip.started) / 1000).unwrap_or(0);
            let bytes = flip.received_bytes;
            field("Total bytes received in rsync", &bytes.to_string());
            field("Total time spent in rsync", &seconds.to_string());
            field("Average rate", &format!("{} B/s", bytes / seconds.max(1)));
        }
        Ok(text)
    }

    /// From the names `binary-…` and `source` below `dists`, as far as the bounds go.
    fn architectures(&self, pages: &Pages) -> Result<BTreeSet<String>, Fault> {
        let mut found = BTreeSet::new();
        let Some(row) = self.served.builds.get(&self.live) else {
            return Ok(found);
        };
        let mut level = vec![b"dists".to_vec()];
        let mut listed = 0;
        for _depth in 0..=DEPTH_MAX {
            let mut next = Vec::new();
            for folder in level {
                listed += 1;
                if listed > LISTED_MAX {
                    return Ok(found);
                }
                for line in manifest::list(pages, &row.root, &folder) {
                    let Listed::Folder(name) = line? else {
                        continue;
                    };
                    let path = [&folder, b"/".as_slice(), &name].concat();
                    if !self.served.selection.has_below(&path) {
                        continue;
                    }
                    match name.strip_prefix(b"binary-") {
                        Some(b"all") => {}
                        Some(name) => {
                            found.insert(String::from_utf8_lossy(name).into_owned());
                        }
                        None if &*name == b"source" => {
                            found.insert("source".to_owned());
                        }
                        None if INSIDE_COMPONENTS.contains(&&*name) => {}
                        None => next.push(path),
                    }
                }
            }
            level = next;
        }
        Ok(found)
    }
}

/// Folders beside `binary-…` that have no architectures below.
const INSIDE_COMPONENTS: [&[u8]; 5] = [b"by-hash", b"cnf", b"debian-installer", b"dep11", b"i18n"];

/// What a listing has of the trace.
pub(super) enum Line {
    /// The trace, by its name.
    Trace(String),
    /// A folder on the way to it.
    Folder(&'static str),
}

/// A time in UTC; empty when no calendar has it.
fn written(at: Timestamp, format: &str) -> String {
    let at = jiff::Timestamp::from_second(at.as_seconds());
    at.map(|at| at.strftime(format).to_string())
        .unwrap_or_default()
}
