//! What is written for the package manager, and where.

use std::path::PathBuf;

use client::{Candidate, Carried, Change, Client, GetError, Keep, ReplaceError, Watch};
use mirrorlog_core::client::sources::{self, Form, PkgAdd};
use mirrorlog_core::layout::Layout;
use serde_json::{Value, json};

use super::super::client::failed;
use super::apt::{Apt, is_plain, list_file};
use crate::args::SelectArgs;
use crate::failure::{DATA, Failure, IO, USAGE};
use crate::output::{BAD, BOLD, GOOD, Output};

/// Where apt's sources go when nothing else is said.
const USUAL_FILE: &str = "/etc/apt/sources.list.d/mirrorlog.sources";
/// The one kind of file that is written for apt.
const ENDING: &str = "sources";

/// A file that is to be written, and what becomes of the older content.
pub(super) struct Piece {
    pub(super) change: Change,
    pub(super) keep: Keep,
}

/// Everything that is to be written.
pub(super) struct Draft {
    /// The list before the file that names it.
    pub(super) pieces: Vec<Piece>,
    /// What is printed when there is no file.
    pub(super) text: String,
    /// Said to people beside.
    pub(super) hints: Vec<String>,
}

/// What was written, and where the older content is, in the order of the files.
pub(super) struct Applied(Vec<(bool, Option<PathBuf>)>);

/// Refuses what can never be written, before anybody is asked.
pub(super) fn check(args: &SelectArgs, channels: &[Carried]) -> Result<(), Failure> {
    let usage = |text: String| Err(Failure::text(USAGE, text));
    let channel = &channels[0].id;
    match channels[0].layout {
        Layout::Debian => {
            let file = file_of(args);
            if file.extension().is_none_or(|ending| ending != ENDING) {
                let file = file.display();
                return usage(format!(
                    "{file} does not end in .{ENDING}, as apt's files in deb822 format must"
                ));
            }
            let lists = channels.iter().map(|channel| list_file(&file, channel));
            let mut lists = lists.filter(|_| args.form == Form::MirrorFile);
            if let Some(list) = lists.find(|list| !is_plain(list)) {
                let list = list.display();
                return usage(format!(
                    "apt hangs on a list at {list}: --as mirror+file takes only letters, digits, '-', '_', '.' and '/' \
                     in the path of --sources"
                ));
            }
            let words = args.suites.iter().chain(&args.components);
            if let Some(bad) = words.into_iter().find(|word| !sources::is_word(word)) {
                return usage(format!("{bad:?} is no name of a suite or component"));
            }
            Ok(())
        }
        Layout::OpenBsd if args.apply && args.sources.is_none() => usage(format!(
            "{channel} is for pkg_add: --apply needs --sources FILE, for example --sources /etc/installurl"
        )),
        Layout::Plain if args.apply => usage(format!(
            "{channel} is a plain tree, for which nothing can be written: leave --apply out"
        )),
        Layout::OpenBsd | Layout::Plain => Ok(()),
    }
}

/// What is to be written for a mirror. Writes nothing.
pub(super) async fn draft(
    client: &Client,
    args: &SelectArgs,
    channels: &[Carried],
    chosen: &Candidate,
    watch: &dyn Watch,
) -> Result<Draft, Failure> {
    let mount = &channels[0].mount;
    match channels[0].layout {
        Layout::Debian => {
            Apt {
                client,
                args,
                channels,
                chosen,
                watch,
            }
            .draft()
            .await
        }
        Layout::OpenBsd => {
            let pinned = client.pin(&channels[0].id, None, watch).await;
            let pinned = pinned.map_err(|error| failed(GetError::Pin(error)))?;
            let base = pinned.releases(watch).await;
            let base = base.map_err(|error| failed(GetError::Find(error)))?;
            let told = PkgAdd::at(&chosen.url, mount, base.as_deref());
            let text = told.line();
            let change = args
                .sources
                .as_ref()
                .map(|file| Change::new(file, |_| text.clone()));
            let change = change.transpose().map_err(not_replaced)?;
            let hints = match (&change, told) {
                (None, PkgAdd::InstallUrl(_)) => {
                    vec!["put this line into /etc/installurl".to_owned()]
                }
                (None, PkgAdd::PkgPath(_)) => {
                    vec!["put this line into your shell, before pkg_add".to_owned()]
                }
                (Some(_), PkgAdd::InstallUrl(_) | PkgAdd::PkgPath(_)) => Vec::new(),
            };
            let pieces = change
                .map(|change| Piece {
                    change,
                    keep: Keep::Old,
                })
                .into_iter()
                .collect();
            Ok(Draft {
                pieces,
                text,
                hints,
            })
        }
        Layout::Plain => Ok(Draft {
            pieces: Vec::new(),
            text: format!("{}\n", chosen.live(mount)),
            hints: Vec::new(),
        }),
    }
}

