//! One endpoint of many never responds: the effect on the others.

use super::{Figure, compared, figure};
use crate::{gateway::Start, load::Way, measure::Rig, wire::Expected};

/// Events for the hanging endpoint before the others are measured.
const STUCK_EVENTS: u64 = 1_000;

/// One hanging endpoint among others.
#[derive(Clone, Copy, Debug)]
pub struct Hanging {
    /// Endpoints in all, each of an account of its own.
    pub endpoints: usize,
    /// Events a second to all of them.
    pub rate: u32,
    /// Rounds of two seconds with the hanging endpoint. There are as many without, in turn.
    pub rounds: u32,
}

impl Hanging {
    pub(super) fn name(&self) -> String {
        format!("one endpoint hangs beside {}, {}/s", self.endpoints - 1, self.rate)
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        const ROUND_SECONDS: u64 = 2;
        let hanging = self.endpoints - 1;
        let expected = |hanging| Expected {
            events: u64::from(self.rate) * ROUND_SECONDS,
            endpoints: self.endpoints,
            fan_out: false,
            hanging,
        };
        // Two gateways run all the time and are loaded in turn, so that changes of the machine affect both.
        let mut rigs = [(None, Rig::start(start)?), (Some(hanging), Rig::start(start)?)];
        for (hanging, rig) in &mut rigs {
            rig.subscribe(self.endpoints, false)?;
            rig.warm_up(expected(*hanging))?;
            if let Some(hanging) = hanging {
                // Enough events that its attempts in flight are always at their limit.
                rig.gateway.publish(*hanging, STUCK_EVENTS)?;
            }
        }
        let (mut p50, mut p99) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for round in 0..self.rounds {
            // Alternate the order of the two.
            for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let (hanging, rig) = &mut rigs[which];
                let round = rig.round(Way::Steady { rate: self.rate }, expected(*hanging))?;
                p50[which].push(round.arrived.latency.p50);
                p99[which].push(round.arrived.latency.p99);
            }
        }
        let owed = rigs[1].1.gateway.owed(hanging)?;
        let mut figures = compared(p50, p99);
        figures.push(figure("owed to the one that hangs", owed as f64, "deliveries"));
        Ok(figures)
    }
}
