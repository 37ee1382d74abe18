//! Counts of events, by kind, so that no kind vanishes from the simulation unnoticed.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex},
};

/// A kind of thing that may happen in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The gateway crashed.
    GatewayCrashed,
    /// It stopped on request, with everything under way completed.
    GatewayStopped,
    /// It was asked to stop, and cut off attempts in flight at the end of the drain, or crashed in the
    /// middle.
    GatewayCutShort,
    ReceiverCrashed,
    Parted,
    Held,
    ClockSetBack,
    ClockSetAhead,
    /// A receiver responded late, with 500, not at all, with 429 and a time, with 410.
    AnsweredSlowly,
    AnsweredWithAnError,
    Hung,
    AskedToWait,
    AnsweredGone,
    /// Events were acknowledged by a call of this kind.
    PublishedAlone,
    PublishedInABatch,
    PublishedOnAStream,
    /// A stored event was published again.
    PublishedAgain,
    /// A publish was refused since all that is stored is owed.
    RefusedAsFull,
    /// Retention removed events; and left some that are older since they are owed.
    Removed,
    KeptAsOwed,
    /// To an ordered subscription, events arrived; with earlier ones of other conversations still owed.
    ArrivedInOrder,
    PassedAStuckConversation,
    Paused,
    Resumed,
    /// Events were stored for a subscription that was paused, or suspended.
    CollectedWhilePaused,
    CollectedWhileSuspended,
    SuspendedAsGone,
    SuspendedAsFailing,
    Probed,
    /// A suspended subscription became active by a response, or by its owner.
    Recovered,
    ResumedFromSuspension,
    Cancelled,
    /// Some were still cancelled in the end.
    StayedCancelled,
    RetriedByHand,
    /// An attempt of a paused or suspended subscription, because a caller wanted it.
    RequestedOutOfTurn,
    Replayed,
    /// Deliveries used up their attempts; in the end they were replayed.
    GaveUp,
    Moved,
    /// An event attempted at one URL arrived at another.
    ArrivedAfterAMove,
    OrderSwitched,
    Summarized,
}

use Kind::*;

/// How often each must have happened in 200 seeds.
const LEAST: [(Kind, u64); 41] = [
    (GatewayCrashed, 200),
    (GatewayStopped, 100),
    (GatewayCutShort, 50),
    (ReceiverCrashed, 200),
    (Parted, 200),
    (Held, 200),
    (ClockSetBack, 70),
    (ClockSetAhead, 70),
    (AnsweredSlowly, 200),
    (AnsweredWithAnError, 500),
    (Hung, 200),
    (AskedToWait, 200),
    (AnsweredGone, 150),
    (PublishedAlone, 2000),
    (PublishedInABatch, 4000),
    (PublishedOnAStream, 4000),
    (PublishedAgain, 30),
    (RefusedAsFull, 300),
    (Removed, 3000),
    (KeptAsOwed, 100),
    (ArrivedInOrder, 8000),
    (PassedAStuckConversation, 4000),
    (Paused, 100),
    (Resumed, 300),
    (CollectedWhilePaused, 800),
    (CollectedWhileSuspended, 700),
    (SuspendedAsGone, 50),
    (SuspendedAsFailing, 40),
    (Probed, 150),
    (Recovered, 50),
    (ResumedFromSuspension, 10),
    (Cancelled, 80),
    (StayedCancelled, 60),
    (RetriedByHand, 50),
    (RequestedOutOfTurn, 10),
    (Replayed, 300),
    (GaveUp, 60),
    (Moved, 80),
    (ArrivedAfterAMove, 40),
    (OrderSwitched, 80),
    (Summarized, 200),
];
/// The number of seeds for which [`LEAST`] is demanded.
const LEAST_OF_SEEDS: u64 = 200;

/// Counters by kind. Every clone has the same counters.
#[derive(Clone, Default)]
pub struct Coverage(Arc<Mutex<BTreeMap<Kind, u64>>>);

impl Coverage {
    pub fn add(&self, kind: Kind) {
        self.add_many(kind, 1);
    }

    pub fn add_many(&self, kind: Kind, count: u64) {
        *self.0.lock().unwrap().entry(kind).or_default() += count;
    }

    pub fn of(&self, kind: Kind) -> u64 {
        self.0.lock().unwrap().get(&kind).copied().unwrap_or_default()
    }

    pub fn add_all(&self, other: &Self) {
        let counts = other.0.lock().unwrap().clone();
        counts.into_iter().for_each(|(kind, count)| self.add_many(kind, count));
    }

    /// Prints the counts, and demands as many as enough seeds must bring.
    pub fn check(&self, seeds: u64) {
        let counts = self.0.lock().unwrap();
        let (mut table, mut too_few) = (String::new(), Vec::new());
        for (kind, least) in LEAST {
            let (count, least) = (
                counts.get(&kind).copied().unwrap_or_default(),
                if seeds < LEAST_OF_SEEDS { 0 } else { least },
            );
            writeln!(table, "{count:>8} {kind:?}, of at least {least}").unwrap();
            if count < least {
                too_few.push(kind);
            }
        }
        println!("{seeds} seeds:\n{table}");
        assert!(too_few.is_empty(), "too rare: {too_few:?}");
    }
}
