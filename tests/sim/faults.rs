//! Faults, drawn from the seed: now and then something fails, for a while. In the end all of it heals.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use turmoil::Sim;

use crate::{
    coverage::{Coverage, Kind},
    gateway::{GATEWAY, Machine},
    publisher::PUBLISHER,
    receiver::{Behaviour, Receiver},
    world::Trace,
};

/// The longest time until the next thing goes wrong, and that it lasts.
const NEXT_MAX: Duration = Duration::from_millis(800);
const LASTS_MAX: Duration = Duration::from_secs(4);
/// The farthest that the clock is wrong: by a little, by an hour, by ten years.
const STEPS_MAX: [Duration; 3] =
    [Duration::from_secs(10), Duration::from_hours(1), Duration::from_hours(10 * 365 * 24)];

/// One thing that is wrong, by the number of the receiver where it is about one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    GatewayDown,
    /// It is asked to stop. If it has not by the end of the fault, it is ended as by a crash.
    GatewayStopped,
    ReceiverDown(usize),
    /// Whatever is sent is lost, to the publisher or a receiver.
    Parted(Option<usize>),
    /// Whatever is sent is delayed until the fault is over.
    Held(Option<usize>),
    Behaves(usize, Behaviour),
    ClockWrong(i64),
}

impl Fault {
    /// Things that cannot fail twice at once.
    fn concerns(self) -> (u8, Option<usize>) {
        match self {
            Self::GatewayDown | Self::GatewayStopped => (0, None),
            Self::ReceiverDown(receiver) => (1, Some(receiver)),
            Self::Parted(receiver) | Self::Held(receiver) => (2, receiver),
            Self::Behaves(receiver, _) => (3, Some(receiver)),
            Self::ClockWrong(_) => (4, None),
        }
    }
}

/// Makes things go wrong.
pub struct FieldViolations {
    random: StdRng,
    next: Duration,
    /// With the times of their ends.
    present: Vec<(Duration, Fault)>,
    machine: Arc<Machine>,
    receivers: Vec<Arc<Receiver>>,
    coverage: Coverage,
    trace: Trace,
}

