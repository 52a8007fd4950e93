//! The climb: one thing of one build is looked for from near to far, and no source is asked twice.
//!
//! The cases, for a client that holds a part of build 37 and looks for the rest:
//!
//! | a source says | what follows |
//! | --- | --- |
//! | it has it | done |
//! | it has only older builds (36) | the next source; when nobody has it: wait, then again from the nearest one |
//! | it has moved on (38) and no longer holds 37 | plan anew at 38, unless a person asked for 37 |
//! | it lacks the file, sends other bytes, stalls, is away | the next source |
//! | it gives little, and somebody else may give more | the next source; when nobody gives more: the fastest of those, to the end |
//!
//! Who gives little is left without loss: the next one goes on where it stopped. So a mirror that drips costs a moment,
//! and behind a slow link, where all are alike, each is tried once and the fastest then has its time.
//!
//! Time is passed in as nothing at all: a wait is a step that the caller carries out.

use crate::directory::offer::Tier;
use crate::id::Build;

/// How far a source is; the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// In the client's network or country.
    Country,
    /// On its continent.
    Continent,
    /// Elsewhere.
    World,
    /// The archive itself: a last resort, never a starting point.
    Universe,
}

impl Level {
    /// The level as it stands in output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Country => "country",
            Self::Continent => "continent",
            Self::World => "world",
            Self::Universe => "universe",
        }
    }

    /// The level of a mirror by the word that a directory has for its tier; a word that is not known is far.
    pub fn of_tier(word: &str) -> Self {
        let near = [Tier::Netblock(0), Tier::As, Tier::Country];
        if near.iter().any(|tier| tier.as_str() == word) {
            Self::Country
        } else if word == Tier::Continent.as_str() {
            Self::Continent
        } else {
            Self::World
        }
    }
}

/// A source's place in the list that the client climbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceIndex(pub usize);

/// What a source said, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It has the build, and not this file of it.
    Missing,
    /// The build has not come there yet.
    Older,
    /// It has moved on to this build, and holds the wanted one no longer.
    Newer(Build),
    /// It says that the build was taken back.
    Retracted,
    /// Other bytes than signed.
    Corrupt,
    /// Nothing came for too long, or next to nothing.
    Stalled,
    /// So many bytes a second came, which is little, and somebody else may give more.
    Slow(u64),
    /// No connection, or it broke.
    Unreachable,
    /// It answered, and gave nothing.
    Refused,
}

impl Answer {
    /// True when the source itself is at fault, so that other things are better asked of others first.
    pub const fn blames_source(self) -> bool {
        match self {
            Self::Corrupt | Self::Stalled | Self::Unreachable => true,
            // It may be the client's own link.
            Self::Slow(_) => false,
            Self::Missing | Self::Older | Self::Newer(_) | Self::Retracted | Self::Refused => false,
        }
    }

    /// What is told to people.
    pub fn describe(self) -> String {
        match self {
            Self::Missing => "lacks the file".to_owned(),
            Self::Older => "does not have the build yet".to_owned(),
            Self::Newer(build) => format!("has moved on to build {build}"),
            Self::Retracted => "says that the build was taken back".to_owned(),
            Self::Corrupt => "sent other bytes than signed".to_owned(),
            Self::Stalled => "stalled".to_owned(),
            Self::Slow(bytes_per_s) => format!("gives {bytes_per_s} bytes a second"),
            Self::Unreachable => "cannot be reached".to_owned(),
            Self::Refused => "answered with an error".to_owned(),
        }
    }
}

/// Who else there is, for a source that gives little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// No other mirror.
    Nobody,
    /// The fastest of those that gave little too, in bytes a second.
    Slow(u64),
    /// Somebody of whom nothing is known.
    Untried,
}

impl Rival {
    /// The best of several, by what is known of their speed.
    pub fn among(speeds: impl IntoIterator<Item = Option<u64>>) -> Self {
        let better = |best, speed| match (best, speed) {
            (Self::Untried, _) | (_, None) => Self::Untried,
            (Self::Nobody, Some(speed)) => Self::Slow(speed),
            (Self::Slow(best), Some(speed)) => Self::Slow(best.max(speed)),
        };
        speeds.into_iter().fold(Self::Nobody, better)
    }

