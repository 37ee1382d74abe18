//! The events that were read and that somebody still holds: whoever wants one of them next shares it. Where many
//! subscriptions are owed the same events, and read them one after another, each is read, checked and rendered once.

use std::sync::{Arc, Weak};

use foldhash::{HashMap, HashMapExt};

use crate::{domain::ids::Seq, event::StoredEvent};

/// Most events that are remembered. Of one that nobody holds any more, a few hundred bytes stay until the next sweep.
const EVENTS_MAX: usize = 16 * 1024;
/// With fewer than this no sweep is made.
const SWEEP_MIN: usize = 1024;

/// Finds the events that somebody holds. What it does not find is read again, and nothing else comes of it.
#[derive(Debug)]
pub struct WeakEventCache {
    by_seq: HashMap<Seq, Weak<StoredEvent>>,
    /// At how many events those that nobody holds any more are swept out.
    sweep_at: usize,
}

impl Default for WeakEventCache {
    fn default() -> Self {
        Self { by_seq: HashMap::new(), sweep_at: SWEEP_MIN }
    }
}

impl WeakEventCache {
    /// The event at this place, if somebody holds it.
    pub fn get(&self, seq: Seq) -> Option<Arc<StoredEvent>> {
        self.by_seq.get(&seq)?.upgrade()
    }

    /// Remembers an event that was read, and returns it: as the one that somebody holds, if another was faster.
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
            // Whatever is held: to look for what is not, again and again, would cost more than to read some twice.
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
