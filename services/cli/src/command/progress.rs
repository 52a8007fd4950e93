//! Progress on a terminal, silence elsewhere.

use std::time::Duration;

use archive::publish::{Moment, Phase, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use mirrorlog_core::id::ChannelId;
use tokio::task::JoinHandle;
use wire::v1;

use super::ask::Archive;
use crate::output::{Output, bytes};

const TICK: Duration = Duration::from_millis(100);
/// Pause between two looks at mirrors that are waited for.
const LOOK: Duration = Duration::from_secs(1);

/// A publication under way.
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    /// `expected`: entries that the tree will have, about; with them the bar shows the time left.
    pub(crate) fn new(output: &Output, expected: Option<u64>) -> Self {
        let template = match expected {
            Some(_) => "{spinner} {msg} [{bar:20}] {percent}%, {eta} left",
            None => "{spinner} {msg} {elapsed}",
        };
        Self(output.bars().then(|| spinner(template, expected)))
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn spinner(template: &str, length: Option<u64>) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(TICK);
    bar
}

impl Progress for Bar {
    fn moment(&self, moment: &Moment) {
        let Some(bar) = &self.0 else { return };
        let what = match moment.phase {
            Phase::Describe => "asking the archive",
            Phase::Scan => "scanning",
            Phase::Validate => "checking",
            Phase::Send => "sending",
            Phase::Commit => "publishing",
        };
        let elapsed = bar.elapsed().as_secs_f64().max(0.001);
        let rate = bytes((moment.bytes_read as f64 / elapsed) as u64);
        let read = bytes(moment.bytes_read);
        let Moment {
            entries,
            files_read,
            ..
        } = moment;
        if let Some(length) = bar.length() {
            bar.set_position((*entries).min(length));
        }
        if moment.phase == Phase::Send {
            let sent = bytes(moment.bytes_sent);
            bar.set_message(format!("{what}: {entries} entries, {sent} of content"));
            return;
        }
        bar.set_message(format!(
            "{what}: {entries} entries, {files_read} files read ({read}, {rate}/s)"
        ));
    }

    fn note(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.println(text),
            None => tracing::info!("{text}"),
        }
    }
}

/// Mirrors that are waited for: what each still does, and how fast.
pub(crate) struct Waiting {
    shown: Option<(ProgressBar, JoinHandle<()>)>,
    output: Output,
}

impl Waiting {
    /// Looks at the status of the archive's consistency service as long as it lives.
    pub(crate) async fn show(
        archive: Option<&Archive>,
        channel: &ChannelId,
        output: &Output,
    ) -> Self {
        let silent = Self {
            shown: None,
            output: *output,
        };
        let Some(archive) = archive.filter(|_| output.bars()) else {
            return silent;
        };
        let Ok(mut consistency) = archive.consistency().await else {
            return silent;
        };
        let bar = spinner("{spinner} {msg} {elapsed}", None);
        let (shown, channel) = (bar.clone(), channel.to_string());
        let looking = tokio::spawn(async move {
            loop {
                let request = v1::StatusRequest {
                    channel: channel.clone(),
                };
                if let Ok(reply) = consistency.status(request).await {
                    shown.set_message(describe(&reply.into_inner()));
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self {
            shown: Some((bar, looking)),
            output: *output,
        }
    }

    /// A line for people, above the bar.
    pub(crate) fn note(&self, text: &str) {
        match &self.shown {
            Some((bar, _)) => bar.suspend(|| self.output.note(text)),
            None => self.output.note(text),
        }
    }

    pub(crate) fn end(self) {
        if let Some((bar, looking)) = self.shown {
            looking.abort();
            bar.finish_and_clear();
        }
    }
}

fn describe(status: &v1::StatusReply) -> String {
    let busy = status.mirrors.iter().flat_map(|mirror| {
        let channels = mirror
            .channels
            .iter()
            .filter(|c| c.lag_builds > 0 || c.state != "complete");
        channels.map(|c| match c.fetch_bytes_per_s {
            0 => mirror.id.clone(),
            rate => format!(
                "{} ({} files missing, {}/s)",
                mirror.id,
                c.missing,
                bytes(rate)
            ),
        })
    });
    let busy: Vec<String> = busy.take(4).collect();
    if busy.is_empty() {
        "waiting for mirrors".to_owned()
    } else {
        format!("waiting for {}", busy.join(", "))
    }
}
