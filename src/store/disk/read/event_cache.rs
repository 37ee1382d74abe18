//! Cache of events that are in use: the next reader shares them. Where many subscriptions are owed the same
//! events and read them one after another, each is read, checked and rendered once.

use std::sync::{Arc, Weak};

use foldhash::{HashMap, HashMapExt};

use crate::{domain::ids::Seq, event::StoredEvent};

/// Entries at most. An entry whose event is dropped keeps a few hundred bytes until the next sweep.
const EVENTS_MAX: usize = 16 * 1024;
/// Entries below which no sweep is made.
const SWEEP_MIN: usize = 1024;

/// Weak references to events in use. A miss costs a read and nothing else.
#[derive(Debug)]
pub struct WeakEventCache {
    by_seq: HashMap<Seq, Weak<StoredEvent>>,
    /// Number of entries that starts the next sweep.
    sweep_at: usize,
}

impl Default for WeakEventCache {
    fn default() -> Self {
        Self { by_seq: HashMap::new(), sweep_at: SWEEP_MIN }
    }
}

impl WeakEventCache {
    /// The event with this sequence number, if it is in use.
    pub fn get(&self, seq: Seq) -> Option<Arc<StoredEvent>> {
        self.by_seq.get(&seq)?.upgrade()
    }

    /// Caches an event that was read, and returns it, or the cached one if another reader was faster.
    pub fn intern(&mut self, event: StoredEvent) -> Arc<StoredEvent> {
        if let Some(event) = self.get(event.seq) {
            return event;
        }
        if self.by_seq.len() >= self.sweep_at {
            self.sweep();
        }
        let event = Arc::new(event);
        self.by_seq.insert(event.seq, Arc::downgrade(&event));
        event
    }

    fn sweep(&mut self) {
        self.by_seq.retain(|_, event| event.strong_count() > 0);
        if self.by_seq.len() > EVENTS_MAX / 2 {
            // Sweeping a cache full of live entries again and again costs more than reading some events
            // twice.
            self.by_seq.clear();
        }
        self.sweep_at = (2 * self.by_seq.len()).max(SWEEP_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            ids::{AccountId, EventName},
            time::UnixMicros,
        },
        event::samples,
    };

    fn event(seq: u64) -> StoredEvent {
        let account = AccountId::new(1).unwrap();
        let name = EventName { account, id: format!("e{seq}").parse().unwrap() };
        StoredEvent::new(Seq(seq), name, UnixMicros(0), samples::typical_message(account, 1, 1))
    }

    #[test]
    fn an_event_is_shared_as_long_as_somebody_holds_it() {
        let mut cache = WeakEventCache::default();
        let first = cache.intern(event(1));
        assert!(Arc::ptr_eq(&first, &cache.get(Seq(1)).unwrap()));
        assert!(Arc::ptr_eq(&first, &cache.intern(event(1))), "another was faster");
        drop(first);
        assert!(cache.get(Seq(1)).is_none());
        let again = cache.intern(event(1));
        assert!(Arc::ptr_eq(&again, &cache.get(Seq(1)).unwrap()));
    }

    #[test]
    fn what_is_remembered_has_a_bound_whether_it_is_held_or_not() {
        let mut cache = WeakEventCache::default();
        for seq in 0..3 * SWEEP_MIN as u64 {
            drop(cache.intern(event(seq)));
            assert!(cache.by_seq.len() <= SWEEP_MIN);
        }
        let mut all = Vec::new();
        for seq in 0..3 * EVENTS_MAX as u64 {
            all.push(cache.intern(event(seq)));
            assert!(cache.by_seq.len() <= EVENTS_MAX);
        }
        assert!(cache.get(all.last().unwrap().seq).is_some());
    }
}
