//! What a run measures, and how much of it. Everything is bounded in count, so that a run is bounded in time.

use crate::{limits::Limit, load::Way, measure::Measure};

/// Endpoints that a load is spread over, each of an account of its own, as publishers with several customers have it.
const SPREAD: usize = 8;

/// A run.
pub struct Plan {
    /// What the machine can do at best.
    pub limits: Vec<Limit>,
    /// What the gateway does.
    pub measures: Vec<Measure>,
}

impl Plan {
    /// About two minutes.
    pub fn full() -> Self {
        Self::scaled(1)
    }

    /// Under half a minute: enough to see that everything works, too little for figures to be compared.
    pub fn quick() -> Self {
        Self::scaled(10)
    }

    fn scaled(divisor: u64) -> Self {
        let spread = |name, way, events: u64| Measure {
            name,
            way,
            events: events / divisor,
            endpoints: SPREAD,
            fan_out: false,
        };
        let unary = |in_flight| Way::Unary { in_flight };
        let batches = Way::Batches { size: 100, in_flight: 8 };
        let streams = Way::Streams { count: 4 };
        let steady = Way::Steady { rate: 100 };
        let measures = vec![
            spread("unary, 1 in flight", unary(1), 4_000),
            spread("unary, 64 in flight", unary(64), 60_000),
            spread("unary, 256 in flight", unary(256), 60_000),
            Measure { endpoints: 1, ..spread("unary, 64 in flight, one endpoint", unary(64), 40_000) },
            spread("batches of 100", batches, 100_000),
            spread("stream", streams, 100_000),
            Measure { endpoints: 10, fan_out: true, ..spread("fan-out 10", unary(64), 10_000) },
            spread("steady 100/s", steady, 2_000),
        ];
        let limits = vec![
            Limit::Disk { batch: 1, writes: 2_000 / divisor },
            Limit::Disk { batch: 32, writes: 2_000 / divisor },
            Limit::Disk { batch: 256, writes: 500 / divisor },
            Limit::Posts { in_flight: 64, count: 100_000 / divisor },
            Limit::Echo { in_flight: 1, count: 5_000 / divisor },
            Limit::Echo { in_flight: 64, count: 60_000 / divisor },
        ];
        Self { limits, measures }
    }
}
