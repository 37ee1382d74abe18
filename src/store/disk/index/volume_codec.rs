//! The encoding of a volume's detail: the index, which never changes, and the state of its deliveries.
//!
//! Unlike the rows of [`super::super::records::CommitRecord`], these are columns: a volume is written once
//! and read whole, and columns of four thousand events are smaller and faster to decode than rows.

use prost::Message;

use super::{
    event_id_index,
    volume_detail::{DeliveryEntry, EntryState, EventMeta, VolumeDetail},
};
use crate::{
    domain::{
        event_routing::OrderTag,
        ids::{AccountId, EventId},
        time::UnixMicros,
    },
    store::disk::{log::LogPosition, records::RecordError},
};

/// The events of a volume, a column each.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IndexRecord {
    #[prost(uint32, repeated, tag = "1")]
    seq_offsets: Vec<u32>,
    #[prost(int64, repeated, tag = "2")]
    accounts: Vec<i64>,
    #[prost(int64, repeated, tag = "3")]
    inboxes: Vec<i64>,
    /// The first one's, then how much later each is than the one before.
    #[prost(int64, repeated, tag = "4")]
    times: Vec<i64>,
    /// 16 bytes each.
    #[prost(bytes = "vec", tag = "5")]
    fingerprints: Vec<u8>,
    #[prost(fixed64, repeated, tag = "6")]
    positions: Vec<u64>,
    #[prost(uint32, repeated, tag = "7")]
    lens: Vec<u32>,
    #[prost(fixed32, repeated, tag = "8")]
    checksums: Vec<u32>,
    #[prost(fixed32, repeated, tag = "9")]
    tags: Vec<u32>,
    #[prost(int32, repeated, tag = "10")]
    event_types: Vec<i32>,
    /// One after another.
    #[prost(string, tag = "11")]
    ids: String,
    #[prost(uint32, repeated, tag = "12")]
    id_lens: Vec<u32>,
    #[prost(bool, repeated, tag = "13")]
    ids_given: Vec<bool>,
    #[prost(uint32, repeated, tag = "14")]
    delivery_counts: Vec<u32>,
}

/// The deliveries of a volume, a column each.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateRecord {
    /// Number of deliveries of each event.
    #[prost(uint32, repeated, tag = "1")]
    counts: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    subscriptions: Vec<u32>,
    /// A byte each, see [`EntryState`].
    #[prost(bytes = "vec", tag = "3")]
    states: Vec<u8>,
    #[prost(uint32, repeated, tag = "4")]
    attempts: Vec<u32>,
    /// Of those that are retried.
    #[prost(sfixed64, repeated, tag = "5")]
    dues: Vec<i64>,
    #[prost(sfixed64, repeated, tag = "6")]
    changed: Vec<i64>,
    /// All of them, if there are any.
    #[prost(sfixed64, repeated, tag = "7")]
    added: Vec<i64>,
    /// Of those that were attempted.
    #[prost(fixed64, repeated, tag = "8")]
    last: Vec<u64>,
    /// All of them, if any is not 0.
    #[prost(uint32, repeated, tag = "9")]
    attempts_before: Vec<u32>,
}

/// The index of a detail, and the hashes of the ids that publishers chose, 4 bytes each.
pub fn encode_index(detail: &VolumeDetail) -> (IndexRecord, Vec<u8>) {
    let events = &detail.events;
    let mut before = 0;
    let mut record = IndexRecord {
        seq_offsets: detail.seq_offsets.clone(),
        accounts: events.iter().map(|event| event.account).collect(),
        inboxes: events.iter().map(|event| event.inbox).collect(),
        times: events
            .iter()
            .map(|event| event.time.0.wrapping_sub(std::mem::replace(&mut before, event.time.0)))
            .collect(),
        fingerprints: events.iter().flat_map(|event| event.fingerprint.to_le_bytes()).collect(),
        positions: events.iter().map(|event| event.pos.raw()).collect(),
        lens: events.iter().map(|event| event.len).collect(),
        checksums: events.iter().map(|event| event.checksum).collect(),
        tags: events.iter().map(|event| event.tag.0).collect(),
        event_types: events.iter().map(|event| event.event_type).collect(),
        ids: String::new(),
        id_lens: Vec::with_capacity(events.len()),
        ids_given: events.iter().map(|event| event.id_given).collect(),
        delivery_counts: events.iter().map(|event| event.delivery_count).collect(),
    };
    let mut hashes = Vec::new();
    for event in events {
        record.ids.push_str(&event.id);
        record.id_lens.push(u32::try_from(event.id.len()).expect("an id is short"));
        if let Some(hash) = event.given_hash() {
            hashes.extend(hash.to_le_bytes());
        }
    }
    (record, hashes)
}

