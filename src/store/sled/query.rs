//! Reading: the ledger says what and in which state, the volumes' trees give the rest. The ledger's lock is never held
//! while the disk is read.

use std::{collections::HashMap, sync::Arc};

use super::{
    Shared,
    records::RecordError,
    values::ReadError,
    volume::{Segment, SlotState},
    volume_tree::{JournalEntry, VolumeTree},
};
use crate::{
    domain::{
        delivery::{ATTEMPTS_SHOWN_MAX, DeliveryKey, DeliveryState},
        event::StoredEvent,
        ids::{LaneId, Seq},
        time::UnixMicros,
    },
    proto::v1::EventType,
    store::{
        Debt, DeliveryQuery, DeliveryRecord, DuePage, EventQuery, Owed, OwedPage, OwedQuery, Page,
        PendingPage,
    },
};

/// Where something is owed; when it is tried again, and how often it was.
type OwedPlace = (Seq, Option<(UnixMicros, u32)>);

/// How many events are loaded in one go to see which of them a query of what is owed wants.
const OWED_LOADED_AT_ONCE: usize = 256;

impl Shared {
    /// See [`crate::store::Store::pending`].
    pub fn pending(&self, lane: LaneId, after: Seq, limit: usize) -> Result<PendingPage, ReadError> {
        let (mut waiting, last) = {
            let ledger = self.ledger();
            let waits =
                |&(key, state): &(DeliveryKey, SlotState)| key.lane == lane && state == SlotState::Pending;
            let volumes = ledger.volumes_after(after).filter(|volume| volume.owes(lane));
            let waiting = volumes.flat_map(|volume| volume.oldest_first(after)).filter(waits);
            let waiting: Vec<Seq> = waiting.map(|(key, _)| key.seq).take(limit + 1).collect();
            (waiting, Seq(ledger.next_seq.0 - 1))
        };
        let more = waiting.len() > limit;
        waiting.truncate(limit);
        let until = if more { waiting.last().copied().unwrap_or(after) } else { last.max(after) };
        let owed = self.load(&waiting)?.into_iter().map(|event| Owed { event, attempts: 0 }).collect();
        Ok(PendingPage { owed, until, more })
    }

    /// See [`crate::store::Store::due`].
    pub fn due(&self, lane: LaneId, now: UnixMicros, limit: usize) -> Result<DuePage, ReadError> {
        let (due, next_due) = self.ledger().due(lane, now, limit);
        let seqs: Vec<Seq> = due.iter().map(|(seq, _)| *seq).collect();
        let events = self.load(&seqs)?;
        let owed =
            events.into_iter().zip(due).map(|(event, (_, attempts))| Owed { event, attempts }).collect();
        Ok(DuePage { owed, next_due })
    }

    /// See [`crate::store::Store::owed`].
    pub fn owed(&self, query: &OwedQuery) -> Result<OwedPage, ReadError> {
        let (mut debts, mut after) = (Vec::new(), query.after);
        loop {
            let (owed, last) = self.owed_after(query.lane, after);
            let Some((end, _)) = owed.last() else {
                return Ok(OwedPage { debts, until: last.max(query.after), more: false });
            };
            after = *end;
            let seqs: Vec<Seq> = owed.iter().map(|(seq, _)| *seq).collect();
            for (event, (_, retry)) in self.load(&seqs)?.into_iter().zip(owed) {
                if !query.order.wants(event.order_tag()) {
                    continue;
                }
                if debts.len() == query.limit {
                    let until = debts.last().map_or(query.after, |debt: &Debt| debt.owed.event.seq);
                    return Ok(OwedPage { debts, until, more: true });
                }
                let (due, attempts) = retry.map_or((None, 0), |(due, attempts)| (Some(due), attempts));
                debts.push(Debt { owed: Owed { event, attempts }, due });
            }
        }
    }

