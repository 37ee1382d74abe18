//! Many subscriptions without events.

use std::time::Duration;

use super::{Figure, figure, megabytes};
use crate::gateway::{Gateway, Start};

/// Subscriptions without events.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Number of subscriptions.
    pub subscriptions: usize,
}

/// Time without load, to measure the gateway's own work.
const LEFT_ALONE: Duration = Duration::from_secs(3);

impl Idle {
    pub(super) fn name(&self) -> String {
        format!("{} idle subscriptions", self.subscriptions)
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        const PER_ACCOUNT: usize = 1000;
        let mut gateway = Gateway::start(start)?;
        let before = gateway.usage()?;
        gateway.subscribe_idle(self.subscriptions, PER_ACCOUNT)?;
        let made = gateway.usage()?;
        let start_took = gateway.crash_and_start()?;
        let started = gateway.usage()?;
        std::thread::sleep(LEFT_ALONE);
        let later = gateway.usage()?;
        let idling = (later.cpu_seconds - started.cpu_seconds) / LEFT_ALONE.as_secs_f64();
        Ok(vec![
            figure("memory without any", megabytes(before.resident_bytes), "MB"),
            figure("memory with them", megabytes(made.resident_bytes), "MB"),
            figure("from SIGKILL's restart to /readyz 200", start_took.as_secs_f64(), "s"),
            figure("memory after the start", megabytes(started.resident_bytes), "MB"),
            figure("its peak", megabytes(later.resident_bytes_max), "MB"),
            figure("cores, left alone", idling, ""),
        ])
    }
}
