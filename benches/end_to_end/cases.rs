//! What is more than one load: how the gateway stands a flood, a dead endpoint, a backlog, many subscriptions, and time.

use serde::Serialize;

use crate::gateway::Start;

mod backlog;
mod hanging;
mod idle;
mod lists;
mod overload;
mod refusals;
mod soak;

/// A case, and how much of it.
#[derive(Clone, Copy, Debug)]
pub enum Case {
    /// More is published than can be served.
    Overload(overload::Overload),
    /// Nothing is taken.
    Refusals(refusals::Refusals),
    /// One endpoint of many never answers.
    Hanging(hanging::Hanging),
    /// Nothing is delivered for a long time, and then the gateway crashes.
    Backlog(backlog::Backlog),
    /// Many subscriptions to which nothing is published.
    Idle(idle::Idle),
    /// Pages of what is stored.
    Lists(lists::Lists),
    /// Events come and go for a long time.
    Soak(soak::Soak),
}

pub use self::{
    backlog::Backlog, hanging::Hanging, idle::Idle, lists::Lists, overload::Overload, refusals::Refusals,
    soak::Soak,
};

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Its name.
    pub name: String,
    /// In the order in which they are told.
    pub figures: Vec<Figure>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is.
    pub what: String,
    /// How much.
    pub value: f64,
    /// Of what; empty for a ratio or a count.
    pub unit: &'static str,
}

impl Case {
    /// What it is called.
    pub fn name(&self) -> String {
        match self {
            Self::Overload(overload) => overload.name(),
            Self::Refusals(refusals) => refusals.name(),
            Self::Hanging(hanging) => hanging.name(),
            Self::Backlog(backlog) => backlog.name(),
            Self::Idle(idle) => idle.name(),
            Self::Lists(lists) => lists.name(),
            Self::Soak(soak) => soak.name(),
        }
    }

    /// Finds its figures, with gateways that are started so.
    pub fn run(&self, start: &Start) -> anyhow::Result<Figures> {
        let figures = match self {
            Self::Overload(overload) => overload.run(start)?,
            Self::Refusals(refusals) => refusals.run(start)?,
            Self::Hanging(hanging) => hanging.run(start)?,
            Self::Backlog(backlog) => backlog.run(start)?,
            Self::Idle(idle) => idle.run(start)?,
            Self::Lists(lists) => lists.run(start)?,
            Self::Soak(soak) => soak.run(start)?,
        };
        Ok(Figures { name: self.name(), figures })
    }
}

fn figure(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure { what: what.into(), value, unit }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}
