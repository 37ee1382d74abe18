//! The whole gateway in a simulated world: a publisher, a gateway and receivers on a network of turmoil's,
//! all of it from one seed. The network parts and delays, receivers fail, hang, are slow, ask for patience,
//! are gone and die, the gateway crashes, stops and starts, clocks step, and retention removes settled
//! events. Meanwhile an administrator pauses, moves, cancels, retries and replays. The seed decides which of
//! it happens (`plan`). Then everything heals, and everything that was acknowledged must have arrived, in its
//! order where that was asked for, or have been cancelled; nothing may be owed; the counts must add up
//! (`check`). `coverage` counts each kind of event, so that none vanishes unnoticed.
//!
//! The same seed twice is the same history, with the same times. So a seed that found something can be looked
//! at again and again: `TIDINGS_SIM_SEED=17 cargo test --test sim one_seed -- --nocapture` shows its history.
//! `TIDINGS_SIM_SEEDS` says how many seeds are run; 200 in a full run of the tests, 20 otherwise.
//!
//! Real are the gRPC server and its client, the gateway, the dispatcher and the HTTP client. Simulated are
//! sockets, timers, the clock, and the disk: sled writes with threads of its own, which nothing can put into
//! an order. It is replaced by the reference engine behind a slow disk (`disk`): writes on their way there at
//! a crash are lost, unacknowledged, and a dead incarnation writes nothing any more. Real crashes with sled
//! are the subject of the tests in `it`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod administrator;
mod calls;
mod check;
mod coverage;
mod disk;
mod faults;
mod gateway;
mod ledger;
mod plan;
mod publisher;
mod receiver;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "most of it is for the other tests")]
mod support;
mod world;

use std::{env, panic, thread};

use coverage::Coverage;
use world::{History, run};

use crate::support::profile::in_full_or_short;

/// Of these one is run twice.
const REPEATED_EVERY: u64 = 10;

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn whatever_happens_everything_acknowledged_arrives_and_the_same_seed_is_the_same_history() {
    let seeds = setting("TIDINGS_SIM_SEEDS").unwrap_or_else(|| in_full_or_short(200, 20));
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let coverage = Coverage::default();
    thread::scope(|scope| {
        for first in 0..threads {
            let coverage = &coverage;
            scope.spawn(move || {
                for seed in (first..seeds).step_by(usize::try_from(threads).unwrap()) {
                    let history = checked(seed);
                    coverage.add_all(&history.coverage);
                    if seed % REPEATED_EVERY == 0 {
                        assert_same(&history, &checked(seed));
                    }
                }
            });
        }
    });
    coverage.check(seeds);
}

#[test]
fn one_seed() {
    let history = checked(setting("TIDINGS_SIM_SEED").unwrap_or(0));
    println!("{}", history.lines.join("\n"));
    assert_same(&history, &checked(history.seed));
}

#[test]
fn another_seed_is_another_history() {
    assert_ne!(checked(0).digest(), checked(1).digest());
}

/// Runs a seed, and says which one it was if it fails.
fn checked(seed: u64) -> History {
    let failed = |panic| {
        eprintln!(
            "seed {seed} failed; TIDINGS_SIM_SEED={seed} cargo test --test sim one_seed shows it again"
        );
        panic::resume_unwind(panic)
    };
    panic::catch_unwind(|| run(seed)).unwrap_or_else(failed)
}

#[track_caller]
fn assert_same(first: &History, second: &History) {
    if first.digest() == second.digest() {
        return;
    }
    let same = first.lines.iter().zip(&second.lines).take_while(|(one, other)| one == other).count();
    let show = |history: &History| {
        history.lines[same.saturating_sub(3)..].iter().take(6).cloned().collect::<Vec<_>>()
    };
    panic!(
        "seed {} is not the same twice; from line {same} on:\n{:#?}\n{:#?}",
        first.seed,
        show(first),
        show(second)
    );
}
