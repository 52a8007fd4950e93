//! `get`: files of one build.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStringExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use client::{Event, Got, Job, Needs, Watch};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mirrorlog_core::client::climb::Answer;
use serde_json::json;

use super::client::{client, failed, options};
use crate::args::GetArgs;
use crate::failure::{CREATE, Failure, USAGE, make_dir};
use crate::output::{BAD, BOLD, Output, bytes, count, plain};

/// As shells count: 128 and SIGINT.
const INTERRUPTED: u8 = 130;
/// Bars shown at a time; the total counts the rest.
const BARS_MAX: usize = 8;
/// Seconds between two lines about a wait where there is no terminal.
const WAIT_LINE_S: u64 = 60;

pub(crate) async fn run(args: GetArgs, output: &Output) -> Result<u8, Failure> {
    let mut settings = options(&args.client)?;
    settings.stall = args.stall.0;
    if args.allow_expired {
        settings.expired = client::ExpiredHeads::Accept;
    }
    if args.stall.0.is_zero() {
        return Err(Failure::text(USAGE, "--stall must be longer than 0s"));
    }
    let client = client(settings)?;
    let (channel, build) = args.at;
    let job = Job {
        channel,
        build,
        paths: args.paths.into_iter().map(OsStringExt::into_vec).collect(),
        into: args.output,
        needs: if args.no_deps {
            Needs::Left
        } else {
            Needs::Brought
        },
        retry_after: args.retry_after.0,
        give_up_after: args.give_up_after.0,
    };
    let screen = Screen::new(*output);
    if args.dry_run {
        return dry_run(&client, &job, &screen, output).await;
    }
    make_dir(&job.into).map_err(|failure| Failure {
        code: CREATE,
        ..failure
    })?;
    let got = tokio::select! {
        got = client::get(&client, &job, &screen) => got,
        Ok(()) = tokio::signal::ctrl_c() => {
            screen.end();
            output.note("interrupted: the same command goes on where it stopped");
            return Ok(INTERRUPTED);
        }
    };
    screen.end();
    client.tell_feedback().await;
    let got = got.map_err(failed)?;
    tell(&job, &got, output);
    Ok(0)
}

fn tell(job: &Job, got: &Got, output: &Output) {
    if output.json {
        let files = got.files.iter().map(|file| {
            json!({
                "path": file.path,
                "file": file.file,
                "bytes": file.wanted.entry.size_bytes,
                "sha256": file.wanted.entry.digest.to_hex(),
                "source": file.fetched.source,
                "needed_by": file.needed_by,
                "asked": file.fetched.asked,
                "had_bytes": file.fetched.had_bytes,
            })
        });
        let notices = got
            .notices
            .iter()
            .map(|(package, text)| json!({ "package": package, "text": text }));
        output.json(&json!({
            "channel": job.channel.as_str(),
            "build": got.build.get(),
            "files": files.collect::<Vec<_>>(),
            "notices": notices.collect::<Vec<_>>(),
        }));
        return;
    }
    let whole: u64 = got
        .files
        .iter()
        .map(|file| file.wanted.entry.size_bytes)
        .sum();
    output.note(&format!(
        "{BOLD}{}{BOLD:#} of build {} of {}: {}, verified, in {}{}",
        count(got.files.len() as u64, "file"),
        got.build,
        job.channel,
        bytes(whole),
        job.into.display(),
        from(got)
    ));
}

/// Who gave it, and what was here already.
fn from(got: &Got) -> String {
    let files = got.files.iter();
    let sources: BTreeSet<&str> = files
        .filter_map(|file| file.fetched.source.as_deref())
        .collect();
    let here = got
        .files
        .iter()
        .filter(|file| file.fetched.source.is_none());
    let here = here.count();
    let mut text = String::new();
    if !sources.is_empty() {
        let names: Vec<String> = sources.into_iter().map(plain).collect();
        text.push_str(&format!(", from {}", names.join(", ")));
    }
    if here > 0 {
        text.push_str(&format!("; {here} here already"));
    }
    text
}

async fn dry_run(
    client: &client::Client,
    job: &Job,
    screen: &Screen,
    output: &Output,
) -> Result<u8, Failure> {
    let plan = client::plan(client, job, screen).await;
    screen.end();
    let plan = plan.map_err(failed)?;
    let queued = client.queued_feedback();
    if output.json {
        let files = plan.files.iter().map(|file| {
            json!({
                "path": file.path.to_string(),
                "bytes": file.entry.size_bytes,
                "sha256": file.entry.digest.to_hex(),
            })
        });
        let sources = plan
            .sources
            .iter()
            .map(|(name, level)| json!({ "name": name, "level": level.as_str() }));
        output.json(&json!({
            "channel": job.channel.as_str(),
            "build": plan.build.get(),
            "files": files.collect::<Vec<_>>(),
            "sources": sources.collect::<Vec<_>>(),
            "feedback": queued,
        }));
        return Ok(0);
    }
    output.line(&format!(
        "build {} of {}, nothing is fetched:",
        plan.build, job.channel
    ));
    for file in &plan.files {
        output.line(&format!(
            "  {:>9}  {}",
            bytes(file.entry.size_bytes),
            plain(&file.path.to_string())
        ));
    }
    let sources = plan
        .sources
        .iter()
        .map(|(name, level)| format!("{} ({})", plain(name), level.as_str()));
    output.line(&format!(
        "asked in this order: {}",
        sources.collect::<Vec<_>>().join(", ")
    ));
    if queued.is_empty() {
        output.line("no feedback waits to be told");
    } else {
        output.line("feedback that waits to be told, with --feedback:");
        for one in &queued {
            let (mirror, outcome) = (plain(&one.mirror), plain(&one.outcome));
            output.line(&format!(
                "  {mirror} build {}: {outcome}, {} in {:.1} s",
                one.build,
                bytes(one.bytes),
                one.time
            ));
        }
    }
    Ok(0)
}

