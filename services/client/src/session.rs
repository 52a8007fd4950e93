//! One channel's sources in one run.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirrorlog_core::client::climb::{
    self, Answer, Climb, Level, Rival, SourceIndex, Step, Verdict, Wish,
};
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::sign::KeyNumber;

use crate::Inner;
use crate::source::Source;
use crate::watch::{Event, Watch};

/// Why something of a build is not here.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// A newer build stands in: take everything from that one.
    #[error("build {0} has replaced it")]
    Replan(Build),
    /// Nobody has the build yet, and somebody may have it soon.
    #[error("no source that answers has the build yet")]
    Wait,
    /// There is nobody left to ask.
    #[error("{}", gave_up(*.0))]
    GaveUp(Verdict),
    /// The own disk is at fault.
    #[error(transparent)]
    Local(#[from] LocalFault),
}

/// The own disk is at fault: asking others does not help.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct LocalFault {
    /// Where.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

fn gave_up(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Nobody => "there is no source to ask",
        Verdict::Unreachable => "no source can be reached",
        Verdict::Missing => "no source has it now",
        Verdict::Corrupt => "every source that has it sends other bytes than signed",
        Verdict::Collected => "no source keeps the build any longer",
        Verdict::Retracted => "the build was taken back by the archive",
    }
}

/// Why one source did not give it.
pub(crate) enum Trouble {
    /// What it said or did.
    Answer(Answer),
    /// Asking others does not help.
    Local(LocalFault),
}

impl From<LocalFault> for Trouble {
    fn from(fault: LocalFault) -> Self {
        Self::Local(fault)
    }
}

impl From<Answer> for Trouble {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// One channel's sources in one run, and who of them failed in it.
pub(crate) struct Session {
    pub(crate) inner: Arc<Inner>,
    pub(crate) channel: ChannelId,
    sources: Vec<Source>,
    failed: Mutex<Vec<bool>>,
    /// How fast those were that were left for giving little, in bytes a second.
    slow: Mutex<Vec<Option<u64>>>,
    /// The number of a key that signed a statement and is not trusted.
    stranger: Mutex<Option<KeyNumber>>,
}

/// What is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Quest<'a> {
    pub(crate) build: Build,
    pub(crate) wish: Wish,
    /// For people.
    pub(crate) what: &'a str,
    pub(crate) watch: &'a dyn Watch,
}

/// Whose turn it is.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) index: SourceIndex,
    /// Who else there is.
    pub(crate) rival: Rival,
}

/// What was found, and how many were asked.
pub(crate) struct Climbed<T> {
    pub(crate) found: T,
    pub(crate) asked: usize,
}

impl Session {
    pub(crate) fn new(inner: Arc<Inner>, channel: ChannelId, sources: Vec<Source>) -> Self {
        let failed = Mutex::new(vec![false; sources.len()]);
        let slow = Mutex::new(vec![None; sources.len()]);
        Self {
            inner,
            channel,
            sources,
            failed,
            slow,
            stranger: Mutex::default(),
        }
    }

    /// Asks sources from near to far until one gives it.
    pub(crate) async fn climb<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        quest: Quest<'_>,
        attempt: impl Fn(Turn, Source) -> F,
    ) -> Result<Climbed<T>, Stop> {
        let mut climb = Climb::new(quest.build, quest.wish, self.order());
        let universe = |source: &Source| source.level() == Level::Universe;
        let universe = self.sources.iter().position(universe).map(SourceIndex);
        climb = climb.with_last_resort(universe);
        let mut step = climb.begin();
        loop {
            match step {
                Step::Ask(index) => {
                    let source = self.source(index);
                    tracing::debug!(source = source.name(), what = quest.what, "asking");
                    let rival = Rival::among(climb.others().map(|other| self.slow()[other.0]));
                    match attempt(Turn { index, rival }, source.clone()).await {
                        Ok(found) => {
                            return Ok(Climbed {
                                found,
                                asked: climb.asked(),
                            });
                        }
                        Err(Trouble::Local(fault)) => return Err(fault.into()),
                        Err(Trouble::Answer(answer)) => {
                            self.blame(index, quest.build, answer);
                            let (source, what) = (source.name(), quest.what);
                            tracing::debug!(source, what, ?answer, "left");
                            quest.watch.tell(Event::Left {
                                source,
                                what,
                                answer,
                            });
                            step = if let Answer::Slow(bytes_per_s) = answer {
                                climb.postponed(index, bytes_per_s)
                            } else {
                                climb.answered(answer)
                            };
                        }
                    }
                }
                Step::Replan(build) => return Err(Stop::Replan(build)),
                Step::Wait => return Err(Stop::Wait),
                Step::GiveUp(verdict) => return Err(Stop::GaveUp(verdict)),
            }
        }
    }

    pub(crate) fn source(&self, index: SourceIndex) -> &Source {
        &self.sources[index.0]
    }

    /// Remembers that a source failed, and tells the directory, if the user lets it.
    pub(crate) fn blame(&self, index: SourceIndex, build: Build, answer: Answer) {
        if let Answer::Slow(bytes_per_s) = answer {
            self.slow()[index.0] = Some(bytes_per_s);
        }
        if answer.blames_source() {
            self.failed()[index.0] = true;
        }
        if let Some(mirror) = self.source(index).mirror_id() {
            self.inner.feedback.failed(mirror, build, answer);
        }
    }

    /// Remembers whose signature was not accepted.
    pub(crate) fn signed_by(&self, stranger: KeyNumber) {
        *self.stranger.lock().unwrap_or_else(PoisonError::into_inner) = Some(stranger);
    }

    /// The number of a key that signed and is not trusted.
    pub(crate) fn stranger(&self) -> Option<String> {
        let stranger = *self.stranger.lock().unwrap_or_else(PoisonError::into_inner);
        stranger.map(|number| number.to_string())
    }

    /// Who is asked, in this order: name and level.
    pub(crate) fn standing(&self) -> Vec<(String, Level)> {
        let order = self.order().into_iter().map(|index| self.source(index));
        order
            .map(|source| (source.name().to_owned(), source.level()))
            .collect()
    }

    /// Mirrors that may help another one with a large file, from near to far: none that failed in this run.
    pub(crate) fn helpers(&self, with: SourceIndex) -> Vec<SourceIndex> {
        let failed = self.failed().clone();
        let usable = |index: &SourceIndex| {
            *index != with && !failed[index.0] && self.source(*index).level() != Level::Universe
        };
        self.order().into_iter().filter(usable).collect()
    }

    /// Who is asked, in this order.
    pub(crate) fn near(&self) -> Vec<SourceIndex> {
        self.order()
    }

    fn order(&self) -> Vec<SourceIndex> {
        let failed = self.failed();
        let levels = self.sources.iter().zip(failed.iter());
        let levels: Vec<_> = levels
            .map(|(source, failed)| (source.level(), *failed))
            .collect();
        let mut order = climb::order(&levels);
        // Whoever gave little is asked after all other mirrors, the fastest of them first.
        let slow = self.slow();
        order.sort_by_key(|index| {
            let (level, failed) = levels[index.0];
            let slowness = slow[index.0].map_or(0, |speed| u64::MAX - speed);
            (level == Level::Universe, failed, slowness)
        });
        order
    }

    fn slow(&self) -> MutexGuard<'_, Vec<Option<u64>>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Vec<bool>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
