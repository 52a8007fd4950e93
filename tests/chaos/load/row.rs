//! What was found, and the table of it.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Failures that are shown; the others are counted.
const SHOWN: usize = 20;

/// Counts checks and keeps what failed.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    checks: AtomicU64,
    failures: AtomicU64,
    texts: Mutex<BTreeSet<String>>,
}

impl Findings {
    /// One check; says what failed at once.
    pub(crate) fn check(&self, holds: bool, text: impl FnOnce() -> String) -> bool {
        self.checks.fetch_add(1, Ordering::Relaxed);
        if !holds {
            self.failures.fetch_add(1, Ordering::Relaxed);
            let text = text();
            let mut texts = self.texts.lock().unwrap();
            if texts.len() < SHOWN && texts.insert(text.clone()) {
                eprintln!("FAILED: {text}");
            }
        }
        holds
    }

    pub(crate) fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// One fault, played.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) fault: String,
    pub(crate) how: String,
    pub(crate) injected: u64,
    pub(crate) builds: u64,
    pub(crate) checks: u64,
    pub(crate) failures: u64,
    pub(crate) seconds: f64,
    /// The command that plays it again.
    pub(crate) again: String,
}

/// Prints the table and how to see each failure again.
pub(crate) fn conclude(rows: &[Row]) -> ExitCode {
    println!("fault | how injected | faults injected | builds | checks | failures | seconds");
    println!("--- | --- | --- | --- | --- | --- | ---");
    for row in rows {
        let Row {
            fault,
            how,
            injected,
            builds,
            checks,
            failures,
            seconds,
            ..
        } = row;
        println!("{fault} | {how} | {injected} | {builds} | {checks} | {failures} | {seconds:.0}");
    }
    let failed = rows.iter().filter(|row| row.failures > 0);
    let again: Vec<&str> = failed.map(|row| row.again.as_str()).collect();
    for again in &again {
        println!("again: {again}");
    }
    ExitCode::from(u8::from(!again.is_empty()))
}
