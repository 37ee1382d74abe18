//! A healthy account beside an attacker: what the attacker costs it.

use super::{Figure, compared, figure, megabytes};
use crate::{
    attackers::{Attack, Attacker},
    dns_server::DnsServer,
    gateway::Start,
    load::Way,
    measure::Rig,
    wire::Expected,
};

/// Events a second of the healthy account.
const RATE: u32 = 100;

/// One attacker beside a healthy account.
#[derive(Clone, Copy, Debug)]
pub struct Fair {
    /// What the attacker does.
    pub attack: Attack,
    /// Rounds with the attacker. There are as many without, in turn.
    pub rounds: u32,
    /// Duration of a round.
    pub seconds: u64,
}

impl Fair {
    pub(super) fn name(&self) -> String {
        format!("fair: {RATE}/s beside {}", self.attack.name())
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        let mut start = Start { tokens: true, ..start.clone() };
        // Nobody drives this runtime further, so that the server of names on it is bound and silent.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut _silent = None;
        if matches!(self.attack, Attack::Names) {
            let Some(server) = runtime.block_on(DnsServer::start()) else {
                eprintln!("skipped: it takes a mount namespace and port 53 of a loopback address");
                return Ok(vec![]);
            };
            start.before = server.before().to_vec();
            _silent = Some(server);
        }
        let events = u64::from(RATE) * self.seconds;
        let expected = Expected { events, endpoints: 1, fan_out: false, hanging: None };
        // Two gateways run all the time and are loaded in turn, so that changes of the machine affect both.
        let mut rigs = [Rig::start(&start)?, Rig::start(&start)?];
        for rig in &mut rigs {
            match self.attack {
                // Neither an address nor an open connection takes a look-up.
                Attack::Names => rig.gateway.subscribe_by_name(0, rig.endpoints[0])?,
                _ => rig.gateway.subscribe(0, rig.endpoints[0])?,
            };
            rig.warm_up(expected)?;
        }
        let idle = rigs[1].gateway.usage()?.resident_bytes;
        let attacker = Attacker::prepare(self.attack, &rigs[1].gateway)?;
        let (mut p50, mut p99) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut refused = [0, 0];
        for round in 0..self.rounds {
            // Alternate the order of the two.
            for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let rig = &mut rigs[which];
                let attacking = if which == 1 { Some(attacker.begin()?) } else { None };
                rig.begin(Way::Steady { rate: RATE }, expected)?;
                let published = rig.publisher.answer()?;
                drop(attacking);
                let round = rig.end(published, expected)?;
                p50[which].push(round.arrived.latency.p50);
                p99[which].push(round.arrived.latency.p99);
                refused[which] += published.refused;
            }
        }
        let peak = rigs[1].gateway.usage()?.resident_bytes_max;
        let mut figures = vec![
            figure("refused without", refused[0] as f64, "calls"),
            figure("with", refused[1] as f64, "calls"),
        ];
        figures.extend(compared(p50, p99));
        figures.push(figure("memory before the attack", megabytes(idle), "MB"));
        figures.push(figure("memory, peak", megabytes(peak), "MB"));
        Ok(figures)
    }
}
