//! How many reports of each mirror are looked at, and how many wait.

use std::collections::BTreeMap;

use runtime::log::Message;
use tokio::time::Instant;

use crate::inbox::mirror_of;

/// Reports of one mirror a second; of more, the newest of each channel waits.
const REPORTS_PER_S: f64 = 20.0;
/// Reports of one mirror that may come at once.
const REPORTS_BURST: f64 = 60.0;

/// How many reports of each mirror are looked at. Checking a signature costs; a mirror that floods
/// delays only itself, and its newest word on each channel still counts.
#[derive(Default)]
pub(crate) struct Limits {
    allowed: BTreeMap<String, (f64, Option<Instant>)>,
    waiting: BTreeMap<String, Message>,
    /// Bytes that wait, of each mirror and of all.
    waiting_bytes: BTreeMap<String, usize>,
    all_bytes: usize,
}

/// Most bytes of reports that wait of one mirror; of more, the next one on the channel is waited for.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The same for all mirrors together; stops a flood in the names of many mirrors, each of which says little.
const ALL_WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most mirrors and subjects that limits are kept for; stops a flood of made-up names.
const LIMITED_MAX: usize = 65_536;

impl Limits {
    pub(crate) fn admit(&mut self, message: Message, now: Instant) -> Option<Message> {
        let full = self.waiting.len() >= LIMITED_MAX || self.allowed.len() >= LIMITED_MAX;
        if !self.waiting.contains_key(&message.subject)
            && (full || self.allow(mirror_of(&message.subject), now))
        {
            return Some(message);
        }
        self.hold(message);
        None
    }

    fn hold(&mut self, message: Message) {
        let older = self.take(&message.subject);
        let subject = message.subject.clone();
        let mirror = mirror_of(&subject).to_owned();
        let bytes = self.waiting_bytes.entry(mirror).or_default();
        let size = message.payload.len();
        let fits =
            *bytes + size <= WAITING_BYTES_MAX && self.all_bytes + size <= ALL_WAITING_BYTES_MAX;
        let kept = if fits {
            Some(message)
        } else {
            tracing::debug!(subject = message.subject, "too many reports wait, ignored");
            older
        };
        if let Some(kept) = kept {
            *bytes += kept.payload.len();
            self.all_bytes += kept.payload.len();
            self.waiting.insert(kept.subject.clone(), kept);
        } else if *bytes == 0 {
            self.waiting_bytes.remove(mirror_of(&subject));
        }
    }

    fn take(&mut self, subject: &str) -> Option<Message> {
        let message = self.waiting.remove(subject)?;
        self.all_bytes = self.all_bytes.saturating_sub(message.payload.len());
        if let Some(bytes) = self.waiting_bytes.get_mut(mirror_of(subject)) {
            *bytes = bytes.saturating_sub(message.payload.len());
            if *bytes == 0 {
                self.waiting_bytes.remove(mirror_of(subject));
            }
        }
        Some(message)
    }

    pub(crate) fn holds(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn release(&mut self, now: Instant) -> Vec<Message> {
        let subjects: Vec<String> = self.waiting.keys().cloned().collect();
        let allowed = subjects
            .into_iter()
            .filter(|subject| self.allow(mirror_of(subject), now));
        let allowed: Vec<String> = allowed.collect();
        allowed
            .iter()
            .filter_map(|subject| self.take(subject))
            .collect()
    }

    fn allow(&mut self, mirror: &str, now: Instant) -> bool {
        let (left, at) = self
            .allowed
            .entry(mirror.to_owned())
            .or_insert((REPORTS_BURST, None));
        let since = at.map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        *left = (*left + since * REPORTS_PER_S).min(REPORTS_BURST);
        *at = Some(now);
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    fn message(subject: &str, sequence: u64) -> Message {
        let (subject, trace) = (subject.to_owned(), opentelemetry::Context::new());
        Message {
            subject,
            sequence,
            payload: Bytes::new(),
            trace,
        }
    }

    #[test]
    fn a_flood_delays_only_its_mirror_and_keeps_the_newest_word() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let noisy = "mirrorlog.report.nz1.noble";
        let admitted = (0..200)
            .filter(|n| limits.admit(message(noisy, *n), now).is_some())
            .count();
        assert_eq!(admitted, 60);
        assert!(
            limits
                .admit(message("mirrorlog.report.au1.noble", 0), now)
                .is_some()
        );
        assert!(limits.release(now).is_empty());
        let later = now + Duration::from_millis(100);
        let released: Vec<u64> = limits
            .release(later)
            .iter()
            .map(|message| message.sequence)
            .collect();
        assert_eq!(released, [199]);
        assert!(!limits.holds());
    }

    #[test]
    fn attack_floods_in_the_names_of_many_mirrors_fill_no_memory() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        for mirror in 0..1000 {
            for sequence in 0..70 {
                let mut large = message(&format!("mirrorlog.report.m{mirror}.noble"), sequence);
                large.payload = vec![0; 512 * 1024].into();
                limits.admit(large, now);
            }
        }
        assert_eq!(limits.all_bytes, ALL_WAITING_BYTES_MAX);
        let held: usize = limits.waiting.values().map(|one| one.payload.len()).sum();
        assert_eq!(held, ALL_WAITING_BYTES_MAX);
        let later = now + Duration::from_secs(60);
        assert_eq!(limits.release(later).len(), 128);
        assert_eq!((limits.all_bytes, limits.waiting_bytes.len()), (0, 0));
    }

    #[test]
    fn what_waits_of_one_mirror_is_bounded() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        for channel in 0..200 {
            let mut large = message(&format!("mirrorlog.report.nz1.c{channel}"), 1);
            large.payload = vec![0; 256 * 1024].into();
            limits.admit(large, now);
        }
        assert_eq!(limits.waiting.len(), 16);
        assert_eq!(limits.waiting_bytes["nz1"], WAITING_BYTES_MAX);
        let later = now + Duration::from_secs(60);
        assert_eq!(limits.release(later).len(), 16);
        assert!(limits.waiting_bytes.is_empty());
    }
}
