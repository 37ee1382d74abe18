//! Reads files again when they change: certificates, and the sources of webhooks.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

/// Looks at files at an interval, and at every SIGHUP.
#[derive(Debug)]
pub struct FileWatch {
    hangup: Signal,
    interval: Duration,
}

impl FileWatch {
    /// Catches SIGHUP from now on, which would end the process otherwise. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// The signal cannot be caught.
    pub fn new(interval: Duration) -> io::Result<Self> {
        Ok(Self { hangup: signal(SignalKind::hangup())?, interval })
    }

    /// Calls `read` on a thread for blocking work at every look until `shutdown`, and `changed` whenever it
    /// returns other contents or another error than `current`, and than the time before. Contents are
    /// compared by their `digest`, since they may be secret.
    pub async fn run<T, E, D>(
        mut self,
        current: D,
        shutdown: CancellationToken,
        read: impl Fn() -> Result<T, E> + Clone + Send + 'static,
        digest: impl Fn(&T) -> D,
        changed: impl Fn(Result<T, E>),
    ) where
        T: Send + 'static,
        E: Clone + PartialEq + Send + 'static,
        D: PartialEq,
    {
        let mut seen = Ok(current);
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = self.hangup.recv() => {}
                _ = ticks.tick() => {}
            }
            let Ok(contents) = tokio::task::spawn_blocking(read.clone()).await else { return };
            let now = contents.as_ref().map(&digest).map_err(Clone::clone);
            if seen != now {
                seen = now;
                changed(contents);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_change_and_an_error_are_each_reported_once() {
        let contents = Arc::new(Mutex::new(Ok(1)));
        let (sender, changes) = mpsc::channel();
        let shutdown = CancellationToken::new();
        let read = {
            let contents = Arc::clone(&contents);
            move || *contents.lock().unwrap()
        };
        let watch = FileWatch::new(Duration::from_millis(1)).unwrap();
        let changed = move |contents: Result<i32, &'static str>| sender.send(contents).unwrap();
        let watching = tokio::spawn(watch.run(1, shutdown.clone(), read, |number| *number, changed));
        let next = move || changes.recv_timeout(PATIENCE).unwrap();
        let found = tokio::task::spawn_blocking(move || {
            for error in ["broken", "broken differently"] {
                *contents.lock().unwrap() = Err(error);
                assert_eq!(next(), Err(error));
            }
            *contents.lock().unwrap() = Ok(1);
            assert_eq!(next(), Ok(1), "it is used again after an error");
            *contents.lock().unwrap() = Ok(2);
            next()
        });
        assert_eq!(found.await.unwrap(), Ok(2));
        shutdown.cancel();
        watching.await.unwrap();
    }
}