/// The state of a detail.
pub fn encode_state(detail: &VolumeDetail) -> StateRecord {
    let deliveries = &detail.deliveries;
    let retried = deliveries.iter().filter(|entry| entry.state == EntryState::Retrying);
    let was_replayed = deliveries.iter().any(|entry| entry.attempts_before != 0);
    let before = deliveries.iter().map(|entry| entry.attempts_before);
    let was_added = deliveries.iter().any(|entry| entry.added != UnixMicros(0));
    StateRecord {
        counts: detail
            .event_offsets
            .windows(2)
            .map(|event_offsets| event_offsets[1] - event_offsets[0])
            .collect(),
        subscriptions: deliveries.iter().map(|entry| entry.subscription).collect(),
        states: deliveries.iter().map(|entry| entry.state as u8).collect(),
        attempts: deliveries.iter().map(|entry| entry.attempts).collect(),
        dues: retried.map(|entry| entry.due.0).collect(),
        changed: deliveries.iter().map(|entry| entry.changed.0).collect(),
        added: if was_added { deliveries.iter().map(|entry| entry.added.0).collect() } else { Vec::new() },
        attempts_before: if was_replayed { before.collect() } else { Vec::new() },
        last: deliveries
            .iter()
            .filter(|entry| entry.last != LogPosition::default())
            .map(|entry| entry.last.raw())
            .collect(),
    }
}

/// Decodes a detail.
pub fn decode(index: &[u8], state: &[u8]) -> Result<VolumeDetail, RecordError> {
    let (index, state) = (IndexRecord::decode(index)?, StateRecord::decode(state)?);
    let mut detail = VolumeDetail::new();
    let count = index.accounts.len();
    let columns = [
        index.inboxes.len(),
        index.times.len(),
        index.positions.len(),
        index.lens.len(),
        index.checksums.len(),
        index.tags.len(),
        index.event_types.len(),
        index.id_lens.len(),
        index.ids_given.len(),
        index.delivery_counts.len(),
        state.counts.len(),
    ];
    if columns.iter().any(|column| *column != count)
        || index.fingerprints.len() != count * 16
        || !index.seq_offsets.is_empty() && index.seq_offsets.len() != count
    {
        return Err(RecordError("an index with columns of different lengths".to_owned()));
    }
    let (mut time, mut id_from) = (0_i64, 0_usize);
    detail.events.reserve_exact(count);
    for event in 0..count {
        time = time.wrapping_add(index.times[event]);
        let id_end = id_from + index.id_lens[event] as usize;
        let id = index
            .ids
            .get(id_from..id_end)
            .ok_or_else(|| RecordError("an index with too few ids".to_owned()))?;
        id_from = id_end;
        if AccountId::stored(index.accounts[event]).is_err() || !EventId::fits(id) {
            return Err(RecordError("an index with an event that has no name".to_owned()));
        }
        let fingerprint = index.fingerprints[event * 16..][..16].try_into().expect("16 bytes");
        detail.events.push(EventMeta {
            account: index.accounts[event],
            inbox: index.inboxes[event],
            time: UnixMicros(time),
            fingerprint: u128::from_le_bytes(fingerprint),
            pos: LogPosition::from_raw(index.positions[event]),
            len: index.lens[event],
            checksum: index.checksums[event],
            tag: OrderTag(index.tags[event]),
            event_type: index.event_types[event],
            id: id.into(),
            id_given: index.ids_given[event],
            delivery_count: index.delivery_counts[event],
        });
    }
    if id_from != index.ids.len() || !index.seq_offsets.is_sorted_by(|one, next| one < next) {
        return Err(RecordError("an index with too many ids, or out of order".to_owned()));
    }
    detail.seq_offsets = index.seq_offsets;
    decode_deliveries(&mut detail, state)?;
    detail.dirty = false;
    Ok(detail)
}

