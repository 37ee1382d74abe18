//! One simulation from its seed to its history, and what must be true in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
    time::Duration,
};

use tidings::proto::v1::delivery::State;
use turmoil::Builder;
use uuid::Uuid;

use crate::{
    faults::Faults,
    gateway::{self, GATEWAY, Machine},
    publisher::{Known, PUBLISHER, Publisher},
    receiver::{self, Receiver, Seen},
};

/// The accounts, and those of the receivers' subscriptions: two share one.
pub const ACCOUNTS: [i64; 2] = [1, 2];
const RECEIVERS: [i64; 3] = [1, 1, 2];
/// How far simulated time goes in one step.
const TICK: Duration = Duration::from_millis(5);
/// Until then things go wrong.
const FAULTS_UNTIL: Duration = Duration::from_secs(12);
/// Everything must be over by then.
const END: Duration = Duration::from_secs(120);

/// What every host saw, line by line, with the simulated time.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    /// Notes what a host sees. To be called on that host.
    pub fn note(&self, host: &str, what: impl Display) {
        self.note_at(turmoil::sim_elapsed().expect("a host notes"), host, what);
    }

    /// Notes what happens to the world.
    pub fn note_at(&self, at: Duration, who: &str, what: impl Display) {
        self.0.lock().unwrap().push(format!("{:>10.3} {who}: {what}", at.as_secs_f64()));
    }
}

/// How a simulation went.
pub struct History {
    pub seed: u64,
    pub lines: Vec<String>,
}

impl History {
    /// Tells histories apart.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lines.hash(&mut hasher);
        hasher.finish()
    }
}

/// Simulates, and checks what must be true in the end.
pub fn run(seed: u64) -> History {
    let trace = Trace::default();
    let machine = Machine::new(seed);
    let receivers: Vec<_> = (0..RECEIVERS.len())
        .map(|number| Receiver::new(format!("receiver-{number}"), seed + number as u64, trace.clone()))
        .collect();
    let publisher = Publisher::new(seed, trace.clone());

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
    let endpoints = receivers.iter().zip(RECEIVERS).map(|(receiver, account)| {
        let address = sim.lookup(receiver.name.as_str());
        (account, format!("http://{address}:{}/hook", receiver::PORT))
    });
    let endpoints = endpoints.collect();
    sim.client(PUBLISHER, Arc::clone(&publisher).run(endpoints));

    let mut faults = Faults::new(seed, Arc::clone(&machine), receivers.clone(), trace.clone());
    let mut healed = false;
    loop {
        if sim.elapsed() < FAULTS_UNTIL {
            faults.step(&mut sim);
        } else if !healed {
            faults.heal(&mut sim);
            healed = true;
        }
        match sim.step() {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => {
                let lines = trace.0.lock().unwrap().join("\n");
                panic!("{lines}\n{error}; owed are {:#?}", machine.owed());
            }
        }
    }
    drop(sim);
    check(&publisher.known.lock().unwrap(), &receivers);
    let lines = std::mem::take(&mut *trace.0.lock().unwrap());
    History { seed, lines }
}

fn check(known: &Known, receivers: &[Arc<Receiver>]) {
    for account in ACCOUNTS {
        check_stored(known, account);
    }
    for ((account, subscription), receiver) in known.subscriptions.iter().zip(receivers) {
        let uid = Uuid::parse_str(&subscription.uid).unwrap();
        let stored = &known.stored[account];
        let expected: BTreeMap<String, &String> =
            stored.iter().map(|name| (Uuid::new_v5(&uid, name.as_bytes()).to_string(), name)).collect();
        let mut taken = BTreeSet::new();
        let mut bodies = BTreeMap::new();
        for Seen { webhook_id, body, taken: was_taken } in &*receiver.seen.lock().unwrap() {
            let name = expected
                .get(webhook_id)
                .unwrap_or_else(|| panic!("{webhook_id} is not of {}", receiver.name));
            let first = bodies.entry(webhook_id.clone()).or_insert_with(|| body.clone());
            assert_eq!(first, body, "one delivery of {name}, one body");
            if *was_taken {
                taken.insert(webhook_id.clone());
            }
        }
        let missing: Vec<_> = expected.iter().filter(|(id, _)| !taken.contains(*id)).collect();
        assert!(missing.is_empty(), "{} never took {missing:?}", receiver.name);
    }
}

/// What is stored is what was acknowledged, perhaps with some of what was given up, each once; and each is delivered.
fn check_stored(known: &Known, account: i64) {
    let of_account = |name: &&String| name.starts_with(&format!("accounts/{account}/"));
    let stored: BTreeSet<_> = known.stored[&account].iter().collect();
    assert_eq!(stored.len(), known.stored[&account].len(), "something is stored twice");
    let acknowledged: BTreeSet<_> = known.acknowledged.iter().filter(of_account).collect();
    assert!(acknowledged.len() > 10, "too few for a test");
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let unknown: Vec<_> =
        stored.difference(&acknowledged).filter(|name| !known.given_up.contains(**name)).collect();
    assert!(unknown.is_empty(), "stored and neither acknowledged nor given up: {unknown:?}");

    let subscriptions = known.subscriptions.iter().filter(|(of, _)| *of == account).count();
    let deliveries = &known.deliveries[&account];
    assert_eq!(deliveries.len(), stored.len() * subscriptions);
    assert!(deliveries.iter().all(|delivery| delivery.state() == State::Succeeded), "{deliveries:#?}");
    let succeeded = BTreeMap::from([(State::Succeeded.into(), i64::try_from(deliveries.len()).unwrap())]);
    let counts = known.counts[&account].iter().filter(|(_, count)| **count > 0);
    assert_eq!(counts.map(|(state, count)| (*state, *count)).collect::<BTreeMap<i32, i64>>(), succeeded);
}
