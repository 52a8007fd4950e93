//! One file of a pinned build, from whoever has it.

use std::path::Path;

use mirrorlog_core::client::climb::{Answer, SourceIndex};
use mirrorlog_core::client::speed::Transfer;
use mirrorlog_core::id::Digest;
use runtime::beneath::{Place, explained};
use rustix::io::Errno;

use crate::part::Part;
use crate::pin::{Pinned, WantedFile, shown};
use crate::session::{Climbed, LocalFault, Stop, Turn};
use crate::source::Source;
use crate::transfer::Coming;
use crate::watch::{Event, Watch};

/// Whether a file has to be on disk before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// A power cut leaves no empty file under a good name.
    Synced,
    /// Whoever asked for it sees to that.
    Left,
}

/// How a file came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Who gave its last byte; none when it was here already.
    pub source: Option<String>,
    /// Sources that were asked.
    pub asked: usize,
    /// Bytes that an earlier run had left here.
    pub had_bytes: u64,
}

impl Pinned {
    /// Fetches a file, verified, to `to`, which appears whole.
    ///
    /// # Errors
    /// [`Stop`]. What has come stays beside it; the next call goes on with it.
    pub async fn fetch(
        &self,
        file: &WantedFile,
        to: &Path,
        watch: &dyn Watch,
    ) -> Result<Fetched, Stop> {
        let fault = |error: Errno| LocalFault {
            path: to.to_owned(),
            source: explained(error),
        };
        let to = Place::of(to).map_err(fault)?;
        let part = to.beside(part_name(to.name(), file).as_bytes());
        let part = part.map_err(fault)?;
        let fetched = self
            .fetch_part(file, &part, Durability::Synced, watch)
            .await?;
        part.rename(&to).map_err(fault)?;
        Ok(fetched)
    }

    /// Fetches a file, verified, into `part`, going on with what is there.
    pub(crate) async fn fetch_part(
        &self,
        file: &WantedFile,
        part: &Place,
        durability: Durability,
        watch: &dyn Watch,
    ) -> Result<Fetched, Stop> {
        let shown = shown(file.path.as_bytes());
        let size_bytes = file.entry.size_bytes;
        let mut part = Part::open(part, size_bytes)?;
        let had_bytes = part.at();
        watch.tell(Event::Begun {
            path: &shown,
            size_bytes,
            had_bytes,
        });
        if part.at() == size_bytes && part.digest() == file.entry.digest {
            watch.tell(Event::Verified {
                path: &shown,
                source: "",
            });
            return Ok(Fetched {
                had_bytes,
                ..Fetched::default()
            });
        }
        if part.at() == size_bytes {
            part.restart()?;
        }
        let part = tokio::sync::Mutex::new(part);
        let (part_here, file) = (&part, file);
        let attempt = |Turn { index, rival }, _: Source| async move {
            let coming = Coming {
                pinned: self,
                index,
                rival,
                file,
                watch,
            };
            coming.bring(&mut *part_here.lock().await).await
        };
        let climbed = self
            .session
            .climb(self.quest(&shown, watch), attempt)
            .await?;
        let Climbed {
            found: (index, transfer),
            asked,
        } = climbed;
        let mut part = part.into_inner();
        if durability == Durability::Synced {
            part.finish(&file.entry)?;
        }
        for liar in part.liars().unwrap_or_default() {
            self.session.blame(liar, self.build(), Answer::Corrupt);
        }
        self.measured(index, &transfer);
        let source = self.session.source(index).name();
        watch.tell(Event::Verified {
            path: &shown,
            source,
        });
        Ok(Fetched {
            source: Some(source.to_owned()),
            asked,
            had_bytes,
        })
    }

    /// Remembers how fast a mirror was.
    fn measured(&self, index: SourceIndex, transfer: &Transfer) {
        let source = self.session.source(index);
        if let (Some(url), Some(mirror)) = (source.url(), source.mirror_id()) {
            self.session
                .inner
                .measured(url, mirror, self.build(), transfer);
        }
    }
}

/// Beside its place, named by name and content: what another build left there is another file. No longer than any name.
pub(crate) fn part_name(name: &[u8], wanted: &WantedFile) -> String {
    let both = [name, wanted.entry.digest.as_bytes()].concat();
    let mut hex = Digest::of(&both).to_hex();
    hex.truncate(16);
    format!(".mirrorlog-{hex}.part")
}