fn decode_deliveries(detail: &mut VolumeDetail, state: StateRecord) -> Result<(), RecordError> {
    let unreadable = || RecordError("a state with columns of different lengths".to_owned());
    let mut end = 0_u32;
    for count in state.counts {
        end = end.checked_add(count).ok_or_else(unreadable)?;
        detail.event_offsets.push(end);
    }
    let count = end as usize;
    let (mut dues, mut last) = (state.dues.into_iter(), state.last.into_iter());
    let columns = [state.subscriptions.len(), state.states.len(), state.attempts.len(), state.changed.len()];
    let rare = [state.added.len(), state.attempts_before.len()];
    if columns.iter().any(|column| *column != count)
        || rare.iter().any(|column| *column != 0 && *column != count)
    {
        return Err(unreadable());
    }
    detail.deliveries.reserve_exact(count);
    for entry in 0..count {
        let entry_state =
            EntryState::from_byte(state.states[entry]).ok_or_else(|| RecordError("a state".to_owned()))?;
        let attempts = state.attempts[entry];
        let due = if entry_state == EntryState::Retrying { dues.next().ok_or_else(unreadable)? } else { 0 };
        detail.deliveries.push(DeliveryEntry {
            subscription: state.subscriptions[entry],
            state: entry_state,
            attempts,
            attempts_before: state.attempts_before.get(entry).copied().unwrap_or(0).min(attempts),
            due: UnixMicros(due),
            changed: UnixMicros(state.changed[entry]),
            added: UnixMicros(state.added.get(entry).copied().unwrap_or(0)),
            last: if attempts > 0 {
                let last = last.next().filter(|last| *last != LogPosition::default().raw());
                LogPosition::from_raw(last.ok_or_else(unreadable)?)
            } else {
                LogPosition::default()
            },
        });
    }
    if dues.next().is_some() || last.next().is_some() {
        return Err(unreadable());
    }
    if (0..detail.len()).any(|event| {
        !detail.deliveries[detail.range(event)].is_sorted_by(|one, next| one.subscription < next.subscription)
    }) {
        return Err(RecordError("a state with deliveries out of order".to_owned()));
    }
    detail.note_retries();
    Ok(())
}

impl EventMeta {
    /// The hash of its id, if its publisher chose it.
    pub fn given_hash(&self) -> Option<u32> {
        if !self.id_given {
            return None;
        }
        let account = AccountId::stored(self.account).expect("it was one when it was stored");
        let id: EventId = self.id.parse().expect("it was one when it was stored");
        Some(event_id_index::hash(account, &id))
    }
}

/// The hashes that [`encode_index`] gave.
pub fn decode_hashes(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_comes_back_as_it_was() {
        let mut detail = VolumeDetail::new();
        for number in 0..50_i64 {
            let event = EventMeta {
                account: 1 + number % 3,
                inbox: number % 2,
                time: UnixMicros(1_000 + number * 7),
                fingerprint: u128::MAX / u128::from(number.unsigned_abs() + 1),
                pos: LogPosition::new(3, 40 + u32::try_from(number).unwrap() * 9),
                len: 9,
                checksum: 77,
                tag: OrderTag(5),
                event_type: 4,
                id: format!("e{number}").into(),
                id_given: number % 2 == 0,
                delivery_count: 2,
            };
            detail.push(event, [1, 9].into_iter());
        }
        let never = UnixMicros(0);
        for (event, state) in
            [(1, EntryState::Retrying), (2, EntryState::Succeeded), (3, EntryState::Cancelled)]
        {
            let position = detail.range(event).start;
            let due = if state == EntryState::Retrying { UnixMicros(99) } else { never };
            let (attempts, last) =
                if event == 3 { (0, LogPosition::default()) } else { (2, LogPosition::new(7, 80)) };
            let changed = UnixMicros(50);
            detail.set(
                event,
                position,
                DeliveryEntry {
                    subscription: 1,
                    state,
                    attempts,
                    attempts_before: attempts / 2,
                    due,
                    changed,
                    added: never,
                    last,
                },
            );
        }
        detail.add(7, 5, UnixMicros(60));
        for kept in [None, Some([1_usize, 2, 3, 7])] {
            let detail = kept.map_or_else(
                || detail.filtered(crate::domain::ids::Seq(1), &(0..50).collect::<Vec<_>>(), |_| true),
                |kept| detail.filtered(crate::domain::ids::Seq(1), &kept, |subscription| subscription != 9),
            );
            let (index, hashes) = encode_index(&detail);
            let read = decode(&index.encode_to_vec(), &encode_state(&detail).encode_to_vec()).unwrap();
            assert_eq!(
                (&read.events, &read.deliveries, &read.event_offsets),
                (&detail.events, &detail.deliveries, &detail.event_offsets)
            );
            assert_eq!((&read.seq_offsets, &read.retries), (&detail.seq_offsets, &detail.retries));
            assert_eq!(
                decode_hashes(&hashes).count(),
                detail.events.iter().filter(|event| event.id_given).count()
            );
        }
    }
}
