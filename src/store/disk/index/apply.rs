//! Applies a commit to the ledger, after writing it and during replay.

use prost::Message;

use super::{
    ledger::{Ledger, Settled},
    volume::{SUBSCRIPTION_KEY_MAX, VOLUME_EVENTS},
    volume_detail::{EntryState, EventMeta},
};
use crate::{
    domain::{
        delivery::DeliveryState,
        event_routing::OrderTag,
        ids::{AccountId, EventId, Seq, SubscriptionKey},
        time::UnixMicros,
    },
    store::disk::{
        log::{COMMIT_HEAD, LogPosition, ReadError},
        records::{CommitRecord, EventEntry, RecordError},
    },
};

/// Events of one commit at most: more would overflow the counts of a volume. No commit has nearly as many.
const EVENTS_MAX: usize = u16::MAX as usize - VOLUME_EVENTS;

/// The record of a commit and its length, from the payload.
pub fn decode(payload: &[u8]) -> Result<(CommitRecord, usize), ReadError> {
    let cut_off = || RecordError("a commit is cut off".to_owned());
    let (head, rest) = payload.split_first_chunk::<COMMIT_HEAD>().ok_or_else(cut_off)?;
    let len = u32::from_le_bytes(*head) as usize;
    let record = CommitRecord::decode(rest.get(..len).ok_or_else(cut_off)?).map_err(RecordError::from)?;
    Ok((record, len))
}

/// Applies a commit whose payload is at `payload`, its record being `len` bytes long. The details of all
/// settled deliveries are in memory. Calls `settled` with each state before and after.
pub fn apply(
    ledger: &mut Ledger,
    record: &CommitRecord,
    payload: LogPosition,
    len: usize,
    mut settled: impl FnMut(Option<EntryState>, DeliveryState),
) -> Result<(), RecordError> {
    let time = UnixMicros(record.time);
    let mut attempt = payload.plus(COMMIT_HEAD + len);
    let mut body = attempt.plus(record.attempts_len as usize);
    ledger.file_times.insert(payload.file(), record.steady());
    ledger.last_steady = ledger.last_steady.max(record.steady());
    if record.events.len() > EVENTS_MAX {
        return Err(RecordError(format!("a commit of {} events", record.events.len())));
    }
    if !record.events.is_empty() {
        if record.first != ledger.next_seq.0 {
            let message =
                format!("a commit of event {} follows event {}", record.first, ledger.next_seq.0 - 1);
            return Err(RecordError(message));
        }
        // The bodies of a volume lie in one file.
        ledger.is_open &= ledger.volumes.back().is_some_and(|volume| volume.file == payload.file());
        for entry in &record.events {
            check(entry)?;
            if !ledger.is_open {
                ledger.begin_volume(time, payload.file());
            }
            let subscriptions: Vec<SubscriptionKey> =
                entry.subscriptions.iter().copied().map(SubscriptionKey).collect();
            ledger.push(meta_of(entry, time, body), &subscriptions);
            body = body.plus(entry.body_len as usize);
            ledger.is_open = ledger.last_has_room();
            if !ledger.is_open {
                ledger.trim_last();
            }
        }
    }
    for outcome in &record.outcomes {
        if outcome.subscription > SUBSCRIPTION_KEY_MAX {
            return Err(RecordError(format!(
                "an outcome for subscription {}, which cannot exist",
                outcome.subscription
            )));
        }
        let state = outcome.delivery_state()?;
        if ledger.has_gap && ledger.volume_of(Seq(outcome.seq)).is_none() {
            // Its event is lost.
            attempt = attempt.plus(outcome.attempt_len as usize);
            continue;
        }
        let before = ledger.settle(Settled {
            key: outcome.key(),
            state,
            attempts: outcome.attempts,
            time,
            attempt: (outcome.attempt_len > 0).then_some(attempt),
            added: outcome.added,
            queued: outcome.queued,
        })?;
        attempt = attempt.plus(outcome.attempt_len as usize);
        settled(before, state);
    }
    Ok(())
}

/// Applies the record in place of damaged ones: their events are missing.
pub fn lost(ledger: &mut Ledger, payload: &[u8]) -> Result<(), RecordError> {
    let next_seq = Seq(next_seq_of_gap(payload)?).max(ledger.next_seq);
    (ledger.next_seq, ledger.is_open, ledger.has_gap) = (next_seq, false, true);
    Ok(())
}

/// The sequence number of the next event, from the record in place of damaged ones.
pub fn next_seq_of_gap(payload: &[u8]) -> Result<u64, RecordError> {
    let next_seq = payload.first_chunk().ok_or_else(|| RecordError("a gap is cut off".to_owned()))?;
    Ok(u64::from_le_bytes(*next_seq))
}

/// Checks that an event has a name, and that its subscriptions rise.
fn check(entry: &EventEntry) -> Result<(), RecordError> {
    if AccountId::stored(entry.account).is_err() || !EventId::fits(&entry.id) {
        return Err(RecordError("a commit of an event that has no name".to_owned()));
    }
    let is_in_order = entry.subscriptions.is_sorted_by(|one, next| one < next);
    if !is_in_order || entry.subscriptions.last().is_some_and(|last| *last > SUBSCRIPTION_KEY_MAX) {
        return Err(RecordError(format!("a commit of {} with deliveries out of order", entry.id)));
    }
    Ok(())
}

/// The entry in the index of an event whose body is at a position.
pub fn meta_of(entry: &EventEntry, time: UnixMicros, pos: LogPosition) -> EventMeta {
    EventMeta {
        account: entry.account,
        inbox: entry.inbox,
        time,
        fingerprint: entry.fingerprint(),
        pos,
        len: entry.body_len,
        checksum: entry.checksum,
        tag: OrderTag(entry.tag),
        event_type: entry.event_type,
        id: entry.id.as_str().into(),
        id_given: entry.id_given,
        delivery_count: u32::try_from(entry.subscriptions.len())
            .expect("subscription keys end at SUBSCRIPTION_KEY_MAX"),
    }
}
