//! The plan of a seed. Each simulation is about a few things, and all of them together about everything.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Subscriptions, by the accounts that they are of: two share one.
pub const SUBSCRIPTIONS: [i64; 3] = [1, 1, 2];
/// Receivers: one for each subscription, and one that they may move to.
pub const RECEIVERS: usize = SUBSCRIPTIONS.len() + 1;

/// Retention of settled events.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keeping {
    Everything,
    /// So many bytes of events.
    Bytes(u64),
    /// So long.
    For(Duration),
}

/// An action that the administrator takes now and then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deed {
    Pause,
    Resume,
    Cancel,
    Retry,
    Replay,
    Move,
    SwitchOrder,
    Summarize,
}

/// The plan of a seed.
#[derive(Debug)]
pub struct Plan {
    /// Which subscriptions are ordered, in the beginning.
    pub ordered: [bool; SUBSCRIPTIONS.len()],
    /// Whether subscriptions are suspended soon. Otherwise it takes a 410.
    pub suspends: bool,
    /// After how many attempts a delivery is given up.
    pub attempts_max: u32,
    pub keeping: Keeping,
    /// The administrator's actions, some more often than others.
    pub deeds: Vec<Deed>,
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x70_6c61_6e00);
        let ordered = std::array::from_fn(|_| random.random_ratio(2, 3));
        let suspends = random.random();
        let keeping = match random.random_range(0..4) {
            0 => Keeping::Bytes(random.random_range(10_000..60_000)),
            1 => Keeping::For(Duration::from_millis(random.random_range(500..5_000))),
            _ => Keeping::Everything,
        };
        // Failed deliveries may be removed, and never arrive: only plans that keep everything have them.
        let gives_up = keeping == Keeping::Everything && random.random_ratio(2, 3);
        let attempts_max = if gives_up { 3 } else { 50 };
        let mut deeds = vec![Deed::Summarize];
        for some in [
            [Deed::Pause, Deed::Pause, Deed::Resume],
            [Deed::Retry, Deed::Retry, Deed::Replay],
            [Deed::Cancel, Deed::Cancel, Deed::Retry],
            [Deed::Move, Deed::Move, Deed::Resume],
            [Deed::SwitchOrder, Deed::SwitchOrder, Deed::Pause],
        ] {
            if random.random_ratio(2, 5) {
                deeds.extend(some);
            }
        }
        Self { ordered, suspends, attempts_max, keeping, deeds }
    }
}
