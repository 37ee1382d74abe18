//! Signals: shut down, and survive the file size limit.

use std::{io, process};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGXFSZ on Linux: a write would exceed the process's limit on file sizes (`ulimit -f`).
const FILE_TOO_LARGE: i32 = 25;

/// Turns a write beyond the file size limit into an error, as on a full disk, instead of the end of the
/// process. Call it within a runtime.
///
/// # Errors
///
/// The signal handler cannot be installed.
pub fn survive_file_size_limit() -> io::Result<()> {
    // Nothing listens for the signal. The handler stays installed and keeps the process alive.
    drop(signal(SignalKind::from_raw(FILE_TOO_LARGE))?);
    Ok(())
}

/// Returns a token that the first SIGTERM or SIGINT cancels. The second one ends the process at once, with
/// the exit code that shells use for it (143 or 130). Call it within a runtime.
///
/// # Errors
///
/// A signal handler cannot be installed.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        loop {
            let kind = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            };
            if token.is_cancelled() {
                process::exit(128 + kind.as_raw_value());
            }
            token.cancel();
        }
    });
    Ok(shutdown)
}
