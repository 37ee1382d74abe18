//! One simulation from its seed to its history and the checks at the end.

use std::{
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use turmoil::{Builder, Sim};

use crate::{
    administrator::{ADMINISTRATOR, Administrator},
    calls::Caller,
    check::Outcome,
    coverage::Coverage,
    faults::FieldViolations,
    gateway::{self, GATEWAY, Machine},
    plan::{Plan, RECEIVERS, SUBSCRIPTIONS},
    publisher::{PUBLISHER, Publisher},
    receiver::{self, Receiver},
};

/// How far simulated time goes in one step.
pub const TICK: Duration = Duration::from_millis(5);
/// How long anything is under way between the publisher and the gateway. Always the same, since connections
/// that the gateway has and nobody else uses learn of its stop before or after the one that is used.
const CALL_LATENCY: Duration = Duration::from_millis(10);
/// Until then things go wrong.
pub const FAULTS_UNTIL: Duration = Duration::from_secs(12);
/// Everything must be over by then.
const END: Duration = Duration::from_secs(120);

/// The history of all hosts, line by line, with the simulated time.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    /// Notes something that a host sees. To be called on that host.
    pub fn note(&self, host: &str, what: impl Display) {
        self.note_at(turmoil::sim_elapsed().expect("a host notes"), host, what);
    }

    /// Notes something that happens to the world.
    pub fn note_at(&self, at: Duration, who: &str, what: impl Display) {
        self.0.lock().unwrap().push(format!("{:>10.3} {who}: {what}", at.as_secs_f64()));
    }
}

/// Shows the history of a simulation that fails.
struct Shown(Trace);

impl Drop for Shown {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0.0.lock().unwrap().join("\n"));
        }
    }
}

/// How a simulation went.
pub struct History {
    pub seed: u64,
    pub lines: Vec<String>,
    pub coverage: Coverage,
}

impl History {
    /// Tells histories apart.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lines.hash(&mut hasher);
        hasher.finish()
    }
}

/// Simulates, and makes the checks at the end.
pub fn run(seed: u64) -> History {
    let (trace, coverage, plan) = (Trace::default(), Coverage::default(), Arc::new(Plan::draw(seed)));
    let _shown = Shown(trace.clone());
    trace.note_at(Duration::ZERO, "plan", format_args!("{plan:?}"));
    let machine = Machine::new(seed, Arc::clone(&plan), coverage.clone(), trace.clone());
    let ledger = Arc::clone(&machine.ledger);
    let receivers: Vec<_> = (0..RECEIVERS)
        .map(|number| Receiver::new(number, seed, Arc::clone(&ledger), coverage.clone(), trace.clone()))
        .collect();
    let caller = Caller::new(PUBLISHER, trace.clone());
    let other = caller.another(ADMINISTRATOR);
    let publisher = Publisher::new(seed, Arc::clone(&plan), coverage.clone(), caller);
    let administrator =
        Administrator::new(seed, Arc::clone(&plan), Arc::clone(&ledger), coverage.clone(), other);

    let mut sim = Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .tick_duration(TICK)
        .simulation_duration(END)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(50))
        .tcp_capacity(1 << 16)
        .build();
    for receiver in &receivers {
        let software = Arc::clone(receiver);
        sim.host(receiver.name.as_str(), move || Arc::clone(&software).run());
    }
    let software = Arc::clone(&machine);
    sim.host(GATEWAY, move || gateway::run(Arc::clone(&software)));
    let bases: Vec<_> = receivers
        .iter()
        .map(|receiver| format!("http://{}:{}", sim.lookup(receiver.name.as_str()), receiver::PORT))
        .collect();
    let spare = &bases[SUBSCRIPTIONS.len()];
    let urls = (0..SUBSCRIPTIONS.len())
        .map(|number| [format!("{}/{number}", bases[number]), format!("{spare}/{number}")]);
    sim.client(PUBLISHER, Arc::clone(&publisher).run(Arc::clone(&administrator), urls.collect()));

    sim.set_link_latency(GATEWAY, PUBLISHER, CALL_LATENCY);
    let faults = FieldViolations::new(seed, Arc::clone(&machine), receivers, coverage.clone(), trace.clone());
    simulate(&mut sim, faults, &machine);
    drop(sim);
    let (known, decided) = (publisher.known.lock().unwrap(), administrator.decided.lock().unwrap());
    let lines = ledger.lines();
    Outcome {
        plan: &plan,
        known: &known,
        decided: &decided,
        lines: &lines,
        receivers: &bases,
        coverage: &coverage,
    }
    .check();
    let lines = std::mem::take(&mut *trace.0.lock().unwrap());
    History { seed, lines, coverage }
}

/// Lets time go by until the publisher is through.
fn simulate(sim: &mut Sim<'_>, mut faults: FieldViolations, machine: &Machine) {
    let mut healed = false;
    loop {
        if sim.elapsed() < FAULTS_UNTIL {
            faults.step(sim);
        } else if !healed {
            faults.heal(sim);
            healed = true;
        }
        match sim.step() {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => panic!("{error}; owed are {:#?}", machine.owed()),
        }
    }
}
