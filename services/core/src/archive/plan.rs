//! Whether a publication or a retraction is allowed, and what it amounts to.

use crate::archive::history::History;
use crate::id::{Build, Digest, Lane};
use crate::limits::{RETRACTIONS_MAX, TEXT_MAX_BYTES};

/// One build that a publisher asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The manifest's root.
    pub root: Digest,
    /// The build that it rests on. Counts for the first step only: the second rests on the first.
    pub base: Option<Build>,
    /// Its lane.
    pub lane: Lane,
}

/// One build, numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its number.
    pub build: Build,
    /// The build that it may be applied over.
    pub base: Option<Build>,
    /// The manifest's root.
    pub root: Digest,
    /// Its lane.
    pub lane: Lane,
}

/// Why a publication or retraction is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another build came in between. Try again from a new scan.
    #[error("the newest build is {}, not {}: another publication came first, scan again", newest.map_or(0, Build::get), expected.map_or(0, Build::get))]
    NewestMoved {
        /// What the publisher thought.
        expected: Option<Build>,
        /// What is.
        newest: Option<Build>,
    },
    /// The tree is one that was taken back.
    #[error(
        "root {root} is that of build {build}, which was retracted; allow it with --allow-retracted"
    )]
    Retracted {
        /// The tree.
        root: Digest,
        /// The build that had it.
        build: Build,
    },
    /// Neither one build nor a priority build followed by a bulk one.
    #[error("a publication is one build, or a priority build followed by a bulk one")]
    Shape,
    /// The base is no build of the channel, or was taken back.
    #[error("base {} is not the newest build, nor an earlier good one under a priority build", base.map_or(0, Build::get))]
    Base {
        /// What was given.
        base: Option<Build>,
    },
    /// A range that is empty or reaches past the newest build.
    #[error("builds {first}-{last} cannot be retracted: the newest build is {}", newest.map_or(0, Build::get))]
    Range {
        /// First build of the range.
        first: Build,
        /// Last build of the range.
        last: Build,
        /// The newest build.
        newest: Option<Build>,
    },
    /// Nothing in the range is left to take back.
    #[error("all of builds {first} to {last} is retracted already")]
    AlreadyRetracted {
        /// First build of the range.
        first: Build,
        /// Last build of the range.
        last: Build,
    },
    /// No build would be left to be the head.
    #[error("no good build would be left: name a replacement")]
    NothingLeft,
    /// A text that is empty or too long.
    #[error("{what} must be one line of 1 to {TEXT_MAX_BYTES} bytes")]
    Text {
        /// Which text.
        what: &'static str,
    },
    /// Too many retractions.
    #[error("a channel can have {RETRACTIONS_MAX} retractions at most")]
    TooManyRetractions,
}

/// How a publication is cut into builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// One build on top of the newest.
    One,
    /// The changes on top of this wanted build for the priority lane, then the whole on the bulk lane.
    Two(Build),
}

/// Decides the cut: a priority publication that names its changes makes two builds while mirrors still lack the head.
///
/// `wanted` is the newest build wanted in any pool.
pub fn split(lane: Lane, changes_named: bool, head: Option<Build>, wanted: Option<Build>) -> Split {
    match (lane, wanted) {
        (Lane::Priority, Some(wanted)) if changes_named && head > Some(wanted) => {
            Split::Two(wanted)
        }
        (Lane::Priority | Lane::Bulk, _) => Split::One,
    }
}

/// Numbers the steps of a publication from `first` on.
///
/// `replaced` is the range that the same step takes back: its trees count as retracted already.
///
/// # Errors
/// [`Refusal`]: nothing of it may be published then.
pub fn plan(
    history: &History,
    expected_newest: Option<Build>,
    steps: &[Step],
    first: Build,
    allow_retracted: bool,
    replaced: Option<(Build, Build)>,
) -> Result<Vec<Planned>, Refusal> {
    let newest = history.newest().map(|newest| newest.build);
    if newest != expected_newest {
        return Err(Refusal::NewestMoved {
            expected: expected_newest,
            newest,
        });
    }
    let lanes: Vec<Lane> = steps.iter().map(|step| step.lane).collect();
    let on_older = match lanes.as_slice() {
        [_] => false,
        [Lane::Priority, Lane::Bulk] => true,
        [..] => return Err(Refusal::Shape),
    };
    let base = steps[0].base;
    let earlier = on_older
        && base.is_some_and(|base| history.get(base).is_some() && !history.is_retracted(base));
    if base != newest && !earlier {
        return Err(Refusal::Base { base });
    }
    if !allow_retracted {
        check_roots(history, steps, replaced)?;
    }
    let mut planned: Vec<Planned> = Vec::with_capacity(steps.len());
    for step in steps {
        let before = planned.last().map(|before| before.build);
        let build = before.map_or(first, Build::next);
        planned.push(Planned {
            build,
            base: before.or(step.base),
            root: step.root,
            lane: step.lane,
        });
    }
    Ok(planned)
}

fn check_roots(
    history: &History,
    steps: &[Step],
    replaced: Option<(Build, Build)>,
) -> Result<(), Refusal> {
    let replaced = replaced
        .into_iter()
        .flat_map(|(first, last)| history.from(first).take_while(move |p| p.build <= last));
    let bad: Vec<_> = history.retracted().chain(replaced).collect();
    for step in steps {
        if let Some(bad) = bad.iter().find(|bad| bad.root == step.root) {
            return Err(Refusal::Retracted {
                root: step.root,
                build: bad.build,
            });
        }
    }
    Ok(())
}

/// Checks a retraction; `replaced` says whether a replacement comes with it.
///
/// # Errors
/// [`Refusal`] with what is wrong.
pub fn check_retraction(
    history: &History,
    first: Build,
    last: Build,
    reason: &str,
    replaced: bool,
) -> Result<(), Refusal> {
    let newest = history.newest().map(|newest| newest.build);
    if first > last || newest < Some(last) {
        return Err(Refusal::Range {
            first,
            last,
            newest,
        });
    }
    if reason.trim().is_empty()
        || reason.len() > TEXT_MAX_BYTES
        || reason.contains(['\n', '\r', '\0'])
    {
        return Err(Refusal::Text { what: "the reason" });
    }
    if history
        .withdrawn()
        .iter()
        .any(|(from, to)| *from <= first && last <= *to)
    {
        return Err(Refusal::AlreadyRetracted { first, last });
    }
    if history.retractions().len() >= RETRACTIONS_MAX {
        return Err(Refusal::TooManyRetractions);
    }
    if !replaced && history.head_without(first, last).is_none() {
        return Err(Refusal::NothingLeft);
    }
    Ok(())
}
