//! The history of every delivery, line by line in order: the writes of the store, the attempts that the
//! gateway began, and the requests that arrived. The checks at the end read these lines.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tidings::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{Seq, SubscriptionKey},
        subscription::{State, Subscription},
    },
    store::{Changes, DeliveryChange, QueueEvent, Store, memory::MemoryStore},
};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use crate::world::Trace;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An event was stored, owed to these.
    Stored { seq: Seq, account: i64, name: String, subscriptions: Vec<SubscriptionKey> },
    /// The store wrote down how far a delivery is, perhaps as far as before.
    Became { key: DeliveryKey, state: DeliveryState, attempts: u32 },
    /// A subscription was created or changed by its owner, or suspended, or made active again.
    Subscribed { subscription: SubscriptionKey, state: State, reason: String, ordered: bool },
    /// The gateway began an attempt.
    Began { key: DeliveryKey },
    /// An attempt arrived.
    Arrived(Arrival),
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The receiver's number.
    pub receiver: usize,
    pub path: String,
    pub webhook_id: String,
    pub body: Bytes,
    /// The response was 200, or is going to be.
    pub taken: bool,
}

/// Keeps the lines, with their times.
pub struct Ledger {
    news: Mutex<(Receiver<QueueEvent>, Receiver<Arc<Changes>>)>,
    lines: Mutex<Vec<(Duration, Entry)>>,
    trace: Trace,
}

impl Ledger {
    /// Of what this store writes from now on.
    pub fn of(engine: &MemoryStore, trace: Trace) -> Arc<Self> {
        let news = Mutex::new((engine.subscribe_accepted(), engine.changes()));
        Arc::new(Self { news, lines: Mutex::default(), trace })
    }

    /// Records everything that the store has announced since. To be called after each write.
    pub fn listen(&self) {
        let (feed, changes) = &mut *self.news.lock().unwrap();
        while let Some(fed) = next(feed) {
            let QueueEvent::Events(events) = fed else { continue };
            for fed in &*events {
                let (seq, name) = (fed.event.seq, &fed.event.name);
                let (account, name) = (name.account.get(), name.to_string());
                self.note(Entry::Stored { seq, account, name, subscriptions: fed.subscriptions.clone() });
            }
        }
        while let Some(group) = next(changes) {
            for change in &group.deliveries {
                let DeliveryChange { key, state, attempts } = *change;
                self.note(Entry::Became { key, state, attempts });
            }
        }
    }

    /// Takes down a subscription as it is now.
    pub fn subscribed(&self, subscription: &Subscription) {
        let (state, reason) = (subscription.state, subscription.state_reason.clone());
        let ordered = subscription.settings.ordered;
        self.note(Entry::Subscribed { subscription: subscription.key, state, reason, ordered });
    }

    /// Records something that happens on this host now.
    pub fn note(&self, entry: Entry) {
        match &entry {
            Entry::Stored { seq, name, .. } => self.trace.note("store", format_args!("{} is {name}", seq.0)),
            Entry::Became { key, state, .. } => {
                self.trace.note("store", format_args!("{} to {}: {state:?}", key.seq.0, key.subscription.0));
            }
            Entry::Began { key } => {
                self.trace.note("gateway", format_args!("attempts {} to {}", key.seq.0, key.subscription.0));
            }
            Entry::Subscribed { .. } => self.trace.note("store", format_args!("{entry:?}")),
            // The receiver says more of it.
            Entry::Arrived(_) => {}
        }
        let now = turmoil::sim_elapsed().expect("a host notes");
        self.lines.lock().unwrap().push((now, entry));
    }

    /// Of each event that was stored, one of its deliveries.
    pub fn firsts(&self) -> Vec<DeliveryKey> {
        let lines = self.lines.lock().unwrap();
        let firsts = lines.iter().filter_map(|(_, entry)| match entry {
            Entry::Stored { seq, subscriptions, .. } => {
                Some(DeliveryKey { seq: *seq, subscription: subscriptions[0] })
            }
            _ => None,
        });
        firsts.collect()
    }

    /// How many deliveries were ever made for the subscriptions of an account.
    pub fn deliveries_of(&self, of: i64) -> usize {
        let lines = self.lines.lock().unwrap();
        let stored = lines.iter().map(|(_, entry)| match entry {
            Entry::Stored { account, subscriptions, .. } if *account == of => subscriptions.len(),
            _ => 0,
        });
        stored.sum()
    }

    /// Everything, in its order.
    pub fn lines(&self) -> Vec<(Duration, Entry)> {
        self.lines.lock().unwrap().clone()
    }
}

fn next<T: Clone>(news: &mut Receiver<T>) -> Option<T> {
    match news.try_recv() {
        Ok(value) => Some(value),
        Err(TryRecvError::Empty) => None,
        Err(other) => panic!("something of the store was missed: {other}"),
    }
}