    /// Whether it is worth to go there. Twice as fast: two that are alike must not take turns.
    pub fn beats(self, bytes_per_s: u64) -> bool {
        match self {
            Self::Nobody => false,
            Self::Slow(other) => other / 2 > bytes_per_s,
            Self::Untried => true,
        }
    }
}

/// Whose wish the build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// A person named it: no other one will do.
    Named,
    /// It was the newest that is wanted: a newer one is as good.
    Newest,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this source.
    Ask(SourceIndex),
    /// Everything is to be taken from this newer build instead.
    Replan(Build),
    /// Nobody has the build yet: wait, learn who is there, and begin at the nearest again.
    Wait,
    /// There is nobody left to ask.
    GiveUp(Verdict),
}

/// Why nobody has it. Of several reasons, the one that says most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// There was nobody to ask.
    Nobody,
    /// No source could be reached.
    Unreachable,
    /// Those that answered lack the file.
    Missing,
    /// Those that answered sent other bytes than signed.
    Corrupt,
    /// The build is held no longer.
    Collected,
    /// The build was taken back.
    Retracted,
}

/// One climb. It remembers whom it asked and what they said.
#[derive(Clone, Debug)]
pub struct Climb {
    build: Build,
    wish: Wish,
    /// Those still to be asked, the next one last.
    rest: Vec<SourceIndex>,
    /// Those that gave little, with bytes a second: they come before the last resort, the fastest first.
    slow: Vec<(u64, SourceIndex)>,
    last_resort: Option<SourceIndex>,
    asked: usize,
    older: bool,
    worst: Verdict,
}

impl Climb {
    /// Begins at the first of `order`, which goes from near to far; sources that are named twice are asked once.
    pub fn new(build: Build, wish: Wish, order: impl IntoIterator<Item = SourceIndex>) -> Self {
        let mut rest: Vec<SourceIndex> = Vec::new();
        for source in order {
            if !rest.contains(&source) {
                rest.push(source);
            }
        }
        rest.reverse();
        Self {
            build,
            wish,
            rest,
            slow: Vec::new(),
            last_resort: None,
            asked: 0,
            older: false,
            worst: Verdict::Nobody,
        }
    }

    /// The same, with a source that is asked only when no other one gives anything.
    pub fn with_last_resort(mut self, source: Option<SourceIndex>) -> Self {
        self.last_resort = source;
        self
    }

    /// The first step.
    pub fn begin(&mut self) -> Step {
        self.next()
    }

    /// What follows when a source gives little: it is asked again when nobody gives more.
    pub fn postponed(&mut self, source: SourceIndex, bytes_per_s: u64) -> Step {
        self.slow.push((bytes_per_s, source));
        self.next()
    }

    /// Those that may still be asked, the last resort apart.
    pub fn others(&self) -> impl Iterator<Item = SourceIndex> {
        let slow = self.slow.iter().map(|(_, source)| *source);
        let rest = self.rest.iter().copied().chain(slow);
        rest.filter(|source| Some(*source) != self.last_resort)
    }

    /// What follows from an answer that is not the thing itself.
    pub fn answered(&mut self, answer: Answer) -> Step {
        let verdict = match answer {
            Answer::Newer(build) if self.wish == Wish::Newest && build > self.build => {
                return Step::Replan(build);
            }
            Answer::Newer(_) => Verdict::Collected,
            Answer::Older => {
                self.older = true;
                Verdict::Missing
            }
            Answer::Missing | Answer::Refused => Verdict::Missing,
            Answer::Retracted => Verdict::Retracted,
            Answer::Corrupt => Verdict::Corrupt,
            Answer::Stalled | Answer::Slow(_) | Answer::Unreachable => Verdict::Unreachable,
        };
        self.worst = self.worst.max(verdict);
        self.next()
    }

    /// How many sources were named so far.
    pub fn asked(&self) -> usize {
        self.asked
    }

    fn next(&mut self) -> Step {
        let untried = self
            .rest
            .iter()
            .any(|source| Some(*source) != self.last_resort);
        let fastest = self
            .slow
            .iter()
            .enumerate()
            .max_by_key(|(_, (speed, _))| *speed);
        if let Some((index, _)) = fastest.filter(|_| !untried) {
            return Step::Ask(self.slow.remove(index).1);
        }
        if let Some(source) = self.rest.pop() {
            self.asked += 1;
            return Step::Ask(source);
        }
        // That a build was taken back, or is no longer held, is said by one source of another's build, and unsigned.
        if self.older {
            return Step::Wait;
        }
        Step::GiveUp(self.worst)
    }
}

