//! The limits of the machine, in the same run: figures of the gateway are meaningful only in comparison.

pub mod disk;
pub mod echo;
pub mod posts;

use crate::load::{account, now_micros, stamped};
use serde::Serialize;
use tidings::{domain::payload_format::PayloadFormat, event::render};

/// A limit of the machine for every gateway.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Appends encoded events to a file, with a `fdatasync` after every `batch`.
    Disk {
        /// Events in a write.
        batch: usize,
        /// Number of writes.
        writes: u64,
    },
    /// POSTs the same body to the receiver, over idle connections, without a gateway.
    Posts {
        /// Concurrent POSTs.
        in_flight: usize,
        /// Number of POSTs.
        count: u64,
    },
    /// Publishes to a server that responds at once and does nothing.
    Echo {
        /// Concurrent calls.
        in_flight: usize,
        /// Number of calls.
        count: u64,
    },
}

/// A measured limit.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The name in the table.
    pub name: String,
    /// Events, POSTs or calls per second.
    pub per_second: f64,
    /// CPU time of the process for 10,000 of them.
    pub cpu_seconds_per_10_000: Option<f64>,
}

impl Limit {
    /// The name in the table.
    pub fn name(&self) -> String {
        match self {
            Self::Disk { batch, .. } => format!("append and fdatasync, {batch} a write"),
            Self::Posts { in_flight, .. } => format!("bare POSTs, {in_flight} in flight"),
            Self::Echo { in_flight, .. } => format!("bare gRPC, {in_flight} in flight"),
        }
    }

    /// Measures the limit.
    pub fn measure(&self) -> anyhow::Result<Found> {
        let (per_second, cpu_seconds_per_10_000) = match *self {
            Self::Disk { batch, writes } => (disk::measure(batch, writes)?, None),
            Self::Posts { in_flight, count } => posts::measure(in_flight, count)?,
            Self::Echo { in_flight, count } => echo::measure(in_flight, count)?,
        };
        Ok(Found { name: self.name(), per_second, cpu_seconds_per_10_000 })
    }
}

/// A typical body, as the gateway sends it.
fn typical_body() -> Vec<u8> {
    render::render(&stamped(account(0), 1, now_micros()), PayloadFormat::Documented)
}