/// What people see while it runs.
struct Screen {
    output: Output,
    bars: MultiProgress,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    files: BTreeMap<String, ProgressBar>,
    waiting: Option<ProgressBar>,
    last_line_left_s: Option<u64>,
    /// Sources of which it was told that they fail: once is enough.
    failing: BTreeSet<(String, String)>,
}

impl Screen {
    fn new(output: Output) -> Self {
        Self {
            output,
            bars: MultiProgress::new(),
            shown: Mutex::default(),
        }
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let mut shown = self.shown();
        shown
            .files
            .values()
            .chain(&shown.waiting)
            .for_each(ProgressBar::finish_and_clear);
        *shown = Shown::default();
    }

    /// True when people know already that a source fails in this way.
    fn is_told(&self, source: &str, answer: Answer) -> bool {
        let said = (source.to_owned(), answer.describe());
        answer.blames_source() && !self.shown().failing.insert(said)
    }

    /// A line that stays, above the bars.
    fn line(&self, text: &str) {
        self.bars.suspend(|| self.output.note(text));
    }

    fn begin(&self, path: &str, size_bytes: u64, had_bytes: u64) {
        let mut shown = self.shown();
        if !self.output.bars() || shown.files.len() >= BARS_MAX {
            return;
        }
        let bar = self.bars.add(ProgressBar::new(size_bytes));
        let template = "{msg:22!} [{bar:12}] {decimal_bytes:>9} of {decimal_total_bytes:>9} {decimal_bytes_per_sec:>10} {eta:>3}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        bar.set_message(plain(name));
        bar.set_position(had_bytes);
        bar.reset_eta();
        shown.files.insert(path.to_owned(), bar);
    }

    fn wait(&self, text: &str, left: Duration) {
        let mut shown = self.shown();
        if self.output.bars() {
            if left.is_zero() {
                shown.waiting.take().inspect(ProgressBar::finish_and_clear);
                return;
            }
            let bar = shown
                .waiting
                .get_or_insert_with(|| self.bars.add(ProgressBar::new_spinner()));
            bar.set_message(format!(
                "{text}; looking again in {} (Ctrl-C gives up)",
                clock(left)
            ));
            bar.tick();
            return;
        }
        // Where nobody watches: at the beginning, and then now and then.
        let left_s = left.as_secs();
        let due = shown
            .last_line_left_s
            .is_none_or(|last| left_s > last || last - left_s >= WAIT_LINE_S);
        if due && left_s > 0 {
            shown.last_line_left_s = Some(left_s);
            self.output
                .note(&format!("{text}; looking again in {}", clock(left)));
        }
    }
}

impl Watch for Screen {
    fn tell(&self, event: Event<'_>) {
        match event {
            Event::ListKept { age, reason } => self.line(&format!(
                "the directory does not answer ({}); its list from {} ago is used",
                plain(reason),
                span(age)
            )),
            Event::Pinned { .. } => {}
            Event::Left { source, answer, .. } if self.is_told(source, answer) => {}
            Event::Left { source, what, answer } => {
                let style = if answer == Answer::Corrupt { BAD } else { anstyle::Style::new() };
                self.line(&format!(
                    "{style}{}{style:#} {} (asked for {}); asking the next one",
                    plain(source),
                    answer.describe(),
                    plain(what)
                ));
            }
            Event::Begun { path, size_bytes, had_bytes } => self.begin(path, size_bytes, had_bytes),
            Event::Reached { path, bytes } => {
                if let Some(bar) = self.shown().files.get(path) {
                    bar.set_position(bytes);
                }
            }
            Event::Verified { path, .. } => {
                if let Some(bar) = self.shown().files.remove(path) {
                    bar.finish_and_clear();
                }
            }
            Event::Waiting { channel, build, left, .. } => {
                let build = build.map_or_else(String::new, |build| format!("build {build} of "));
                self.wait(&format!("{build}{channel} is on no mirror that answers yet"), left);
            }
            Event::Replanned { channel, from, to } => self.line(&format!(
                "build {from} of {channel} has been replaced meanwhile: taking everything from build {to}"
            )),
            Event::Notice { package, text } => {
                self.line(&format!("{BOLD}{}{BOLD:#}: {}", plain(package), plain(text)));
            }
        }
    }
}

/// `9:58`
fn clock(left: Duration) -> String {
    // A part of a second is a second that is not over yet.
    let seconds = left.as_millis().div_ceil(1000);
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// About how long, for people.
fn span(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => count(seconds, "second"),
        seconds @ 120..7200 => count(seconds / 60, "minute"),
        seconds @ 7200..172_800 => count(seconds / 3600, "hour"),
        seconds => count(seconds / 86_400, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        assert_eq!(clock(Duration::from_millis(598_001)), "9:59");
        assert_eq!(clock(Duration::ZERO), "0:00");
        assert_eq!(span(Duration::from_secs(1)), "1 second");
        assert_eq!(span(Duration::from_secs(7300)), "2 hours");
    }
}
