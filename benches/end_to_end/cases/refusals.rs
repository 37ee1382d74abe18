//! The cost of a refusal: an account has its share of the store in unfinished deliveries, and all that it publishes is refused.

use anyhow::ensure;

use super::{Figure, figure, millis};
use crate::{
    gateway::Start,
    load::{Load, Way},
    measure::Rig,
    wire::Published,
};

/// Refused calls.
#[derive(Clone, Copy, Debug)]
pub struct Refusals {
    /// Calls with one event. There are a tenth as many batches.
    pub calls: u64,
}

/// The smallest possible store, and events that exceed it.
const KEPT_BYTES: u64 = 16 << 20;
const FILLING_EVENTS: u64 = 40_000;
const LAST_EVENTS: u64 = 1_000;
/// Rate at which the store is filled: slow enough that retention runs in between.
const FILLING_RATE: u64 = 10_000;

impl Refusals {
    pub(super) fn name(&self) -> String {
        "refusals".to_owned()
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        let start = start.with("retention_bytes_max", &KEPT_BYTES.to_string());
        let mut rig = Rig::start(&start)?;
        let name = rig.gateway.subscribe(0, rig.endpoints[0])?;
        rig.gateway.pause(&name)?;
        let filling = Way::Flood { rate: FILLING_RATE, size: 100 };
        publish(&mut rig, filling, FILLING_EVENTS)?;
        // The room that is too small for a batch.
        publish(&mut rig, Way::Flood { rate: FILLING_RATE / 10, size: 1 }, LAST_EVENTS)?;

        let mut figures = Vec::new();
        for (what, size, calls, rate) in
            [("unary", 1, self.calls, 4_000), ("batch of 100", 100, self.calls / 10, 300)]
        {
            let before = rig.gateway.usage()?;
            let way = Way::Flood { rate: rate * size, size };
            let refused = publish(&mut rig, way, calls * size)?;
            let cpu_seconds = rig.gateway.usage()?.cpu_seconds - before.cpu_seconds;
            ensure!(refused.acknowledged == 0, "{} events were accepted", refused.acknowledged);
            let per_call = cpu_seconds / (refused.refused / size) as f64;
            figures.push(figure(format!("{what}: CPU of the gateway for 10,000"), per_call * 1e4, "s"));
            figures.push(figure(format!("{what}: to refusal, p50"), millis(refused.refusal.p50), "ms"));
        }
        Ok(figures)
    }
}

fn publish(rig: &mut Rig, way: Way, events: u64) -> anyhow::Result<Published> {
    let load = Load { way, events, accounts: 1, inboxes: 0 };
    rig.publisher.ask(&rig.gateway.order(load))
}
