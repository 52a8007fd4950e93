//! Which faults there are, how likely each is, and how often it was played.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;

use crate::load::Chance;

/// What may happen to a message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    /// It never arrives
    Drop,
    /// It arrives twice
    Double,
    /// Later ones overtake it
    Reorder,
    /// It is held for a while
    Delay,
    /// The connection ends in its place
    Cut,
    /// Nothing moves for a while, or ever again
    Stall,
    /// All of the above
    All,
    /// The log is killed and begins empty
    Wipe,
    /// The log is killed and begins with an older copy of itself
    Rollback,
}

/// A held message lets at most so many overtake it.
pub(super) const OVERTAKE_MAX: u64 = 8;
/// With nobody to overtake it, it goes on after this.
pub(super) const OVERTAKE_WITHIN: Duration = Duration::from_millis(300);
/// Longest time for which one message is held.
pub(super) const HOLD_MAX: Duration = Duration::from_millis(1500);
/// Longest silence of a connection that goes on afterwards; longer than it takes to be noticed.
pub(super) const STALL_MAX: Duration = Duration::from_secs(25);

const ALL: [Fault; 6] = [
    Fault::Drop,
    Fault::Double,
    Fault::Reorder,
    Fault::Delay,
    Fault::Cut,
    Fault::Stall,
];

impl Fault {
    /// Messages of a million that it befalls when it is played alone.
    fn per_million(self) -> u64 {
        match self {
            Self::Drop => 20_000,
            Self::Double | Self::Reorder => 100_000,
            Self::Delay => 50_000,
            Self::Cut => 5_000,
            Self::Stall => 500,
            Self::All | Self::Wipe | Self::Rollback => 0,
        }
    }

    pub(super) fn how(self) -> String {
        let per_million = self.per_million();
        let hold = HOLD_MAX.as_secs_f64();
        let stall = STALL_MAX.as_secs();
        match self {
            Self::Drop => format!("{per_million} of a million messages, both ways, dropped"),
            Self::Double => format!("{per_million} of a million, twice"),
            Self::Reorder => {
                format!("{per_million} of a million, behind up to {OVERTAKE_MAX} later ones")
            }
            Self::Delay => format!("{per_million} of a million, held up to {hold} s"),
            Self::Cut => format!("{per_million} of a million end their connection"),
            Self::Stall => {
                format!(
                    "{per_million} of a million: silence up to {stall} s, half of them for ever"
                )
            }
            Self::All => "each of these at a third".to_owned(),
            Self::Wipe => "nats-server killed, its folder removed".to_owned(),
            Self::Rollback => "nats-server killed, an older copy of its folder put back".to_owned(),
        }
    }
}

/// How likely each fault is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Odds(&'static [(Fault, u64)]);

impl Odds {
    /// Of one fault, or of all of them at a third.
    pub(super) fn of(fault: Fault) -> Self {
        let of = |fault: Fault, share: u64| (fault, fault.per_million() / share);
        let odds = match fault {
            Fault::All => ALL.map(|fault| of(fault, 3)).to_vec(),
            Fault::Wipe | Fault::Rollback => Vec::new(),
            Fault::Drop
            | Fault::Double
            | Fault::Reorder
            | Fault::Delay
            | Fault::Cut
            | Fault::Stall => vec![of(fault, 1)],
        };
        // A handful in a run of the program.
        Self(odds.leak())
    }

    /// What befalls the next message.
    pub(super) fn choose(self, chance: &mut Chance) -> Option<Fault> {
        let mut drawn = chance.below(1_000_000);
        for (fault, per_million) in self.0 {
            if drawn < *per_million {
                return Some(*fault);
            }
            drawn -= per_million;
        }
        None
    }
}

/// How often each fault was played.
#[derive(Debug, Default)]
pub(super) struct Played([AtomicU64; 6]);

impl Played {
    pub(super) fn count(&self, fault: Fault) {
        if let Some(place) = ALL.iter().position(|one| *one == fault) {
            self.0[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> u64 {
        self.0.iter().map(|one| one.load(Ordering::Relaxed)).sum()
    }
}

impl std::fmt::Display for Played {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (fault, count) in ALL.iter().zip(&self.0) {
            write!(f, "{fault:?} {} ", count.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}
