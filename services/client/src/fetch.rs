//! One file of a pinned build, from whoever has it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mirrorlog_core::client::climb::{Answer, SourceIndex};
use mirrorlog_core::client::speed::Transfer;

use crate::part::Part;
use crate::pin::{Pinned, WantedFile, shown};
use crate::session::{Climbed, LocalFault, Stop};
use crate::source::Source;
use crate::transfer::Coming;
use crate::watch::{Event, Watch};

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
        let part = part_path(to, file);
        let fetched = self.fetch_part(file, &part, watch).await?;
        let path = to.to_owned();
        std::fs::rename(&part, to).map_err(|source| LocalFault { path, source })?;
        Ok(fetched)
    }

    /// Fetches a file, verified, into `part`, going on with what is there.
    pub(crate) async fn fetch_part(
        &self,
        file: &WantedFile,
        part: &Path,
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
        let attempt = |index, _: Source| async move {
            let coming = Coming {
                pinned: self,
                index,
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
            found: transfer,
            source: index,
            asked,
        } = climbed;
        for liar in part.into_inner().liars().unwrap_or_default() {
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

/// Beside its place, named by its content: what another build left there is another file.
pub(crate) fn part_path(file: &Path, wanted: &WantedFile) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(format!(".part-{}", &wanted.entry.digest.to_hex()[..16]));
    file.with_file_name(name)
}
