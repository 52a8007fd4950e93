//! Build numbers and retraction sequences: one more for each, none given twice, whatever was lost.

use std::fmt;

use crate::id::Build;

/// Everything that bears on the next number of a channel. 0 is "none" throughout.
///
/// `Series` [`Series::Builds`]: a number that was reserved and lost in a crash stays unused.
/// [`Series::Retractions`]: sequences have no gaps, so it is used again; nothing was signed under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// What is counted.
    pub series: Series,
    /// The newest number in the journal.
    pub journaled: u64,
    /// What this archive noted of its own reservations.
    pub note: Note,
    /// The shared counter; `None` when the key is lost or was never made.
    pub counted: Option<Counted>,
    /// The newest that a mirror reports to hold; matters only when the counter is lost.
    pub reported: u64,
}

/// The shared counter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counted {
    /// The archive process that wrote it. No two processes have the same epoch.
    pub epoch: u64,
    /// The newest number that was reserved.
    pub number: u64,
}

/// What an archive notes, durably, before it changes the shared counter: tells its own reservations,
/// whose numbers a crash left unused, from another archive's, whose builds are missing here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Note {
    /// The newest number that it meant to reserve.
    pub number: u64,
    /// Epochs under which the counter holds it: before and after the change. 0: under none.
    pub epochs: [u64; 2],
}

impl Note {
    /// True when the counter's number was reserved by this archive.
    pub fn owns(&self, counted: &Counted) -> bool {
        counted.epoch != 0 && counted.number <= self.number && self.epochs.contains(&counted.epoch)
    }

    /// The note to make before the counter is put under `epoch`, its number unchanged.
    ///
    /// A note of a reservation that did not come to pass is voided: what the counter holds is another archive's.
    #[must_use]
    pub fn claiming(&self, counted: &Counted, epoch: u64) -> Self {
        let epochs = if self.owns(counted) {
            [counted.epoch, epoch]
        } else {
            [0; 2]
        };
        Self {
            number: self.number,
            epochs,
        }
    }

    /// The note to make before numbers up to `last` are reserved under `epoch`.
    #[must_use]
    pub fn reserving(&self, counted: Option<&Counted>, epoch: u64, last: u64) -> Self {
        let before = counted.filter(|counted| self.owns(counted));
        let epochs = [before.map_or(epoch, |counted| counted.epoch), epoch];
        Self {
            number: self.number.max(last),
            epochs,
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Series {
    /// Builds of a channel.
    Builds,
    /// Retractions of a channel.
    Retractions,
}

/// Who knows of something that the journal lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The shared counter.
    Counter,
    /// A mirror's report.
    Mirror,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Builds => "build",
            Self::Retractions => "retraction",
        })
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "the counter",
            Self::Mirror => "a mirror's report",
        })
    }
}

/// The journal lacks something that was published: no number can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{witness} knows {series} {seen}, but the journal ends at {journaled}")]
pub struct Behind {
    /// Who knows better.
    pub witness: Witness,
    /// What is counted.
    pub series: Series,
    /// The newest number known to them.
    pub seen: u64,
    /// The newest number in the journal.
    pub journaled: u64,
}

impl Counter {
    /// The next number: above everything that may have been given out.
    ///
    /// # Errors
    /// [`Behind`] when somebody knows of a number that this archive neither journaled nor meant to use:
    /// the journal was restored from an older copy, or another archive published.
    pub fn next(&self) -> Result<u64, Behind> {
        let (series, journaled) = (self.series, self.journaled);
        let behind = |witness, seen| Behind {
            witness,
            series,
            seen,
            journaled,
        };
        match self.counted {
            Some(counted) if counted.number > journaled && !self.note.owns(&counted) => {
                return Err(behind(Witness::Counter, counted.number));
            }
            None if self.reported > journaled => {
                return Err(behind(Witness::Mirror, self.reported));
            }
            Some(_) | None => {}
        }
        let counted = self.counted.map_or(0, |counted| counted.number);
        Ok(match series {
            Series::Builds => journaled
                .max(self.note.number)
                .max(counted)
                .saturating_add(1),
            Series::Retractions => journaled.saturating_add(1),
        })
    }

    /// The next build number; see [`Counter::next`].
    ///
    /// # Errors
    /// [`Behind`], as [`Counter::next`].
    pub fn next_build(&self) -> Result<Build, Behind> {
        self.next()
            .map(|number| Build::new(number).unwrap_or(Build::FIRST))
    }
}
