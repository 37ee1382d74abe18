//! One measure: a fresh gateway, a load, and the figures.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use serde::Serialize;

use crate::{
    children::{Helper, Role, Usage},
    gateway::{Gateway, Start},
    load::{Load, Way, inbox, now_micros},
    wire::{Arrived, Expected, Latency, Listening, Published, ReceiverOrder},
};

/// Events before the load, to open connections and fill caches.
const WARM_UP_EVENTS: u64 = 500;
/// Limit on the wait for the last arrival, and for the last settlement after it.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(600);

/// A load and its endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// The name in the table.
    pub name: &'static str,
    /// The way to publish events.
    pub way: Way,
    /// Number of events.
    pub events: u64,
    /// Number of endpoints. Each has an account with its share of the events, or they share one account and
    /// get all.
    pub endpoints: usize,
    /// The endpoints share one account.
    pub fan_out: bool,
}

/// The figures of a measure.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The name in the table.
    pub name: &'static str,
    /// Events published.
    pub events: u64,
    /// Deliveries that arrived.
    pub deliveries: u64,
    /// Stored events per second, from the first call to the last response.
    pub published_per_second: f64,
    /// Deliveries per second, from the first call to the last arrival.
    pub arrived_per_second: f64,
    /// Deliveries per second, from the first call until all are settled.
    pub settled_per_second: f64,
    /// From a call to its response, in microseconds.
    pub answer_micros: Latency,
    /// From publish to arrival, in microseconds.
    pub arrival_micros: Latency,
    /// CPU time of the gateway for 10,000 deliveries.
    pub cpu_seconds_per_10_000: f64,
    /// CPU time of the publisher and the receiver together.
    pub others_cpu_seconds_per_10_000: f64,
    /// Memory of the gateway before the load.
    pub idle_bytes: u64,
    /// Peak of its memory.
    pub peak_bytes: u64,
    /// Bytes that the gateway wrote to the disk, for each delivery.
    pub written_bytes_per_delivery: f64,
}

/// Measures with a gateway that `start` describes.
///
/// # Errors
///
/// A delivery is missing, duplicate, not settled or unexpected, or a process failed.
pub fn run(measure: &Measure, start: &Start) -> anyhow::Result<Measured> {
    let &Measure { way, events, endpoints, fan_out, .. } = measure;
    let mut rig = Rig::start(start)?;
    rig.subscribe(endpoints, fan_out)?;
    let idle = rig.gateway.usage()?;
    let expected = Expected { events, endpoints, fan_out, hanging: None };
    rig.warm_up(expected)?;

    let before = rig.usage()?;
    let Round { published, arrived, settled } = rig.round(way, expected)?;
    let after = rig.usage()?;

    let deliveries = arrived.deliveries;
    let per_second = |count: u64, until: i64| count as f64 / ((until - published.first) as f64 / 1e6);
    let per_10_000 = |seconds: f64| seconds / deliveries as f64 * 10_000.0;
    Ok(Measured {
        name: measure.name,
        events,
        deliveries,
        published_per_second: per_second(events, published.last),
        arrived_per_second: per_second(deliveries, arrived.last),
        settled_per_second: per_second(deliveries, settled),
        answer_micros: published.answer,
        arrival_micros: arrived.latency,
        cpu_seconds_per_10_000: per_10_000(after.gateway.cpu_seconds - before.gateway.cpu_seconds),
        others_cpu_seconds_per_10_000: per_10_000(after.others_cpu_seconds - before.others_cpu_seconds),
        idle_bytes: idle.resident_bytes,
        peak_bytes: after.gateway.resident_bytes_max,
        written_bytes_per_delivery: (after.gateway.written_bytes - before.gateway.written_bytes) as f64
            / deliveries as f64,
    })
}

/// A gateway, a publisher and a receiver.
pub struct Rig {
    /// The gateway under test.
    pub gateway: Gateway,
    /// The publisher.
    pub publisher: Helper,
    /// The receiver, which has the endpoints.
    pub receiver: Helper,
    /// The addresses of the endpoints.
    pub endpoints: Vec<SocketAddr>,
}

/// One load, from its first call until all deliveries are settled.
pub struct Round {
    /// The publisher's figures.
    pub published: Published,
    /// The receiver's figures.
    pub arrived: Arrived,
    /// When all deliveries were settled, in microseconds since 1970.
    pub settled: i64,
}

/// Resources that the processes have used so far.
#[derive(Clone, Copy, Debug)]
pub struct RigUsage {
    /// The gateway.
    pub gateway: Usage,
    /// CPU time of publisher and receiver together.
    pub others_cpu_seconds: f64,
}

