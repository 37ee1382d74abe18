//! What the program is told by signals: to end, or to look at its files again.

use std::{io, process};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGXFSZ on Linux: a write would make a file larger than the process may have it (`ulimit -f`).
const FILE_TOO_LARGE: i32 = 25;

/// Makes such a write an error, as one is on a full disk. The system would end the process instead. To be called within a
/// runtime.
///
/// # Errors
///
/// The signal cannot be listened for.
pub fn survive_file_size_limit() -> io::Result<()> {
    // Nobody needs to hear of it: that it is caught at all, from now on, keeps the process alive.
    drop(signal(SignalKind::from_raw(FILE_TOO_LARGE))?);
    Ok(())
}

/// A token that the first SIGTERM or SIGINT cancels. The second one ends the process at once, with the exit code that a
/// shell expects of it (143 or 130). To be called within a runtime.
///
/// # Errors
///
/// The signals cannot be listened for.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let told = shutdown.clone();
    tokio::spawn(async move {
        loop {
            let kind = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            };
            if told.is_cancelled() {
                process::exit(128 + kind.as_raw_value());
            }
            told.cancel();
        }
    });
    Ok(shutdown)
}
