//! `select`: a mirror is chosen, and the package manager is told.

mod apt;
mod ending;
mod list;
mod pick;
mod rows;
mod written;

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};

use client::{Candidates, Carried, Client, Event, Outcome, Watch};
use serde_json::{Value, json};

use self::list::Picked;
use self::pick::Progress;
use self::written::Draft;
use super::client::{client, directory_failed, options_for_lists};
use crate::args::SelectArgs;
use crate::failure::{ABSENT, DOWN, Failure, USAGE};
use crate::output::{BOLD, Output, plain};

/// The end of a program that Ctrl-C ended, as shells tell it.
const INTERRUPTED: u8 = 130;
/// Reasons that one line names.
const REASONS_MAX: usize = 5;

pub(crate) async fn run(args: SelectArgs, output: &Output) -> Result<u8, Failure> {
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if args.apply && !args.auto && !terminal {
        let text = "--apply needs --auto where there is no terminal to choose on";
        return Err(Failure::text(USAGE, text));
    }
    let client = client(options_for_lists(&args.client)?)?;
    let notes = Notes {
        output: *output,
        away: AtomicBool::new(false),
    };
    let channels = channels(&client, &args, &notes).await?;
    written::check(&args, &channels)?;
    let found = candidates(&client, &channels, &notes).await?;
    let progress = Progress::new(&found);
    let chosen = if args.auto {
        pick::auto(&client, &channels[0], &found, &progress)
            .await
            .map(Some)
    } else {
        let measuring = pick::measure_some(&client, &channels[0], &found, &progress);
        if terminal {
            match list::choose(&channels[0], &found, &progress, measuring).await? {
                Picked::Place(place) => Ok(Some(place)),
                Picked::Nothing => Ok(None),
                Picked::Interrupted => return Ok(INTERRUPTED),
                Picked::Ended(ending) => return Ok(ending.code()),
            }
        } else {
            measuring.await;
            Ok(None)
        }
    };
    client.tell_feedback().await;
    let chosen = chosen?;
    let draft = match chosen {
        Some(place) => {
            Some(written::draft(&client, &args, &channels, &found.offered[place], &notes).await?)
        }
        None => None,
    };
    if output.json {
        // Applied first, so that the document says what is so.
        let kept = draft.as_ref().map(|draft| draft.apply(&args)).transpose()?;
        output.json(&document(
            &channels,
            &found,
            &progress,
            chosen,
            draft.as_ref(),
            kept.as_ref(),
        ));
        return Ok(0);
    }
    match (&draft, chosen) {
        (Some(draft), Some(place)) => {
            said_of(&found, &progress, place, output);
            draft.tell(&args, output)?;
        }
        (None, _) | (_, None) if terminal => {
            output.note("nothing was chosen, and nothing is changed")
        }
        (None, _) | (_, None) => {
            rows::table(&channels[0], &found, &progress, output);
            output.note(
                "no mirror is chosen: use --auto, or run it on a terminal to choose from a list",
            );
        }
    }
    Ok(0)
}

/// The channels to select for: the one that is named, or all of the only mount.
async fn channels(
    client: &Client,
    args: &SelectArgs,
    notes: &Notes,
) -> Result<Vec<Carried>, Failure> {
    let all = client.carried(notes).await.map_err(directory_failed)?;
    let names = || {
        let names: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
        names.join(", ")
    };
    let Some(first) = all.first() else {
        return Err(Failure::text(ABSENT, "the directory has no channel yet"));
    };
    if let Some(id) = &args.channel {
        let found = all.iter().find(|one| one.id == *id);
        let absent = || {
            Failure::text(
                ABSENT,
                format!("the directory knows no channel {id}; it knows {}", names()),
            )
        };
        return Ok(vec![found.ok_or_else(absent)?.clone()]);
    }
    if all.iter().any(|one| one.mount != first.mount) {
        let text = format!(
            "the directory has channels at several mounts: name one of {}",
            names()
        );
        return Err(Failure::text(USAGE, text));
    }
    Ok(all
        .iter()
        .filter(|one| one.layout == first.layout)
        .cloned()
        .collect())
}

/// The mirrors that are offered for all of the channels.
async fn candidates(
    client: &Client,
    channels: &[Carried],
    notes: &Notes,
) -> Result<Candidates, Failure> {
    let mut common: Option<Candidates> = None;
    for channel in channels {
        let next = client
            .candidates(&channel.id, notes)
            .await
            .map_err(directory_failed)?;
        match &mut common {
            None => common = Some(next),
            Some(common) => {
                let offered = |id: &str| next.offered.iter().any(|one| one.id.as_str() == id);
                common.offered.retain(|one| offered(one.id.as_str()));
                for excluded in next.excluded {
                    if common.excluded.iter().all(|one| one.id != excluded.id) {
                        common.excluded.push(excluded);
                    }
                }
            }
        }
    }
    let found = common.filter(|found| !found.offered.is_empty() && found.build.is_some());
    match found {
        Some(found) => Ok(found),
        None => Err(nobody(client, &channels[0], notes).await),
    }
}