/// The file for apt, or the one that is named.
pub(super) fn file_of(args: &SelectArgs) -> PathBuf {
    let file = args.sources.clone().unwrap_or_else(|| USUAL_FILE.into());
    std::path::absolute(&file).unwrap_or(file)
}

impl Draft {
    /// What the package manager is told.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Writes, if that is wanted.
    pub(super) fn apply(&self, args: &SelectArgs) -> Result<Applied, Failure> {
        let mut applied = Vec::new();
        for piece in &self.pieces {
            let wanted = args.apply && !piece.change.is_done();
            let kept = if wanted {
                piece.change.apply(piece.keep).map_err(not_replaced)?
            } else {
                None
            };
            applied.push((wanted, kept));
        }
        Ok(Applied(applied))
    }

    /// The files, for programs.
    pub(super) fn documents(&self, applied: Option<&Applied>) -> Vec<Value> {
        let files = self.pieces.iter().enumerate().map(|(place, piece)| {
            let applied = applied.and_then(|applied| applied.0.get(place));
            json!({
                "file": piece.change.file(),
                "text": piece.change.new_text(),
                "diff": piece.change.diff(),
                "changed": !piece.change.is_done(),
                "applied": applied.is_some_and(|(written, _)| *written),
                "backup": applied.and_then(|(_, kept)| kept.as_ref()),
            })
        });
        files.collect()
    }

    /// Shows what changes, and writes it, if that is wanted.
    pub(super) fn tell(&self, args: &SelectArgs, output: &Output) -> Result<(), Failure> {
        for hint in &self.hints {
            output.note(hint);
        }
        if self.pieces.is_empty() {
            output.line(self.text.trim_end());
            return Ok(());
        }
        for piece in &self.pieces {
            diff(&piece.change.diff(), output);
        }
        let applied = self.apply(args)?;
        for (piece, (written, kept)) in self.pieces.iter().zip(applied.0) {
            let file = piece.change.file().display();
            output.note(&match (written, kept) {
                (true, Some(kept)) => format!(
                    "{BOLD}{file}{BOLD:#} is written; what was there is {}",
                    kept.display()
                ),
                (true, None) => format!("{BOLD}{file}{BOLD:#} is written"),
                (false, _) if piece.change.is_done() => format!("{file} says so already"),
                (false, _) => format!(
                    "nothing is written: --apply would write {file}{}",
                    piece.would_keep()
                ),
            });
        }
        Ok(())
    }
}

impl Piece {
    fn would_keep(&self) -> &'static str {
        match self.keep {
            Keep::Old if self.change.file().exists() => {
                ", and keep what is there beside it, as .bak"
            }
            Keep::Old | Keep::Nothing => "",
        }
    }
}

fn diff(text: &str, output: &Output) {
    for line in text.lines() {
        let line = line.replace('\u{1b}', "?");
        let style = match line.as_bytes().first() {
            Some(b'+') => GOOD,
            Some(b'-') => BAD,
            Some(_) | None => anstyle::Style::new(),
        };
        output.line(&format!("{style}{line}{style:#}"));
    }
}

pub(super) fn not_replaced(error: ReplaceError) -> Failure {
    let code = match &error {
        ReplaceError::Foreign(_) => DATA,
        ReplaceError::Read { .. } | ReplaceError::Write { .. } | ReplaceError::Kept(_) => IO,
    };
    let failure = Failure::new(code, error.into());
    if failure.code == code {
        return failure;
    }
    let advice = "not permitted: run it as root, or say another file with --sources";
    Failure {
        code: failure.code,
        error: failure.error.context(advice),
    }
}
