//! Cases beyond a single load: a flood, a dead endpoint, a backlog, many subscriptions, a long time.

use serde::Serialize;

use crate::gateway::Start;

mod backlog;
mod console;
mod fair;
mod hanging;
mod idle;
mod lists;
mod overload;
mod refusals;
mod soak;

/// A case and its size.
#[derive(Clone, Copy, Debug)]
pub enum Case {
    /// Publish at more than the sustainable rate.
    Overload(overload::Overload),
    /// Every publish is refused.
    Refusals(refusals::Refusals),
    /// One endpoint of many never responds.
    Hanging(hanging::Hanging),
    /// A healthy account beside an attacker.
    Fair(fair::Fair),
    /// A backlog grows, then the gateway crashes.
    Backlog(backlog::Backlog),
    /// Many subscriptions without events.
    Idle(idle::Idle),
    /// Pages of lists.
    Lists(lists::Lists),
    /// Pages of the console, and what it takes.
    Console(console::Console),
    /// Events are stored and deleted for a long time.
    Soak(soak::Soak),
}

pub use self::{
    backlog::Backlog, console::Console, fair::Fair, hanging::Hanging, idle::Idle, lists::Lists,
    overload::Overload, refusals::Refusals, soak::Soak,
};

/// The figures of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The name of the case.
    pub name: String,
    /// The figures, in the order of the table.
    pub figures: Vec<Figure>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its meaning.
    pub what: String,
    /// Its value.
    pub value: f64,
    /// Its unit; empty for a ratio or a count.
    pub unit: &'static str,
}

impl Case {
    /// The name of the case.
    pub fn name(&self) -> String {
        match self {
            Self::Overload(overload) => overload.name(),
            Self::Refusals(refusals) => refusals.name(),
            Self::Hanging(hanging) => hanging.name(),
            Self::Fair(fair) => fair.name(),
            Self::Backlog(backlog) => backlog.name(),
            Self::Idle(idle) => idle.name(),
            Self::Lists(lists) => lists.name(),
            Self::Console(console) => console.name(),
            Self::Soak(soak) => soak.name(),
        }
    }

    /// Measures the case with gateways that `start` describes.
    pub fn run(&self, start: &Start) -> anyhow::Result<Figures> {
        let figures = match self {
            Self::Overload(overload) => overload.run(start)?,
            Self::Refusals(refusals) => refusals.run(start)?,
            Self::Hanging(hanging) => hanging.run(start)?,
            Self::Fair(fair) => fair.run(start)?,
            Self::Backlog(backlog) => backlog.run(start)?,
            Self::Idle(idle) => idle.run(start)?,
            Self::Lists(lists) => lists.run(start)?,
            Self::Console(console) => console.run(start)?,
            Self::Soak(soak) => soak.run(start)?,
        };
        Ok(Figures { name: self.name(), figures })
    }
}

fn figure(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure { what: what.into(), value, unit }
}

/// The latencies of rounds without and with something, in microseconds: the medians of the rounds, and their ratios.
fn compared(p50: [Vec<u64>; 2], p99: [Vec<u64>; 2]) -> Vec<Figure> {
    let median = |mut rounds: Vec<u64>| {
        rounds.sort_unstable();
        rounds[rounds.len() / 2]
    };
    let of = |part: &str, rounds: [Vec<u64>; 2]| {
        let [without, with] = rounds.map(median);
        [
            figure(format!("publish to arrival without, {part}"), millis(without), "ms"),
            figure(format!("with, {part}"), millis(with), "ms"),
            figure("ratio", with as f64 / without as f64, ""),
        ]
    };
    [of("p50", p50), of("p99", p99)].concat()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}
