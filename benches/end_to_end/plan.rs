//! The measures of a run and their sizes. All are bounded in count, so that a run is bounded in time.

use crate::{
    attackers::Attack,
    cases::{Backlog, Case, Console, Fair, Hanging, Idle, Lists, Overload, Refusals, Soak},
    limits::Limit,
    load::Way,
    measure::Measure,
};

/// Endpoints of a load, each with an account of its own, like the customers of a publisher.
const SPREAD: usize = 8;

/// A run.
pub struct Plan {
    /// Limits of the machine.
    pub limits: Vec<Limit>,
    /// Loads of the gateway.
    pub measures: Vec<Measure>,
    /// Unusual conditions.
    pub cases: Vec<Case>,
}

/// The size of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// A smoke test under a minute. Its figures cannot be compared.
    Quick,
    /// Some minutes.
    Full,
    /// An hour, and 40 GB of disk.
    Long,
}

impl Plan {
    /// A run of this scale. `events` replaces the number of events of backlog, lists, console and soak.
    pub fn of(scale: Scale, events: Option<u64>) -> Self {
        let divisor = if scale == Scale::Quick { 10 } else { 1 };
        let spread = |name, way, events: u64| Measure {
            name,
            way,
            events: events / divisor,
            endpoints: SPREAD,
            fan_out: false,
        };
        let unary = |in_flight| Way::Unary { in_flight };
        let json = |in_flight, is_http1| Way::Json { in_flight, is_http1 };
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
            spread("json, 256 in flight", json(256, false), 60_000),
            spread("json, 256 in flight, the same as gRPC", unary(256), 60_000),
            spread("json, 64 in flight over HTTP/1.1", json(64, true), 60_000),
        ];
        let limits = vec![
            Limit::Disk { batch: 1, writes: 2_000 / divisor },
            Limit::Disk { batch: 32, writes: 2_000 / divisor },
            Limit::Disk { batch: 256, writes: 500 / divisor },
            Limit::Posts { in_flight: 64, count: 100_000 / divisor },
            Limit::Echo { in_flight: 1, count: 5_000 / divisor },
            Limit::Echo { in_flight: 64, count: 60_000 / divisor },
        ];
        Self { limits, measures, cases: cases(scale, events) }
    }
}

fn cases(scale: Scale, events: Option<u64>) -> Vec<Case> {
    // The sizes of a quick, a full and a long run.
    let choose = |quick: u64, full: u64, long: u64| match scale {
        Scale::Quick => quick,
        Scale::Full => full,
        Scale::Long => long,
    };
    let few = |number: u64| usize::try_from(number).expect("it is small");
    let overload = |size| {
        let (saturating_events, seconds) = (choose(4_000, 40_000, 40_000), choose(2, 20, 20));
        Case::Overload(Overload { size, saturating_events, seconds })
    };
    let fair = |attack| {
        let (rounds, seconds) = if scale == Scale::Quick { (1, 2) } else { (3, 15) };
        Case::Fair(Fair { attack, rounds, seconds })
    };
    let stored = events.unwrap_or(choose(10_000, 300_000, 10_000_000));
    vec![
        overload(1),
        overload(100),
        Case::Refusals(Refusals { calls: choose(1_000, 20_000, 20_000) }),
        Case::Hanging(Hanging {
            endpoints: few(choose(100, 1000, 1000)),
            rate: if scale == Scale::Quick { 100 } else { 500 },
            rounds: if scale == Scale::Quick { 1 } else { 21 },
        }),
        fair(Attack::Unauthenticated),
        fair(Attack::Lists),
        fair(Attack::Backlog { subscriptions: few(choose(100, 1_000, 1_000)) }),
        fair(Attack::Names),
        fair(Attack::LateReceiver),
        Case::Backlog(Backlog { events: stored }),
        Case::Idle(Idle { subscriptions: few(choose(200, 5_000, 100_000)) }),
        Case::Lists(Lists {
            events: events.unwrap_or(choose(20_000, 300_000, 10_000_000)),
            subscriptions: few(choose(100, 1_000, 1_000)),
        }),
        Case::Console(Console {
            events: events.unwrap_or(choose(20_000, 300_000, 10_000_000)),
            subscriptions: few(choose(100, 1_000, 1_000)),
            loads: few(choose(20, 500, 500)),
            rounds: few(choose(2, 10, 10)),
            round_events: choose(2_000, 40_000, 40_000),
        }),
        Case::Soak(Soak { events: stored, kept: choose(5_000, 50_000, 500_000) }),
    ]
}
