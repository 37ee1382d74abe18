//! The batch of one commit.

use std::collections::HashMap;

use foldhash::HashSet;
use prost::Message;

use super::{AcceptResult, COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX, Reply};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, Seq},
        time::UnixMicros,
    },
    store::{
        Accepted, AcceptedEvent,
        disk::{
            log::checksum,
            read::fetch::ATTEMPT_HEAD,
            records::{AttemptRecord, EventEntry, OutcomeRecord},
        },
    },
};

/// A commit before it is written.
#[derive(Default)]
pub(super) struct CommitBatch {
    /// Refusals wait for the commit as well: they may depend on events of this batch.
    pub(super) accepts: Vec<(AcceptResult, Reply<Vec<Accepted>>)>,
    pub(super) settles: Vec<Reply<()>>,
    pub(super) entries: Vec<EventEntry>,
    pub(super) stored: Vec<AcceptedEvent>,
    /// Bytes of the encodings of `stored`.
    pub(super) bodies_len: usize,
    /// Index into `entries` by account and publisher's id.
    pub(super) ids: HashMap<(AccountId, EventId), usize>,
    pub(super) outcomes: Vec<OutcomeRecord>,
    pub(super) attempts: Vec<u8>,
    pub(super) settled: HashSet<DeliveryKey>,
    pub(super) time: UnixMicros,
    pub(super) first: Seq,
}

impl CommitBatch {
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() + self.outcomes.len() >= COMMIT_RECORDS_MAX
            || self.bodies_len + self.attempts.len() >= COMMIT_BYTES_MAX
    }

    /// Adds the new state of a delivery, after an attempt or an operator action.
    pub(super) fn settle(
        &mut self,
        key: DeliveryKey,
        state: DeliveryState,
        attempts: u32,
        attempt: Option<&AttemptRecord>,
    ) {
        let before = self.attempts.len();
        if let Some(attempt) = attempt {
            let encoded = attempt.encode_to_vec();
            let len = u32::try_from(encoded.len()).expect("an attempt record is bounded");
            self.attempts.reserve(ATTEMPT_HEAD + encoded.len());
            self.attempts.extend(len.to_le_bytes());
            self.attempts.extend(checksum(&encoded).to_le_bytes());
            self.attempts.extend(encoded);
        }
        let attempt_len = u32::try_from(self.attempts.len() - before).expect("an attempt record is bounded");
        self.outcomes.push(OutcomeRecord { attempt_len, ..OutcomeRecord::new(key, state, attempts) });
    }

    /// Removes the events of a call that failed: all or none are stored.
    pub(super) fn take_back(&mut self, (entries, bodies_len): (usize, usize)) {
        self.entries.truncate(entries);
        self.stored.truncate(entries);
        self.bodies_len = bodies_len;
        self.ids.retain(|_, position| *position < entries);
    }
}