/// Nobody is offered: why not.
async fn nobody(client: &Client, channel: &Carried, notes: &Notes) -> Failure {
    let excluded = client
        .candidates(&channel.id, notes)
        .await
        .map(|found| found.excluded);
    let excluded = excluded.unwrap_or_default();
    let reasons = excluded
        .iter()
        .take(REASONS_MAX)
        .map(|one| format!("{}: {}", plain(&one.id), plain(&one.reason)));
    let reasons: Vec<String> = reasons.collect();
    let reasons = if reasons.is_empty() {
        "none is known".to_owned()
    } else {
        reasons.join("; ")
    };
    Failure::text(
        DOWN,
        format!(
            "no mirror is offered for {} now ({reasons}); try again later",
            channel.id
        ),
    )
}

/// Who was chosen, for people.
fn said_of(found: &Candidates, progress: &Progress, place: usize, output: &Output) {
    let one = &found.offered[place];
    for (place, reason) in progress.troubles() {
        output.note(&format!("{}: {}", found.offered[place].id, plain(&reason)));
    }
    let row = rows::row(one, &progress.at(place), found.build, None, 0);
    let country = one
        .country
        .map_or_else(String::new, |country| format!(" in {country}"));
    output.line(&format!(
        "{BOLD}{}{BOLD:#}{country} ({}), {}, at {}",
        one.id,
        plain(&row.distance),
        row.speed,
        one.url
    ));
}

fn document(
    channels: &[Carried],
    found: &Candidates,
    progress: &Progress,
    chosen: Option<usize>,
    draft: Option<&Draft>,
    kept: Option<&written::Applied>,
) -> Value {
    let candidates = found.offered.iter().enumerate().map(|(place, one)| {
        let measured = progress.at(place).measured();
        let (speed, state, reason) = match measured.as_ref().map(|measured| &measured.outcome) {
            Some(Outcome::Measured(speed)) => (Some(*speed), "measured", None),
            Some(Outcome::Known(speed)) => (Some(*speed), "known", None),
            Some(Outcome::Cache(why)) => (None, "cache", Some((*why).to_owned())),
            Some(Outcome::Failed(reason)) => (None, "failed", Some(reason.clone())),
            None if one.known.is_some() => (one.known, "known", None),
            None => (None, "unknown", None),
        };
        json!({
            "id": one.id.as_str(),
            "url": one.url,
            "live": one.live(&channels[0].mount),
            "country": one.country.map(|country| country.to_string()),
            "pool": one.pool.as_str(),
            "tier": one.tier,
            "build": found.build.map(|build| build.get()),
            "connect_ms": measured.and_then(|measured| measured.connect_ms),
            "bytes_per_s": speed.map(f64::round),
            "speed": state,
            "reason": reason,
        })
    });
    let files = draft.map(|draft| draft.documents(kept)).unwrap_or_default();
    json!({
        "channels": channels.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(),
        "mount": channels[0].mount.as_str(),
        "build": found.build.map(|build| build.get()),
        "newest": channels[0].newest.map(|build| build.get()),
        "candidates": candidates.collect::<Vec<_>>(),
        "excluded": found.excluded,
        "choice": chosen.map(|place| found.offered[place].id.as_str()),
        "text": draft.map(Draft::text),
        "files": files,
    })
}

/// What happens meanwhile that people should know.
struct Notes {
    output: Output,
    /// That the directory is away is said once.
    away: AtomicBool,
}

impl Watch for Notes {
    fn tell(&self, event: Event<'_>) {
        match event {
            Event::ListKept { reason, .. } => {
                if !self.away.swap(true, Ordering::Relaxed) {
                    self.output.note(&format!(
                        "the directory does not answer ({}); its last list is used",
                        plain(reason)
                    ));
                }
            }
            Event::Left {
                source,
                what,
                answer,
            } => self.output.note(&format!(
                "{} {}: {}; asking the next one",
                plain(source),
                answer.describe(),
                plain(what)
            )),
            Event::Pinned { .. }
            | Event::Begun { .. }
            | Event::Reached { .. }
            | Event::Verified { .. }
            | Event::Waiting { .. }
            | Event::Replanned { .. }
            | Event::Notice { .. } => {}
        }
    }
}
