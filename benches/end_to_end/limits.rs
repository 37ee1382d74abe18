//! What this machine can do at best, in the same run: figures of the gateway mean something only beside these.

pub mod disk;
pub mod echo;
pub mod posts;

use crate::load::{account, now_micros, stamped};
use serde::Serialize;
use tidings::{domain::payload_format::PayloadFormat, event::render};

/// Something that bounds every gateway on this machine.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Appends encoded events to a file, with a `fdatasync` after every `batch`.
    Disk {
        /// Events of a write.
        batch: usize,
        /// Writes in all.
        writes: u64,
    },
    /// POSTs the same body to the receiver, over kept connections, without any gateway.
    Posts {
        /// POSTs at once.
        in_flight: usize,
        /// POSTs in all.
        count: u64,
    },
    /// Publishes to a server that answers at once and does nothing.
    Echo {
        /// Calls at once.
        in_flight: usize,
        /// Calls in all.
        count: u64,
    },
}

/// A limit as it was found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// What it is called in the table.
    pub name: String,
    /// Events, POSTs or calls a second.
    pub per_second: f64,
    /// Time of a core that the process in question took for 10,000 of them.
    pub cpu_seconds_per_10_000: Option<f64>,
}

impl Limit {
    /// What it is called in the table.
    pub fn name(&self) -> String {
        match self {
            Self::Disk { batch, .. } => format!("append and fdatasync, {batch} a write"),
            Self::Posts { in_flight, .. } => format!("bare POSTs, {in_flight} in flight"),
            Self::Echo { in_flight, .. } => format!("bare gRPC, {in_flight} in flight"),
        }
    }

    /// Finds it.
    pub fn measure(&self) -> anyhow::Result<Found> {
        let (per_second, cpu_seconds_per_10_000) = match *self {
            Self::Disk { batch, writes } => (disk::measure(batch, writes)?, None),
            Self::Posts { in_flight, count } => posts::measure(in_flight, count)?,
            Self::Echo { in_flight, count } => echo::measure(in_flight, count)?,
        };
        Ok(Found { name: self.name(), per_second, cpu_seconds_per_10_000 })
    }
}

/// A typical body, as the gateway would send it.
fn typical_body() -> Vec<u8> {
    render::render(&stamped(account(0), 1, now_micros()), PayloadFormat::Documented)
}
