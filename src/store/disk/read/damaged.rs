//! Damaged records that reads met. Each is counted and logged once, with what is lost.

use std::sync::{Mutex, MutexGuard};

use foldhash::HashSet;

use super::fetch::EventRef;
use crate::{
    domain::{
        damage::Damage,
        delivery::DeliveryKey,
        ids::{AccountId, EventName, Seq, SubscriptionKey},
    },
    store::disk::{
        index::volume::Volume,
        log::{LogPosition, damage_at},
        shared::Shared,
    },
};

/// Places remembered at most. Beyond it they are forgotten, and counted and logged again when they are read
/// again.
const PLACES_MAX: usize = 64 * 1024;

/// The damaged places that are known.
#[derive(Debug, Default)]
pub struct DamagedRecords(Mutex<HashSet<LogPosition>>);

impl DamagedRecords {
    /// Whether a place is damaged that is not known yet.
    fn is_new(&self, pos: LogPosition) -> bool {
        let mut places = self.places();
        if places.len() >= PLACES_MAX {
            places.clear();
        }
        places.insert(pos)
    }

    fn places(&self) -> MutexGuard<'_, HashSet<LogPosition>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl Shared {
    /// Counts and logs an event whose content is damaged, unless that is known.
    pub fn note_damaged_event(&self, found: &EventRef) -> Damage {
        let damage = Damage { event: name_of(found), ..damage_at(found.meta.pos) };
        if self.is_new_damage(found.meta.pos) {
            let subscriptions = self.subscriptions_of(found.seq);
            tracing::error!(
                account.name = %format_args!("accounts/{}", found.meta.account),
                event.name = damage.event.as_ref().map(tracing::field::display),
                subscription.names = subscriptions.join(" "),
                file = damage.file, offset = damage.offset,
                "a stored event is damaged: its unfinished deliveries fail",
            );
        }
        damage
    }

    /// Counts and logs an attempt whose record is damaged, unless that is known.
    pub fn note_damaged_attempt(&self, pos: LogPosition, found: &EventRef, subscription: SubscriptionKey) {
        if self.is_new_damage(pos) {
            let Damage { file, offset, .. } = damage_at(pos);
            tracing::error!(
                event.name = name_of(found).as_ref().map(tracing::field::display),
                subscription.name = self.name_of_subscription(subscription),
                file,
                offset,
                "the record of an attempt is damaged: it and the earlier attempts of this delivery are lost",
            );
        }
    }

    /// Counts and logs a volume whose index or states are damaged, unless that is known.
    pub fn note_damaged_volume(&self, pos: LogPosition, first: Seq) {
        if self.is_new_damage(pos) {
            let Damage { file, offset, .. } = damage_at(pos);
            let (names, events, owed) = {
                let ledger = self.ledger();
                let Some(volume) = ledger.volume(first) else { return };
                let owed = volume.owed();
                (self.subscriptions_of_volume(volume), volume.events, owed.pending + owed.retrying)
            };
            tracing::error!(
                events,
                deliveries.unfinished = owed,
                subscription.names = names.join(" "),
                file,
                offset,
                "the index of these events is damaged: they and their deliveries cannot be read",
            );
        }
    }

    fn is_new_damage(&self, pos: LogPosition) -> bool {
        let is_new = self.damaged.is_new(pos);
        if is_new {
            self.metrics.records_damaged.inc();
        }
        is_new
    }

    /// The names of the subscriptions to which an event has unfinished deliveries, if its volume is in memory.
    fn subscriptions_of(&self, seq: Seq) -> Vec<String> {
        let ledger = self.ledger();
        let Some(volume) = ledger.volume_of(seq) else { return Vec::new() };
        let Some(detail) = ledger.detail(volume.first) else { return Vec::new() };
        let Some(event) = detail.event_at(volume.first, seq) else { return Vec::new() };
        let deliveries = detail.deliveries_of(volume.first, event);
        let owed = deliveries.filter(|(_, entry)| entry.state.is_owed());
        owed.map(|(DeliveryKey { subscription, .. }, _)| self.name_of_subscription(subscription)).collect()
    }

    fn subscriptions_of_volume(&self, volume: &Volume) -> Vec<String> {
        let owed = volume.subscriptions.iter().filter(|counts| counts.owed() > 0);
        owed.map(|counts| self.name_of_subscription(SubscriptionKey(counts.subscription.into()))).collect()
    }

    /// Its name, or its key once it is deleted.
    fn name_of_subscription(&self, key: SubscriptionKey) -> String {
        self.registry.by_key(key).map_or_else(|| key.0.to_string(), |found| found.name.to_string())
    }
}

/// The name in the index; `None` if that is not a name.
fn name_of(found: &EventRef) -> Option<EventName> {
    Some(EventName { account: AccountId::stored(found.meta.account).ok()?, id: found.meta.id.parse().ok()? })
}
