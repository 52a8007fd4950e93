//! Traces that clients sent with failures, such as a traceroute: for the operator's eyes.
//!
//! They name routers on the way, so they are shown on no page: the newest ones lie in a file of the state's folder
//! that its owner can read, without the client's address, and are forgotten after seven days.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mirrorlog_core::directory::speed::Failure;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;
use serde_json::json;

/// Traces that are kept.
const TRACES_MAX: usize = 256;
const FORGOTTEN_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// The newest traces.
pub(crate) struct Traces {
    file: PathBuf,
    lines: Mutex<VecDeque<(Timestamp, String)>>,
}

impl Traces {
    /// `traces.jsonl` in `dir`, begun anew with each process.
    pub(crate) fn new(dir: &std::path::Path) -> Self {
        Self {
            file: dir.join("traces.jsonl"),
            lines: Mutex::default(),
        }
    }

    /// Keeps a trace, cut to `max_bytes`.
    pub(crate) fn keep(&self, mirror: &MirrorId, kind: Failure, trace: &str, max_bytes: usize) {
        let cut = trace.floor_char_boundary(max_bytes);
        let time = now();
        let line = json!({
            "time": time.as_seconds(),
            "mirror": mirror.as_str(),
            "outcome": kind.as_str(),
            "trace": &trace[..cut],
        });
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back((time, line.to_string()));
        while lines.len() > TRACES_MAX
            || lines
                .front()
                .is_some_and(|(at, _)| time.ms_since(*at) > FORGOTTEN_MS)
        {
            lines.pop_front();
        }
        let text: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        drop(lines);
        let written = std::fs::File::create(&self.file).and_then(|mut file| {
            let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            file.set_permissions(owner)?;
            file.write_all(text.as_bytes())
        });
        if let Err(error) = written {
            tracing::warn!(%error, "a client's trace cannot be kept");
        }
    }
}
