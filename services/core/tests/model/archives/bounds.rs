//! How far the models of archives go.

use super::properties::LOST;
use super::*;
use crate::check::{Bound, breaks, holds};

const SMALL: Archives = Archives {
    count: 2,
    left: Left {
        publications: 2,
        crashes: 1,
        silences: 0,
        wipes: 1,
    },
    loss: Loss::Log,
    rule: Rule::Kept,
};

fn archives(small: Left, large: Left) -> Archives {
    let left = match Bound::asked() {
        Bound::Small => small,
        Bound::Large => large,
    };
    Archives { left, ..SMALL }
}

const fn left(publications: u8, crashes: u8, silences: u8, wipes: u8) -> Left {
    Left {
        publications,
        crashes,
        silences,
        wipes,
    }
}

#[test]
fn two_archives_and_the_loss_of_the_log() {
    holds("two archives", archives(left(2, 1, 0, 0), left(2, 1, 0, 1)));
}

#[test]
fn one_archive_and_the_loss_of_all_that_the_server_had() {
    let model = Archives {
        count: 1,
        loss: Loss::LogAndCounters,
        ..archives(left(2, 1, 1, 1), left(3, 2, 1, 1))
    };
    holds("one archive", model);
}

/// Where the fence ends: counters and log are gone, and the other archive's journal holds what no mirror has.
#[test]
fn two_archives_and_the_loss_of_all_that_the_server_had() {
    if Bound::asked() == Bound::Large {
        let loss = Loss::LogAndCounters;
        holds("two archives, counters lost", Archives { loss, ..SMALL });
    }
}

#[test]
fn broken_journal_after_log() {
    let model = Archives {
        rule: Rule::JournalAfterLog,
        ..SMALL
    };
    breaks("journal after log", model, LOST);
}
