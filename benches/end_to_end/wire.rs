//! Messages between the processes of a run: lines of JSON, one answer to each order.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::load::Load;

/// To the publisher: publish to the gateway at `address`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishOrder {
    /// The gRPC address.
    pub address: SocketAddr,
    /// The access token, if calls need one.
    pub token: Option<String>,
    /// The load.
    pub load: Load,
}

/// From the publisher: the published events.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Published {
    /// When the first call began, in microseconds since 1970.
    pub first: i64,
    /// When the last response arrived, in microseconds since 1970.
    pub last: i64,
    /// From a call to its response. Refused calls are left out.
    pub answer: Latency,
    /// Acknowledged events.
    pub acknowledged: u64,
    /// Events refused with RESOURCE_EXHAUSTED.
    pub refused: u64,
    /// Events that were not sent, because too many calls were under way.
    pub held_back: u64,
    /// From a call to its refusal.
    pub refusal: Latency,
}

/// To the receiver.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum ReceiverOrder {
    /// Reset the counts, and expect this from now on.
    Expect(Expected),
    /// Answer once all expected deliveries have arrived, or after a number of milliseconds.
    Wait {
        /// The milliseconds.
        timeout_ms: u64,
    },
    /// Expect fewer deliveries, because some events were not acknowledged.
    ExpectOnly {
        /// The number of deliveries.
        deliveries: u64,
    },
    /// Answer at once.
    Tell,
}

/// The expected deliveries.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Expected {
    /// Number of events, which are numbered from 1.
    pub events: u64,
    /// Endpoints of the events.
    pub endpoints: usize,
    /// Every endpoint gets every event. Otherwise an event goes to endpoint `number % endpoints`.
    pub fan_out: bool,
    /// An endpoint that never responds, and is left out of the counts.
    pub hanging: Option<usize>,
}

impl Expected {
    /// Number of deliveries.
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

/// From the receiver, once: the addresses of its endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// By the endpoint's number.
    pub endpoints: Vec<SocketAddr>,
}

/// From the receiver: the arrived deliveries.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Arrived {
    /// Expected deliveries.
    pub deliveries: u64,
    /// Duplicates.
    pub again: u64,
    /// Unexpected requests.
    pub unexpected: u64,
    /// When the last expected one arrived, in microseconds since 1970.
    pub last: i64,
    /// From publish to arrival.
    pub latency: Latency,
}

/// Percentiles of a duration, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The maximum.
    pub max: u64,
}

/// To the HTTP client: send POSTs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PostOrder {
    /// The endpoint.
    pub address: SocketAddr,
    /// Concurrent POSTs.
    pub in_flight: usize,
    /// Number of POSTs.
    pub count: u64,
}

/// From the HTTP client: the duration.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Posted {
    /// From the first to the last response.
    pub seconds: f64,
}

/// From the echo server, once: its address.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct EchoAt {
    /// The gRPC address.
    pub address: SocketAddr,
}
