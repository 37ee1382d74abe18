//! The line in front of the store. Outcomes of deliveries are written by the same commits as events, and a subscription goes on only
//! when its outcomes are on disk. So if a flood of events were given to the store as it comes, deliveries would get as small
//! a part of each commit as they are of all that waits. Therefore only so many events are with the store at a time; the
//! others stand here, in their order.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use crate::store::{Accepted, CommitFuture, NewEvent, Store, StoreError};

/// Who may give events to the store next.
pub(super) struct Line {
    store: Arc<dyn Store>,
    /// Most events that are with the store at a time.
    max: usize,
    state: Mutex<State>,
}

struct State {
    /// How many more may be given to the store.
    free: usize,
    waiting: VecDeque<Waiting>,
    /// Somebody is giving those that waited to the store: who comes now stands behind them.
    moving: bool,
}

struct Waiting {
    events: Vec<NewEvent>,
    turn: oneshot::Sender<Storing>,
}

/// Events on their way: first in the line, then with the store. They get there whether or not this is polled, or dropped.
pub(super) enum InLine {
    Waiting(oneshot::Receiver<Storing>),
    Storing(Storing),
}

/// Events that are with the store. Others follow once this is dropped.
pub(super) struct Storing {
    commit: CommitFuture<Vec<Accepted>>,
    _taken: Taken,
}

struct Taken {
    line: Arc<Line>,
    count: usize,
}

impl Line {
    /// A line in front of `store`, which gets at most `max` events at a time, or one call's that are more.
    pub(super) fn new(store: Arc<dyn Store>, max: usize) -> Arc<Self> {
        let max = max.max(1); // With none at all nothing would ever be stored.
        Arc::new(Self {
            store,
            max,
            state: Mutex::new(State { free: max, waiting: VecDeque::new(), moving: false }),
        })
    }

    /// Stands in line with events of one call.
    pub(super) fn enter(self: &Arc<Self>, events: Vec<NewEvent>) -> InLine {
        let count = self.places_of(&events);
        let mut state = self.lock();
        if state.moving || !state.waiting.is_empty() || state.free < count {
            let (turn, waiting) = oneshot::channel();
            state.waiting.push_back(Waiting { events, turn });
            return InLine::Waiting(waiting);
        }
        state.free -= count;
        drop(state);
        InLine::Storing(self.store(events, count))
    }

    fn places_of(&self, events: &[NewEvent]) -> usize {
        events.len().min(self.max)
    }

    fn store(self: &Arc<Self>, events: Vec<NewEvent>, count: usize) -> Storing {
        let commit = self.store.accept(events);
        Storing { commit, _taken: Taken { line: Arc::clone(self), count } }
    }

    /// Takes places back, and gives those to the store whose turn it is.
    fn give_back(self: &Arc<Self>, count: usize) {
        let mut state = self.lock();
        state.free += count;
        if state.moving {
            // Whoever is at it goes on.
            return;
        }
        state.moving = true;
        while let Some(next) = state.waiting.front() {
            let count = self.places_of(&next.events);
            if state.free < count {
                break;
            }
            state.free -= count;
            let Waiting { events, turn } = state.waiting.pop_front().expect("it was just looked at");
            drop(state);
            // Nobody may wait for it any more; it is stored all the same, and gives its places back at once.
            drop(turn.send(self.store(events, count)));
            state = self.lock();
        }
        state.moving = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.line.give_back(self.count);
    }
}

impl Future for InLine {
    type Output = Result<Vec<Accepted>, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Waiting(waiting) = &mut *self {
            match ready!(Pin::new(waiting).poll(context)) {
                Ok(storing) => *self = Self::Storing(storing),
                // The line is gone with the gateway.
                Err(_) => return Poll::Ready(Err(StoreError::Closed)),
            }
        }
        let Self::Storing(storing) = &mut *self else { unreachable!("its turn has come") };
        Pin::new(&mut storing.commit).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        clock::SystemClock,
        domain::{
            event_routing::EventAddress,
            ids::{AccountId, EventId, Seq},
        },
        event::samples,
        store::{EventQuery, TimeRange, memory::MemoryStore},
    };

    fn account() -> AccountId {
        AccountId::new(1).unwrap()
    }

    fn event(id: usize) -> NewEvent {
        NewEvent {
            address: EventAddress { account: account(), id: Some(format!("e{id}").parse().unwrap()) },
            content: samples::typical_message(account(), 1, 1).into(),
            inbox_id: None,
            fingerprint: 1,
            subscriptions: Vec::new(),
        }
    }

    fn line(max: usize) -> (Arc<MemoryStore>, Arc<Line>) {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock), 1));
        (Arc::clone(&store), Line::new(store, max))
    }

    /// The ids of what is stored, in their order.
    fn stored(store: &MemoryStore) -> Vec<String> {
        let query = EventQuery {
            account: account(),
            types: Vec::new(),
            time: TimeRange::default(),
            before: None,
            limit: 1000,
        };
        let mut rows = store.events(&query).unwrap().rows;
        rows.sort_by_key(|event| event.seq);
        assert_eq!(rows.iter().map(|event| event.seq).collect::<BTreeSet<Seq>>().len(), rows.len());
        rows.iter().map(|event| EventId::to_string(&event.name.id)).collect()
    }

    fn ids(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|id| format!("e{id}")).collect()
    }

    #[tokio::test]
    async fn what_waits_follows_in_its_order_as_places_are_given_back() {
        let (store, line) = line(2);
        let mut waiting: VecDeque<_> = (0..6).map(|id| line.enter(vec![event(id)])).collect();
        assert_eq!(stored(&store), ids(0..2));
        waiting.pop_front().unwrap().await.unwrap();
        assert_eq!(stored(&store), ids(0..3));
        for _ in 0..5 {
            waiting.pop_front().unwrap().await.unwrap();
        }
        assert_eq!(stored(&store), ids(0..6));
        assert_eq!(line.lock().free, 2);
    }

    #[tokio::test]
    async fn a_large_call_waits_for_its_turn_and_goes_alone() {
        let (store, line) = line(2);
        let first = line.enter(vec![event(0)]);
        let large = line.enter((1..6).map(event).collect());
        let last = line.enter(vec![event(6)]);
        assert_eq!(stored(&store), ids(0..1), "nobody overtakes");
        first.await.unwrap();
        assert_eq!(stored(&store), ids(0..6));
        assert_eq!(large.await.unwrap().len(), 5);
        last.await.unwrap();
        assert_eq!(stored(&store), ids(0..7));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_stored_all_the_same() {
        const MANY: usize = 900;
        let (store, line) = line(1);
        let first = line.enter(vec![event(0)]);
        for id in 1..MANY {
            drop(line.enter(vec![event(id)]));
        }
        assert_eq!(stored(&store), ids(0..1));
        drop(first);
        assert_eq!(stored(&store), ids(0..MANY));
        assert_eq!(line.lock().free, 1);
    }
}
