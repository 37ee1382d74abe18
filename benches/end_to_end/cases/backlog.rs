//! A large backlog: its memory, and the start after a crash.

use anyhow::ensure;

use super::{Figure, figure, megabytes};
use crate::{
    children::Helper,
    gateway::{Gateway, Start},
    load::{Load, Way},
    measure::Rig,
    wire::{Arrived, Expected, Published, ReceiverOrder},
};

/// A backlog.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// Number of events.
    pub events: u64,
}

/// Limit on the deliveries at the end, which measure the rate.
const DRAINED_MS: u64 = 5_000;

impl Backlog {
    pub(super) fn name(&self) -> String {
        format!("backlog of {}", self.events)
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        let start = start.with("retention_bytes_max", "128GiB").with("backlog_max", "100000000");
        let start = start.with("backlog_per_subscription_max", "100000000");
        let start = start.with("backlog_per_account_max", "100000000");
        let Rig { mut gateway, mut publisher, mut receiver, endpoints } = Rig::start(&start)?;
        let idle = gateway.usage()?;
        let name = gateway.subscribe(0, endpoints[0])?;
        gateway.pause(&name)?;
        let published = publish(&gateway, &mut publisher, self.events)?;
        let took = (published.last - published.first) as f64 / 1e6;
        let (peak, disk) = (gateway.usage()?, gateway.metric("tidings_store_disk_bytes")?);

        let start_took = gateway.crash_and_start()?;
        let after = gateway.usage()?;
        let owed = gateway.owed(0)?;
        ensure!(owed == self.events, "{owed} of {} deliveries are unfinished after the crash", self.events);

        let expected = Expected { events: self.events, endpoints: 1, fan_out: false, hanging: None };
        let _: Arrived = receiver.ask(&ReceiverOrder::Expect(expected))?;
        gateway.resume(&name)?;
        let drained: Arrived = receiver.ask(&ReceiverOrder::Wait { timeout_ms: DRAINED_MS })?;
        let drained_after = gateway.usage()?;
        Ok(vec![
            figure("published, batches of 100", self.events as f64 / took, "/s"),
            figure("memory, idle", megabytes(idle.resident_bytes), "MB"),
            figure("memory, peak", megabytes(peak.resident_bytes_max), "MB"),
            figure("disk", disk / 1e6, "MB"),
            figure("from SIGKILL's restart to /readyz 200", start_took.as_secs_f64(), "s"),
            figure("memory after the start", megabytes(after.resident_bytes), "MB"),
            figure("its peak", megabytes(after.resident_bytes_max), "MB"),
            figure("delivered in the first 5 s", drained.deliveries as f64, "deliveries"),
            figure("memory, peak while delivering", megabytes(drained_after.resident_bytes_max), "MB"),
        ])
    }
}

fn publish(gateway: &Gateway, publisher: &mut Helper, events: u64) -> anyhow::Result<Published> {
    let load = Load { way: Way::Batches { size: 100, in_flight: 8 }, events, accounts: 1, inboxes: 0 };
    publisher.ask(&gateway.order(load))
}
