//! One measure: a fresh gateway, a load, and what came of it.

use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use crate::{
    children::{Helper, Role},
    gateway::Gateway,
    load::{Load, Way, now_micros},
    wire::{Arrived, Expected, Latency, Listening, PublishOrder, Published, ReceiverOrder},
};

/// Events that open connections and fill caches before the load begins.
const WARM_UP_EVENTS: u64 = 500;
/// Longest wait for the last arrival, and for the last settlement after it.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// What it is called in the table.
    pub name: &'static str,
    /// How events are sent.
    pub way: Way,
    /// Events in all.
    pub events: u64,
    /// Endpoints, each of an account of its own with a share of the events; or all of one account with all of them.
    pub endpoints: usize,
    /// Whether they are all of one account.
    pub fan_out: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// Events published.
    pub events: u64,
    /// Deliveries made.
    pub deliveries: u64,
    /// Events stored a second, from the first call to the last answer.
    pub published_per_second: f64,
    /// Deliveries a second, from the first call to the last arrival.
    pub arrived_per_second: f64,
    /// Deliveries a second, from the first call until nothing is owed.
    pub settled_per_second: f64,
    /// From a call to its answer, in microseconds.
    pub answer_micros: Latency,
    /// From publish to arrival, in microseconds.
    pub arrival_micros: Latency,
    /// Time of a core that the gateway took for 10,000 deliveries.
    pub cpu_seconds_per_10_000: f64,
    /// The same of the publisher and the receiver together: what is not the gateway's.
    pub others_cpu_seconds_per_10_000: f64,
    /// Memory of the gateway before anything was published.
    pub idle_bytes: u64,
    /// The most that it held.
    pub peak_bytes: u64,
    /// What the gateway made the disk write for a delivery.
    pub written_bytes_per_delivery: f64,
}

/// Measures, with the gateway run by the command `under`, if there is one.
///
/// # Errors
///
/// Something did not arrive, arrived twice, is still owed or was not expected; or a process failed.
pub fn run(measure: &Measure, under: Option<&str>) -> anyhow::Result<Measured> {
    let (gateway, mut publisher) = (Gateway::start(under)?, Helper::start(Role::Publisher)?);
    let mut receiver = Helper::start(Role::Receiver)?;
    let listening: Listening = receiver.answer()?;
    for (place, endpoint) in listening.endpoints.iter().take(measure.endpoints).enumerate() {
        gateway.subscribe(if measure.fan_out { 0 } else { place }, *endpoint)?;
    }
    let idle = gateway.usage()?;
    let warm_up = Measure { way: Way::Unary { in_flight: 16 }, events: WARM_UP_EVENTS, ..*measure };
    round(&warm_up, &gateway, &mut publisher, &mut receiver)?;

    let before = (gateway.usage()?, publisher.usage()?, receiver.usage()?);
    let Round { published, arrived, settled } = round(measure, &gateway, &mut publisher, &mut receiver)?;
    let after = (gateway.usage()?, publisher.usage()?, receiver.usage()?);

    let deliveries = arrived.deliveries;
    let per_second = |count: u64, until: i64| count as f64 / ((until - published.first) as f64 / 1e6);
    let per_10_000 = |seconds: f64| seconds / deliveries as f64 * 10_000.0;
    let others = after.1.cpu_seconds - before.1.cpu_seconds + after.2.cpu_seconds - before.2.cpu_seconds;
    Ok(Measured {
        name: measure.name,
        events: measure.events,
        deliveries,
        published_per_second: per_second(measure.events, published.last),
        arrived_per_second: per_second(deliveries, arrived.last),
        settled_per_second: per_second(deliveries, settled),
        answer_micros: published.answer,
        arrival_micros: arrived.latency,
        cpu_seconds_per_10_000: per_10_000(after.0.cpu_seconds - before.0.cpu_seconds),
        others_cpu_seconds_per_10_000: per_10_000(others),
        idle_bytes: idle.resident_bytes,
        peak_bytes: after.0.resident_bytes_max,
        written_bytes_per_delivery: (after.0.written_bytes - before.0.written_bytes) as f64
            / deliveries as f64,
    })
}

struct Round {
    published: Published,
    arrived: Arrived,
    /// When nothing was owed any more, in microseconds since the epoch.
    settled: i64,
}

/// Publishes, waits until everything is there and settled, and counts.
fn round(
    measure: &Measure,
    gateway: &Gateway,
    publisher: &mut Helper,
    receiver: &mut Helper,
) -> anyhow::Result<Round> {
    let &Measure { way, events, endpoints, fan_out, .. } = measure;
    let accounts = if fan_out { 1 } else { endpoints };
    let expected = Expected { events, endpoints, fan_out };
    let _: Arrived = receiver.ask(&ReceiverOrder::Expect(expected))?;
    let load = Load { way, events, accounts };
    let published: Published = publisher.ask(&PublishOrder { address: gateway.address(), load })?;
    let timeout_ms = u64::try_from(ARRIVAL_TIMEOUT.as_millis())?;
    let arrived: Arrived = receiver.ask(&ReceiverOrder::Wait { timeout_ms })?;
    let missing = expected.deliveries() - arrived.deliveries;
    ensure!(missing == 0, "{missing} of {} deliveries did not arrive", expected.deliveries());
    gateway.wait_settled(accounts, ARRIVAL_TIMEOUT)?;
    let settled = now_micros();
    // Once more, for what came after the last that was expected.
    let arrived: Arrived = receiver.ask(&ReceiverOrder::Tell)?;
    let Arrived { again, unexpected, .. } = arrived;
    ensure!(again == 0 && unexpected == 0, "{again} deliveries came twice, {unexpected} were not expected");
    Ok(Round { published, arrived, settled })
}