    /// Some of what is owed to a lane after a place, in stored order, with the times and attempts of retries; and the
    /// place of the newest event.
    fn owed_after(&self, lane: LaneId, after: Seq) -> (Vec<OwedPlace>, Seq) {
        let ledger = self.ledger();
        let volumes = ledger.volumes_after(after).filter(|volume| volume.owes(lane));
        let deliveries = volumes.flat_map(|volume| volume.oldest_first(after));
        let owed = deliveries.filter(|(key, state)| key.lane == lane && state.is_owed());
        let retry = |key| {
            let due = ledger.state(key).and_then(DeliveryState::due)?;
            Some((due, ledger.attempts_of_owed(key)))
        };
        let owed = owed.take(OWED_LOADED_AT_ONCE).map(|(key, _)| (key.seq, retry(key)));
        (owed.collect(), Seq(ledger.next_seq.0 - 1))
    }

    /// See [`crate::store::Store::events`].
    pub fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, ReadError> {
        // Which commits lie in the time: their times rise with their places.
        let segments: Vec<(VolumeTree, Segment)> = {
            let ledger = self.ledger();
            let volumes = ledger.volumes.iter().rev();
            volumes
                .flat_map(|volume| {
                    volume.segments.iter().rev().map(|segment| (volume.tree.clone(), *segment))
                })
                .filter(|(_, segment)| query.before.is_none_or(|before| segment.first < before))
                .skip_while(|(_, segment)| query.time.end.is_some_and(|end| segment.create_time >= end))
                .take_while(|(_, segment)| query.time.start.is_none_or(|start| segment.create_time >= start))
                .collect()
        };
        let mut rows = Vec::new();
        for (tree, segment) in segments {
            let index = tree.index(segment.first)?;
            let wanted: Vec<Seq> = (segment.first.0..)
                .zip(&index.events)
                .filter(|(seq, entry)| {
                    entry.account == query.account.get()
                        && query.before.is_none_or(|before| Seq(*seq) < before)
                        && (query.types.is_empty() || query.types.contains(&type_of(entry.event_type)))
                })
                .map(|(seq, _)| Seq(seq))
                .collect();
            let room = query.limit + 1 - rows.len();
            let newest: Vec<Seq> = wanted.into_iter().rev().take(room).collect();
            if !newest.is_empty() {
                rows.extend(tree.events(segment, &newest)?);
            }
            if rows.len() > query.limit {
                break;
            }
        }
        Ok(Page::cut(rows, query.limit, |event| event.seq))
    }

    /// See [`crate::store::Store::delivery`].
    pub fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, ReadError> {
        Ok(self.records(&[key], ATTEMPTS_SHOWN_MAX)?.pop())
    }

    /// See [`crate::store::Store::deliveries`].
    pub fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, ReadError> {
        let event = match &query.event {
            None => None,
            Some((account, id)) => match self.find(*account, id)? {
                Some((seq, _, _)) => Some(seq),
                None => return Ok(Page { rows: Vec::new(), next: None }),
            },
        };
        let keys = self.delivery_keys(query, event);
        Ok(Page::cut(self.records(&keys, 1)?, query.limit, |row| row.key))
    }

    /// One more than a page of the deliveries that are wanted.
    fn delivery_keys(&self, query: &DeliveryQuery, event: Option<Seq>) -> Vec<DeliveryKey> {
        let mut lanes = query.lanes.clone();
        lanes.sort_unstable();
        let ledger = self.ledger();
        let upper = event.or(query.after.map(|after| after.seq));
        let volumes = ledger.volumes.iter().rev().filter(|volume| {
            upper.is_none_or(|upper| volume.first <= upper) && event.is_none_or(|event| event < volume.end())
        });
        let wanted = |key: DeliveryKey, state: SlotState| {
            lanes.binary_search(&key.lane).is_ok()
                && event.is_none_or(|event| key.seq == event)
                && query.after.is_none_or(|after| DeliveryQuery::order(after) < DeliveryQuery::order(key))
                && (query.states.is_empty() || query.states.iter().any(|&s| SlotState::from(s) == state))
        };
        let mut keys = Vec::new();
        for volume in volumes {
            for (key, state) in volume.newest_first() {
                if !wanted(key, state) {
                    continue;
                }
                let time = volume.segment_of(key.seq).create_time;
                if query.time.start.is_some_and(|start| time < start) {
                    return keys;
                }
                if query.time.contains(time) {
                    keys.push(key);
                }
                if keys.len() > query.limit {
                    return keys;
                }
            }
        }
        keys
    }

