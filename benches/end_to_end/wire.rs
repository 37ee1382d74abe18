//! What the processes of a run say to each other: lines of JSON, one answer to each order.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::load::Load;

/// To the publisher: publish to the gateway at `address`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PublishOrder {
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// What, and how.
    pub load: Load,
}

/// From the publisher: what it published.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Published {
    /// When the first call began, in microseconds since the epoch.
    pub first: i64,
    /// When the last answer came, likewise.
    pub last: i64,
    /// From the beginning of a call to its answer, of those that were not refused.
    pub answer: Latency,
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Events that were refused with RESOURCE_EXHAUSTED.
    pub refused: u64,
    /// Events that were not sent, since too many calls were under way.
    pub held_back: u64,
    /// From the beginning of a call to its refusal.
    pub refusal: Latency,
}

/// To the receiver.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum ReceiverOrder {
    /// Forget what arrived, and expect this from now on.
    Expect(Expected),
    /// Answer once everything that is expected has arrived, or after so many milliseconds.
    Wait {
        /// The bound.
        timeout_ms: u64,
    },
    /// Expect only so many deliveries: others were not acknowledged.
    ExpectOnly {
        /// How many.
        deliveries: u64,
    },
    /// Answer at once.
    Tell,
}

/// What is to arrive.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Expected {
    /// Events, numbered from 1.
    pub events: u64,
    /// Endpoints that they are spread over.
    pub endpoints: usize,
    /// Whether every endpoint gets every event; otherwise each event goes to endpoint `number % endpoints`.
    pub fan_out: bool,
    /// An endpoint that never answers, and of which nothing is expected.
    pub hanging: Option<usize>,
}

impl Expected {
    /// Deliveries in all.
    pub fn deliveries(&self) -> u64 {
        let endpoints = self.endpoints as u64;
        match (self.fan_out, self.hanging) {
            (true, hanging) => self.events * (endpoints - u64::from(hanging.is_some())),
            (false, None) => self.events,
            (false, Some(hanging)) => {
                let hanging = hanging as u64;
                self.events - (1..=self.events).filter(|number| number % endpoints == hanging).count() as u64
            }
        }
    }
}

/// From the receiver, once: where its endpoints are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// By the endpoint's number.
    pub endpoints: Vec<SocketAddr>,
}

/// From the receiver: what arrived.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Arrived {
    /// Deliveries that were expected and came.
    pub deliveries: u64,
    /// Deliveries that came again.
    pub again: u64,
    /// Requests that were not expected at all.
    pub unexpected: u64,
    /// When the last one that was expected came, in microseconds since the epoch.
    pub last: i64,
    /// From publish to arrival.
    pub latency: Latency,
}

/// How long something took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: u64,
    /// 95 of 100 took no longer.
    pub p95: u64,
    /// 99 of 100 took no longer.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// To the webhook_client: send this many POSTs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PostOrder {
    /// To whom.
    pub address: SocketAddr,
    /// How many at once.
    pub in_flight: usize,
    /// How many in all.
    pub count: u64,
}

/// From the webhook_client: how long it took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Posted {
    /// From the first to the last answer.
    pub seconds: f64,
}

/// From the echo server, once: where it is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct EchoAt {
    /// Where gRPC is served.
    pub address: SocketAddr,
}
