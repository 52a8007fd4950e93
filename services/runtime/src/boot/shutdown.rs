//! SIGINT and SIGTERM.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code when a second signal cuts the clean stop short: 128 + SIGINT, as shells count.
const EXIT_AT_ONCE: i32 = 130;
/// Signals within this time count as one.
const ONE_WISH: Duration = Duration::from_secs(1);

/// Turns the first SIGINT or SIGTERM into a cancelled token that tasks wait on; the second exits at once.
/// Has to be called inside a Tokio runtime.
pub fn shutdown() -> CancellationToken {
    let token = CancellationToken::new();
    match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(interrupt), Ok(terminate)) => {
            tokio::spawn(watch(token.clone(), interrupt, terminate));
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "signals cannot be caught: they stop this process uncleanly");
        }
    }
    token
}

async fn watch(token: CancellationToken, mut interrupt: Signal, mut terminate: Signal) {
    let name = next(&mut interrupt, &mut terminate).await;
    tracing::info!(signal = name, "stopping; once more stops at once");
    token.cancel();
    let stopping = tokio::time::Instant::now();
    // A supervisor or a terminal may deliver one wish to stop more than once within a moment.
    let name = loop {
        let name = next(&mut interrupt, &mut terminate).await;
        if stopping.elapsed() >= ONE_WISH {
            break name;
        }
    };
    tracing::warn!(signal = name, "stopped at once");
    std::process::exit(EXIT_AT_ONCE);
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn sigterm_cancels() -> Result<(), rustix::io::Errno> {
        let token = super::shutdown();
        assert!(!token.is_cancelled());
        kill_process(getpid(), Signal::TERM)?;
        token.cancelled().await;
        Ok(())
    }
}