    /// The deliveries of these keys, with so many of their latest attempts. Leaves out what does not exist.
    fn records(&self, keys: &[DeliveryKey], attempts_max: usize) -> Result<Vec<DeliveryRecord>, ReadError> {
        // States, trees and journals are looked at in this order: what is settled in between shows as settled or not,
        // but never half.
        let mut known: Vec<(DeliveryKey, DeliveryState, Seq)> = Vec::with_capacity(keys.len());
        let mut volumes: HashMap<Seq, (VolumeTree, Vec<DeliveryKey>)> = HashMap::new();
        {
            let ledger = self.ledger();
            for &key in keys {
                let Some(state) = ledger.state(key) else { continue };
                let volume = ledger.volume_of(key.seq).expect("a delivery with a state has a volume");
                known.push((key, state, volume.first));
                volumes.entry(volume.first).or_insert_with(|| (volume.tree.clone(), Vec::new())).1.push(key);
            }
        }
        let seqs: Vec<Seq> = known.iter().map(|(key, _, _)| key.seq).collect();
        let events = self.load(&seqs)?;
        let mut journals: HashMap<Seq, (VolumeTree, HashMap<DeliveryKey, Vec<JournalEntry>>)> =
            HashMap::new();
        for (first, (tree, keys)) in volumes {
            let journal = tree.journal_of(&keys)?;
            journals.insert(first, (tree, journal));
        }
        let mut records = Vec::with_capacity(known.len());
        for ((key, state, volume), event) in known.into_iter().zip(events) {
            let (tree, journal) = journals.get_mut(&volume).expect("each volume was read");
            records.push(record(
                key,
                state,
                event,
                tree,
                &journal.remove(&key).unwrap_or_default(),
                attempts_max,
            )?);
        }
        Ok(records)
    }

    /// Events by their places, in the given order.
    pub fn load(&self, seqs: &[Seq]) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let mut places: Vec<(VolumeTree, Segment, Vec<Seq>)> = Vec::new();
        {
            let ledger = self.ledger();
            for &seq in seqs {
                let volume = ledger
                    .volume_of(seq)
                    .ok_or_else(|| RecordError(format!("event {} is owed, but no volume has it", seq.0)))?;
                let segment = volume.segment_of(seq);
                match places.last_mut() {
                    Some((_, last, seqs)) if last.first == segment.first => seqs.push(seq),
                    _ => places.push((volume.tree.clone(), segment, vec![seq])),
                }
            }
        }
        let mut events = Vec::with_capacity(seqs.len());
        for (tree, segment, seqs) in places {
            events.extend(tree.events(segment, &seqs)?);
        }
        Ok(events)
    }
}

/// A delivery with what its journal says. Entries that were written after the state was looked at are left out.
fn record(
    key: DeliveryKey,
    state: DeliveryState,
    event: Arc<StoredEvent>,
    tree: &VolumeTree,
    journal: &[JournalEntry],
    attempts_max: usize,
) -> Result<DeliveryRecord, ReadError> {
    let as_of = |entry: &JournalEntry| entry.outcome.delivery_state().is_ok_and(|written| written == state);
    let known = journal.iter().rposition(as_of).map_or(0, |last| last + 1);
    let journal = &journal[..known];
    let attempts: Vec<&JournalEntry> = journal.iter().filter(|entry| !entry.outcome.decided).collect();
    let attempts = tree.attempts(&attempts[attempts.len().saturating_sub(attempts_max)..])?;
    Ok(DeliveryRecord {
        key,
        state,
        attempt_count: journal.last().map_or(0, |entry| entry.outcome.attempts),
        attempts,
        update_time: journal.last().map_or(event.create_time, |entry| entry.time),
        event,
    })
}

fn type_of(number: i32) -> EventType {
    EventType::try_from(number).unwrap_or(EventType::Unspecified)
}
