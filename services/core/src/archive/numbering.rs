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
    /// The newest number for which this archive noted, before it reserved it, that it would.
    /// Above `journaled` after a crash between the two.
    pub intended: u64,
    /// The number in the shared counter; `None` when the key is lost or was never made.
    pub counted: Option<u64>,
    /// The newest that a mirror reports to hold; matters only when the counter is lost.
    pub reported: u64,
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
        let own = self.journaled.max(self.intended);
        let (series, journaled) = (self.series, self.journaled);
        let behind = |witness, seen| Behind {
            witness,
            series,
            seen,
            journaled,
        };
        match self.counted {
            Some(seen) if seen > own => return Err(behind(Witness::Counter, seen)),
            None if self.reported > own => return Err(behind(Witness::Mirror, self.reported)),
            Some(_) | None => {}
        }
        Ok(match series {
            Series::Builds => own.saturating_add(1),
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
