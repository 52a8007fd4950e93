//! What is written for the package manager, and where.

use std::path::{Path, PathBuf};

use client::{Candidate, Carried, Change, Client, GetError, Keep, ReplaceError, Watch};
use mirrorlog_core::client::sources::{self, Form, MARK, PkgAdd};
use mirrorlog_core::layout::Layout;
use serde_json::{Value, json};

use super::super::client::failed;
use super::apt::{Apt, is_plain, list_file};
use crate::args::SelectArgs;
use crate::failure::{CONFIG, CREATE, DATA, Failure, IO, USAGE};
use crate::output::{BAD, BOLD, GOOD, Output, plain};

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
            let place = pinned.packages_place(mount, watch).await;
            let place = place.map_err(|error| failed(GetError::Find(error)))?;
            let told = place.map(|place| PkgAdd::at(&chosen.url, mount, &place));
            for_pkg_add(args, &channels[0], told)
        }
        Layout::Plain => Ok(Draft {
            pieces: Vec::new(),
            text: format!("{}\n", chosen.live(mount)),
            hints: Vec::new(),
        }),
    }
}

/// What is written or said for pkg_add. `told`: where it looks, when the tree has packages.
fn for_pkg_add(
    args: &SelectArgs,
    channel: &Carried,
    told: Option<PkgAdd>,
) -> Result<Draft, Failure> {
    let id = &channel.id;
    let Some(told) = told else {
        let text = format!(
            "{id} has neither RELEASE/packages/ARCH nor packages at its top: pkg_add cannot be led to it"
        );
        return Err(Failure::text(CONFIG, text));
    };
    let hint = |text: &str| vec![text.to_owned()];
    let (pieces, hints) = match (&args.sources, &told) {
        (None, PkgAdd::InstallUrl(_)) => (Vec::new(), hint("put this line into /etc/installurl")),
        (None, PkgAdd::PkgPath(_)) => {
            let text = "put this line into your shell, before pkg_add";
            (Vec::new(), hint(text))
        }
        (Some(file), PkgAdd::InstallUrl(url)) => {
            let new = |old: Option<&str>| sources::installurl(old.unwrap_or_default(), url);
            // Only its URL is replaced, and nothing says whose that was.
            let piece = Piece {
                keep: Keep::First,
                ..Piece::new(file, new)?
            };
            (vec![piece], Vec::new())
        }
        (Some(file), PkgAdd::PkgPath(_)) => {
            let text = format!(
                "{id} has no /RELEASE/packages/ARCH, so nothing can be put into {}: leave --sources and --apply out \
                 to be shown a PKG_PATH",
                file.display()
            );
            return Err(Failure::text(CONFIG, text));
        }
    };
    Ok(Draft {
        text: told.line(),
        pieces,
        hints,
    })
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
    /// A file that is to say what `new` makes of it. One of ours can be made again, and is not kept.
    pub(super) fn new(
        file: &Path,
        new: impl FnOnce(Option<&str>) -> String,
    ) -> Result<Self, Failure> {
        let mut keep = Keep::Old;
        let change = Change::new(file, |old| {
            if old.is_some_and(|old| old.starts_with(MARK)) {
                keep = Keep::Nothing;
            }
            new(old)
        });
        let change = change.map_err(not_replaced)?;
        Ok(Self { change, keep })
    }

    fn would_keep(&self) -> &'static str {
        match self.keep {
            Keep::Old if self.change.file().exists() => {
                ", and keep what is there beside it, as .bak"
            }
            Keep::First if self.change.file().exists() => {
                ", and keep what is there beside it, as .bak, if there is none yet"
            }
            Keep::Old | Keep::First | Keep::Nothing => "",
        }
    }
}

/// Without what a terminal would obey; the tabs of a mirror list stay.
fn without_orders(line: &str) -> String {
    line.split('\t').map(plain).collect::<Vec<_>>().join("\t")
}

fn diff(text: &str, output: &Output) {
    for line in text.lines() {
        let line = without_orders(line);
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
        ReplaceError::Create { .. } => CREATE,
        ReplaceError::Read { .. } | ReplaceError::Write { .. } | ReplaceError::Kept(_) => IO,
    };
    let failure = Failure::new(code, error.into());
    if !failure.is_denied() {
        return failure;
    }
    let advice = "not permitted: run it as root, or say another file with --sources";
    Failure {
        code: failure.code,
        error: failure.error.context(advice),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use super::*;

    fn channel() -> Carried {
        Carried {
            id: "bsd".parse().unwrap(),
            mount: mirrorlog_core::id::Mount::new("/bsd").unwrap(),
            layout: Layout::OpenBsd,
            newest: None,
        }
    }

    fn args(sources: Option<&Path>) -> SelectArgs {
        use clap::{Args as _, FromArgMatches as _};
        let command = SelectArgs::augment_args(clap::Command::new("select"));
        let mut words = vec!["select".to_owned(), "--apply".to_owned()];
        if let Some(file) = sources {
            words.push(format!("--sources={}", file.display()));
        }
        SelectArgs::from_arg_matches(&command.get_matches_from(words)).unwrap()
    }

    #[test]
    fn a_shell_s_words_never_get_into_installurl() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("installurl");
        std::fs::write(&file, "# near\nhttps://cdn.openbsd.org/pub/OpenBSD\n").unwrap();
        let path = PkgAdd::PkgPath("http://m/bsd/".to_owned());
        let refused = for_pkg_add(&args(Some(&file)), &channel(), Some(path.clone())).err();
        let refused = refused.unwrap();
        assert_eq!(refused.code, CONFIG);
        assert!(
            refused.to_string().contains("/RELEASE/packages/ARCH"),
            "{refused}"
        );
        let shown = for_pkg_add(&args(None), &channel(), Some(path)).unwrap();
        assert_eq!(shown.text(), "export PKG_PATH='http://m/bsd/'\n");
        assert_eq!(
            for_pkg_add(&args(None), &channel(), None)
                .err()
                .unwrap()
                .code,
            CONFIG
        );
        let url = PkgAdd::InstallUrl("http://m/bsd".to_owned());
        let draft = for_pkg_add(&args(Some(&file)), &channel(), Some(url)).unwrap();
        draft.apply(&args(Some(&file))).unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            "# near\nhttp://m/bsd\n"
        );
    }

    #[test]
    fn only_what_is_not_ours_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.sources");
        let keep = || Piece::new(&file, |_| "new\n".to_owned()).unwrap().keep;
        std::fs::write(&file, "Types: deb\n").unwrap();
        assert_eq!(keep(), Keep::Old);
        std::fs::write(&file, format!("{MARK}\nTypes: deb\n")).unwrap();
        assert_eq!(keep(), Keep::Nothing);
    }

    #[test]
    fn what_cannot_be_created_ends_with_73() {
        let failed = |source| {
            let path = "/nowhere/m.sources".into();
            not_replaced(ReplaceError::Create { path, source })
        };
        assert_eq!(failed(io::Error::other("full")).code, CREATE);
        let denied = failed(io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.code, CREATE);
        assert!(denied.to_string().contains("run it as root"), "{denied}");
    }

    #[test]
    fn a_directory_has_no_say_over_the_terminal() {
        let line = without_orders("+http://m/\u{1b}[2J\u{9b}31m\u{7}\tpriority:1");
        assert!(
            line.chars().all(|c| c == '\t' || !c.is_control()),
            "{line:?}"
        );
        assert!(line.ends_with("\tpriority:1"), "{line:?}");
    }
}