impl Rig {
    /// Starts the three processes.
    pub fn start(start: &Start) -> anyhow::Result<Self> {
        let (gateway, publisher) = (Gateway::start(start)?, Helper::start(Role::Publisher)?);
        let mut receiver = Helper::start(Role::Receiver)?;
        let Listening { endpoints } = receiver.answer()?;
        Ok(Self { gateway, publisher, receiver, endpoints })
    }

    /// Subscribes the first endpoints, each in an account of its own or all in one. Returns the
    /// subscriptions' names.
    pub fn subscribe(&self, endpoints: usize, fan_out: bool) -> anyhow::Result<Vec<String>> {
        let endpoints = self.endpoints.iter().take(endpoints).enumerate();
        let subscribe = endpoints
            .map(|(place, endpoint)| self.gateway.subscribe(if fan_out { 0 } else { place }, *endpoint));
        subscribe.collect()
    }

    /// Subscribes the first endpoints in one account, each to an inbox of its own. Returns the subscriptions'
    /// names.
    pub fn subscribe_inboxes(&self, endpoints: usize) -> anyhow::Result<Vec<String>> {
        let endpoints = self.endpoints.iter().take(endpoints).enumerate();
        endpoints.map(|(place, endpoint)| self.gateway.subscribe_inbox(inbox(place), *endpoint)).collect()
    }

    /// Publishes a load, and waits until it is stored.
    pub fn publish(&mut self, load: Load) -> anyhow::Result<()> {
        let order = self.gateway.order(load);
        let published: Published = self.publisher.ask(&order)?;
        ensure!(published.acknowledged == load.events, "only {} were stored", published.acknowledged);
        Ok(())
    }

    /// Opens connections and fills caches for a load.
    pub fn warm_up(&mut self, expected: Expected) -> anyhow::Result<()> {
        let events = WARM_UP_EVENTS.max(expected.endpoints as u64);
        self.round(Way::Unary { in_flight: 16 }, Expected { events, ..expected })?;
        Ok(())
    }

    /// Publishes, waits until everything has arrived and is settled, and checks the counts.
    pub fn round(&mut self, way: Way, expected: Expected) -> anyhow::Result<Round> {
        self.begin(way, expected)?;
        let published: Published = self.publisher.answer()?;
        self.end(published, expected)
    }

    /// Starts to publish. The caller reads the publisher's answer.
    pub fn begin(&mut self, way: Way, expected: Expected) -> anyhow::Result<()> {
        let _: Arrived = self.receiver.ask(&ReceiverOrder::Expect(expected))?;
        let load = Load { way, events: expected.events, accounts: accounts(expected), inboxes: 0 };
        self.publisher.order(&self.gateway.order(load))
    }

    /// Waits until all acknowledged events have arrived and are settled, and checks the counts.
    pub fn end(&mut self, published: Published, expected: Expected) -> anyhow::Result<Round> {
        let deliveries = match published.refused + published.held_back {
            0 => expected.deliveries(),
            _ => published.acknowledged, // One delivery for each event.
        };
        let _: Arrived = self.receiver.ask(&ReceiverOrder::ExpectOnly { deliveries })?;
        let timeout_ms = u64::try_from(ARRIVAL_TIMEOUT.as_millis())?;
        let arrived: Arrived = self.receiver.ask(&ReceiverOrder::Wait { timeout_ms })?;
        let missing = deliveries.saturating_sub(arrived.deliveries);
        ensure!(missing == 0, "{missing} of {deliveries} deliveries did not arrive");
        let settling = (0..accounts(expected)).filter(|place| Some(*place) != expected.hanging);
        self.gateway.wait_settled(settling, ARRIVAL_TIMEOUT)?;
        let settled = now_micros();
        // Again, for arrivals after the last expected one.
        let arrived: Arrived = self.receiver.ask(&ReceiverOrder::Tell)?;
        let Arrived { again, unexpected, .. } = arrived;
        ensure!(
            again == 0 && unexpected == 0 && arrived.deliveries == deliveries,
            "{again} deliveries came twice, {unexpected} were not expected, {} instead of {deliveries} came",
            arrived.deliveries
        );
        Ok(Round { published, arrived, settled })
    }

    /// Resources used so far.
    pub fn usage(&self) -> anyhow::Result<RigUsage> {
        let (publisher, receiver) = (self.publisher.usage()?, self.receiver.usage()?);
        let others_cpu_seconds = publisher.cpu_seconds + receiver.cpu_seconds;
        Ok(RigUsage { gateway: self.gateway.usage()?, others_cpu_seconds })
    }
}

fn accounts(expected: Expected) -> usize {
    if expected.fan_out { 1 } else { expected.endpoints }
}