impl FieldViolations {
    pub fn new(
        seed: u64,
        machine: Arc<Machine>,
        receivers: Vec<Arc<Receiver>>,
        coverage: Coverage,
        trace: Trace,
    ) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { random, next: Duration::ZERO, present: Vec::new(), machine, receivers, coverage, trace }
    }

    /// Begins and ends the faults whose time has come.
    pub fn step(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        let over: Vec<_> = self.present.extract_if(.., |(end, _)| *end <= now).collect();
        for (_, fault) in over {
            self.end(sim, fault);
        }
        if now >= self.next {
            self.next = now + NEXT_MAX.mul_f64(self.random.random());
            let fault = self.draw();
            let free = self.present.iter().all(|(_, other)| other.concerns() != fault.concerns());
            if free {
                self.begin(sim, fault);
                self.present.push((now + LASTS_MAX.mul_f64(self.random.random()), fault));
            }
        }
    }

    /// Ends everything.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        for (_, fault) in std::mem::take(&mut self.present) {
            self.end(sim, fault);
        }
    }

    fn draw(&mut self) -> Fault {
        let receiver = self.random.random_range(0..self.receivers.len());
        let peer = Some(receiver).filter(|_| self.random.random_ratio(2, 3));
        match self.random.random_range(0..13) {
            0 | 1 => Fault::GatewayDown,
            2 | 3 => Fault::GatewayStopped,
            4 => Fault::ReceiverDown(receiver),
            5 => Fault::Parted(peer),
            6 => Fault::Held(peer),
            7 => {
                let most = micros(STEPS_MAX[self.random.random_range(0..STEPS_MAX.len())]);
                Fault::ClockWrong(self.random.random_range(-most..=most))
            }
            8 => Fault::Behaves(receiver, Behaviour::Failing),
            9 => Fault::Behaves(receiver, Behaviour::Hanging),
            10 => Fault::Behaves(receiver, Behaviour::Busy(self.random.random_range(0..4))),
            11 => Fault::Behaves(receiver, Behaviour::Gone),
            _ => Fault::Behaves(
                receiver,
                Behaviour::Slow(Duration::from_millis(self.random.random_range(1..4_000))),
            ),
        }
    }

    fn begin(&self, sim: &mut Sim<'_>, fault: Fault) {
        self.trace.note_at(sim.elapsed(), "fault", format_args!("{fault:?}"));
        match fault {
            Fault::GatewayDown => self.cut_off(sim, None, |sim| sim.crash(GATEWAY)),
            Fault::GatewayStopped => self.machine.stop(),
            Fault::ReceiverDown(receiver) => {
                let receiver = Some(receiver);
                self.cut_off(sim, receiver, |sim| sim.crash(self.host(receiver)));
            }
            Fault::Parted(peer) => sim.partition(GATEWAY, self.host(peer)),
            Fault::Held(peer) => sim.hold(GATEWAY, self.host(peer)),
            Fault::Behaves(receiver, behaviour) => self.receivers[receiver].is_now(behaviour),
            Fault::ClockWrong(micros) => self.machine.clock.step(micros),
        }
        match fault {
            Fault::GatewayDown => self.coverage.add(Kind::GatewayCrashed),
            Fault::ReceiverDown(_) => self.coverage.add(Kind::ReceiverCrashed),
            Fault::Parted(_) => self.coverage.add(Kind::Parted),
            Fault::Held(_) => self.coverage.add(Kind::Held),
            Fault::ClockWrong(micros) => {
                self.coverage.add(if micros < 0 { Kind::ClockSetBack } else { Kind::ClockSetAhead });
            }
            // Counted where it shows.
            Fault::GatewayStopped | Fault::Behaves(..) => {}
        }
    }

    /// Ends a receiver or the gateway. Nothing that is on the links to it arrives any more, nor
    /// what the host's tasks would say in dying, which they do in no order.
    fn cut_off(&self, sim: &mut Sim<'_>, receiver: Option<usize>, end: impl FnOnce(&mut Sim<'_>)) {
        let links = match receiver {
            Some(receiver) => vec![Some(receiver)],
            None => (0..self.receivers.len()).map(Some).chain([None]).collect(),
        };
        for link in &links {
            sim.partition(GATEWAY, self.host(*link));
        }
        end(sim);
        for link in links {
            let is_present = |fault| self.present.iter().any(|(_, present)| *present == fault);
            if !is_present(Fault::Parted(link)) {
                sim.repair(GATEWAY, self.host(link));
            }
            if is_present(Fault::Held(link)) {
                sim.hold(GATEWAY, self.host(link));
            }
        }
    }

    fn end(&self, sim: &mut Sim<'_>, fault: Fault) {
        self.trace.note_at(sim.elapsed(), "over", format_args!("{fault:?}"));
        match fault {
            Fault::GatewayDown => sim.bounce(GATEWAY),
            Fault::GatewayStopped => {
                if sim.is_host_running(GATEWAY) {
                    self.coverage.add(Kind::GatewayCutShort);
                }
                // A stopped host still has connections that it kept for later.
                self.cut_off(sim, None, |sim| {
                    sim.crash(GATEWAY);
                    sim.bounce(GATEWAY);
                });
            }
            Fault::ReceiverDown(receiver) => sim.bounce(self.host(Some(receiver))),
            Fault::Parted(peer) => sim.repair(GATEWAY, self.host(peer)),
            Fault::Held(peer) => sim.release(GATEWAY, self.host(peer)),
            Fault::Behaves(receiver, _) => self.receivers[receiver].is_now(Behaviour::Well),
            Fault::ClockWrong(_) => self.machine.clock.step(0),
        }
    }

    fn host(&self, peer: Option<usize>) -> &str {
        peer.map_or(PUBLISHER, |receiver| &self.receivers[receiver].name)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}