/// Sources from near to far: by level, inside a level those that failed in this run last, then as they are given.
///
/// The archive stays the last, whatever the others did.
pub fn order(sources: &[(Level, bool)]) -> Vec<SourceIndex> {
    let mut order: Vec<usize> = (0..sources.len()).collect();
    let key = |index: &usize| {
        let (level, failed) = sources[*index];
        // A mirror that failed is asked after all other mirrors, and before the archive.
        (level == Level::Universe, failed, level)
    };
    order.sort_by_key(key);
    order.into_iter().map(SourceIndex).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(number: u64) -> Build {
        Build::new(number).unwrap()
    }

    /// Two countries on two continents: three mirrors here, two far away, and the archive.
    const FIVE: [(Level, bool); 6] = [
        (Level::World, false),
        (Level::Country, false),
        (Level::Universe, false),
        (Level::Country, false),
        (Level::World, false),
        (Level::Country, false),
    ];

    /// Who ends up giving it, and after how many questions, when these say something else.
    fn climbs(wish: Wish, says: impl Fn(usize) -> Option<Answer>) -> (Step, Vec<usize>) {
        let mut climb = Climb::new(build(37), wish, order(&FIVE));
        let mut asked = Vec::new();
        let mut step = climb.begin();
        while let Step::Ask(source) = step {
            asked.push(source.0);
            match says(source.0) {
                None => return (step, asked),
                Some(answer) => step = climb.answered(answer),
            }
        }
        assert_eq!(climb.asked(), asked.len());
        (step, asked)
    }

    #[test]
    fn each_of_the_31_subsets_that_lack_a_file_ends_at_the_nearest_that_has_it() {
        let mirrors = [1, 3, 5, 0, 4];
        for subset in 1_u32..32 {
            let lacks = |source: usize| {
                let place = mirrors.iter().position(|mirror| *mirror == source);
                place.is_some_and(|place| subset >> place & 1 == 1)
            };
            let (step, asked) = climbs(Wish::Newest, |source| {
                lacks(source).then_some(Answer::Missing)
            });
            let first = mirrors.iter().position(|mirror| !lacks(*mirror));
            let expected = first.map_or(2, |place| mirrors[place]);
            assert_eq!(step, Step::Ask(SourceIndex(expected)), "{subset:05b}");
            assert_eq!(asked.len(), first.unwrap_or(5) + 1, "{subset:05b}");
        }
    }

    #[test]
    fn older_everywhere_is_waited_for() {
        let (step, asked) = climbs(Wish::Newest, |_| Some(Answer::Older));
        assert_eq!(step, Step::Wait);
        assert_eq!(asked, [1, 3, 5, 0, 4, 2]);
        // Somebody who lacks the file or is away does not make it hopeless.
        let mixed = |source| {
            Some(if source == 3 {
                Answer::Older
            } else {
                Answer::Unreachable
            })
        };
        assert_eq!(climbs(Wish::Named, mixed).0, Step::Wait);
    }

    #[test]
    fn newer_is_planned_anew_unless_a_person_named_the_build() {
        let says = |source| match source {
            1 => Some(Answer::Older),
            3 => Some(Answer::Newer(build(38))),
            _rest => None,
        };
        let (step, asked) = climbs(Wish::Newest, says);
        assert_eq!((step, asked.len()), (Step::Replan(build(38)), 2));
        let (step, asked) = climbs(Wish::Named, says);
        assert_eq!((step, asked), (Step::Ask(SourceIndex(5)), vec![1, 3, 5]));
        // What calls itself newer and is not is only somebody without it.
        let lies = |_| Some(Answer::Newer(build(37)));
        assert_eq!(
            climbs(Wish::Newest, lies).0,
            Step::GiveUp(Verdict::Collected)
        );
    }

    #[test]
    fn what_nobody_has_ends_with_the_reason_that_says_most() {
        let all = |answer| climbs(Wish::Newest, move |_| Some(answer)).0;
        assert_eq!(all(Answer::Unreachable), Step::GiveUp(Verdict::Unreachable));
        assert_eq!(all(Answer::Stalled), Step::GiveUp(Verdict::Unreachable));
        assert_eq!(all(Answer::Missing), Step::GiveUp(Verdict::Missing));
        assert_eq!(all(Answer::Retracted), Step::GiveUp(Verdict::Retracted));
        let one_is_corrupt = |source| {
            Some(if source == 5 {
                Answer::Corrupt
            } else {
                Answer::Missing
            })
        };
        assert_eq!(
            climbs(Wish::Newest, one_is_corrupt).0,
            Step::GiveUp(Verdict::Corrupt)
        );
        let mut nobody = Climb::new(build(1), Wish::Newest, []);
        assert_eq!(nobody.begin(), Step::GiveUp(Verdict::Nobody));
    }

    #[test]
    fn who_failed_comes_after_all_other_mirrors_and_before_the_archive() {
        let mut sources = FIVE;
        sources[1].1 = true;
        let order: Vec<usize> = order(&sources).into_iter().map(|source| source.0).collect();
        assert_eq!(order, [3, 5, 0, 4, 1, 2]);
    }

    #[test]
    fn attack_a_source_that_gives_little_is_left_and_comes_back_last() {
        let three = [0, 1, 9].map(SourceIndex);
        let mut climb = Climb::new(build(37), Wish::Newest, three).with_last_resort(Some(three[2]));
        assert_eq!(climb.begin(), Step::Ask(three[0]));
        assert_eq!(climb.others().collect::<Vec<_>>(), [three[1]]);
        // The first drips. The second is what the own link gives.
        assert_eq!(climb.postponed(three[0], 500), Step::Ask(three[1]));
        assert_eq!(
            climb.postponed(three[1], 2500),
            Step::Ask(three[1]),
            "the fastest, not the archive"
        );
        assert_eq!(climb.others().collect::<Vec<_>>(), [three[0]]);
        assert_eq!(climb.asked(), 2);
        assert_eq!(climb.answered(Answer::Stalled), Step::Ask(three[0]));
        assert_eq!(climb.answered(Answer::Stalled), Step::Ask(three[2]));
        assert_eq!(
            climb.answered(Answer::Missing),
            Step::GiveUp(Verdict::Missing)
        );
    }

    #[test]
    fn a_rival_is_untried_or_twice_as_fast() {
        let among = |speeds: &[Option<u64>]| Rival::among(speeds.iter().copied());
        assert_eq!(among(&[]), Rival::Nobody);
        assert_eq!(among(&[Some(3), Some(9), Some(1)]), Rival::Slow(9));
        assert_eq!(among(&[Some(3), None, Some(9)]), Rival::Untried);
        assert!(!Rival::Nobody.beats(0) && Rival::Untried.beats(u64::MAX));
        assert!(Rival::Slow(2500).beats(500) && !Rival::Slow(2500).beats(2400));
    }

    #[test]
    fn tiers_are_levels() {
        let tiers = [
            Tier::Netblock(9),
            Tier::As,
            Tier::Country,
            Tier::Continent,
            Tier::World,
        ];
        let levels = tiers.map(|tier| Level::of_tier(tier.as_str()));
        use Level::{Continent, Country, World};
        assert_eq!(levels, [Country, Country, Country, Continent, World]);
        assert_eq!(Level::of_tier("galaxy"), World);
    }

    proptest! {
        #[test]
        fn invariant_no_source_is_asked_twice(order in proptest::collection::vec(0_usize..8, 0..20), says in any::<u64>()) {
            let mut climb = Climb::new(build(37), Wish::Named, order.iter().map(|index| SourceIndex(*index)));
            let (mut asked, mut step) = (Vec::new(), climb.begin());
            while let Step::Ask(source) = step {
                prop_assert!(!asked.contains(&source));
                asked.push(source);
                let answers = [Answer::Missing, Answer::Older, Answer::Corrupt, Answer::Newer(build(40))];
                step = climb.answered(answers[(says >> (source.0 * 2) & 3) as usize]);
            }
            let all: std::collections::BTreeSet<usize> = order.into_iter().collect();
            prop_assert_eq!(asked.len(), all.len());
        }
    }
}
