//! Publishing at three times the sustainable rate: goodput, and the cost of refusals.

use std::time::{Duration, Instant};

use super::{Figure, figure, millis};
use crate::{
    gateway::Start,
    load::Way,
    measure::Rig,
    wire::{Arrived, Expected, Published, ReceiverOrder},
};

/// Offered rate, as a multiple of the sustainable one.
const TIMES: f64 = 3.0;

/// A flood.
#[derive(Clone, Copy, Debug)]
pub struct Overload {
    /// Events in a call.
    pub size: u64,
    /// Events to measure the sustainable rate.
    pub saturating_events: u64,
    /// Duration of the flood. Its first quarter is not measured.
    pub seconds: u64,
}

impl Overload {
    pub(super) fn name(&self) -> String {
        let events = if self.size == 1 { "unary".to_owned() } else { format!("batches of {}", self.size) };
        format!("overload, {TIMES} times the rate, {events}")
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        const ENDPOINTS: usize = 8;
        let mut rig = Rig::start(start)?;
        rig.subscribe(ENDPOINTS, false)?;
        let expected =
            Expected { events: self.saturating_events, endpoints: ENDPOINTS, fan_out: false, hanging: None };
        rig.warm_up(expected)?;
        let saturating = match self.size {
            1 => Way::Unary { in_flight: 256 },
            size => Way::Batches { size, in_flight: 8 },
        };
        let saturated = rig.round(saturating, expected)?;
        let took = (saturated.arrived.last - saturated.published.first) as f64 / 1e6;
        let saturated = saturated.arrived.deliveries as f64 / took;

        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the rate is below 100,000"
        )]
        let rate = (saturated * TIMES) as u64;
        let expected = Expected { events: rate * self.seconds, ..expected };
        rig.begin(Way::Flood { rate, size: self.size }, expected)?;
        let begin = Instant::now();
        std::thread::sleep(Duration::from_secs(self.seconds) / 4);
        let (from, before, window): (Arrived, _, _) =
            (rig.receiver.ask(&ReceiverOrder::Tell)?, rig.usage()?, Instant::now());
        std::thread::sleep(Duration::from_secs(self.seconds).saturating_sub(begin.elapsed()));
        let (until, after): (Arrived, _) = (rig.receiver.ask(&ReceiverOrder::Tell)?, rig.usage()?);
        let seconds = window.elapsed().as_secs_f64();
        let published: Published = rig.publisher.answer()?;
        let flooded = (published.last - published.first) as f64 / 1e6;
        let drained = rig.end(published, expected)?;

        let arrived = (until.deliveries - from.deliveries) as f64 / seconds;
        let cores = |seconds_of_core: f64| seconds_of_core / seconds;
        let share = |count: u64| count as f64 / expected.events as f64;
        Ok(vec![
            figure("saturated: arrived", saturated, "/s"),
            figure("offered", rate as f64, "/s"),
            figure("acknowledged", published.acknowledged as f64 / flooded, "/s"),
            figure("arrived during the flood", arrived, "/s"),
            figure("of saturated", arrived / saturated, ""),
            figure("share refused", share(published.refused), ""),
            figure("share not sent, since 10,000 calls waited", share(published.held_back), ""),
            figure("to acknowledgement, p50", millis(published.answer.p50), "ms"),
            figure("to acknowledgement, p99", millis(published.answer.p99), "ms"),
            figure("to refusal, p50", millis(published.refusal.p50), "ms"),
            figure("to refusal, p99", millis(published.refusal.p99), "ms"),
            figure("publish to arrival, p50", millis(drained.arrived.latency.p50), "ms"),
            figure("publish to arrival, p99", millis(drained.arrived.latency.p99), "ms"),
            figure("cores of the gateway", cores(after.gateway.cpu_seconds - before.gateway.cpu_seconds), ""),
            figure("cores of the others", cores(after.others_cpu_seconds - before.others_cpu_seconds), ""),
            figure("owed at the end", published.acknowledged as f64 - until.deliveries as f64, "deliveries"),
            figure("memory, peak", super::megabytes(after.gateway.resident_bytes_max), "MB"),
        ])
    }
}
