//! Limits on events that wait to be stored, over all publishers, with a share for each account. Past its share a
//! publish is refused at once: memory stays bounded, admitted events are still served, and nobody else is refused.

use super::GatewayError;
use crate::{
    domain::ids::AccountId,
    limits::{Permit, ShareKey, SharedPool},
};

/// Bytes of the events of an account that has none waiting: one of the largest fits.
const FIRST_BYTES: usize = 3 * 1024 * 1024;

/// The limits, and how much of them is in use.
pub(super) struct Admission {
    events: Bound,
    bytes: Bound,
}

struct Bound {
    /// The setting of this limit.
    name: &'static str,
    pool: SharedPool,
}

/// Capacity that is in use until this is dropped.
pub(super) struct AdmissionPermit {
    _events: Permit,
    _bytes: Permit,
}

impl Admission {
    pub(super) fn new(events_max: usize, bytes_max: usize) -> Self {
        let (events, bytes) =
            (SharedPool::of_places(events_max.max(1)), SharedPool::new(bytes_max.max(1), FIRST_BYTES));
        Self {
            events: Bound { name: "publish_events_in_flight_max", pool: events },
            bytes: Bound { name: "publish_bytes_in_flight_max", pool: bytes },
        }
    }

    /// Fails if hardly any capacity is left: any publish would be refused now.
    pub(super) fn check(&self) -> Result<(), GatewayError> {
        self.events.check(0)?;
        // Close to the limit, the next event is likely too large.
        self.bytes.check(self.bytes.pool.max() / 16)
    }

    /// Reserves capacity for `events` events of `bytes` bytes in total, or fails. A call with events of several
    /// accounts counts as of the first.
    pub(super) fn admit(
        &self,
        account: Option<AccountId>,
        events: usize,
        bytes: usize,
    ) -> Result<AdmissionPermit, GatewayError> {
        let key = account.map_or(ShareKey::Local, |account| ShareKey::Account(account.get()));
        Ok(AdmissionPermit {
            _events: self.events.acquire(key, events)?,
            _bytes: self.bytes.acquire(key, bytes)?,
        })
    }
}

impl Bound {
    /// Fails unless more than `least` is free.
    fn check(&self, least: usize) -> Result<(), GatewayError> {
        if self.pool.free() > least { Ok(()) } else { Err(self.reached()) }
    }

    fn reached(&self) -> GatewayError {
        GatewayError::overloaded(self.name, self.pool.max())
    }

    fn acquire(&self, key: ShareKey, count: usize) -> Result<Permit, GatewayError> {
        // A call larger than a share is admitted when nothing else of the account is; its size has a limit of its own.
        let count = count.min(self.pool.share_max());
        self.pool.try_acquire(key, count).map_err(|_| self.reached())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn account(number: i64) -> Option<AccountId> {
        Some(AccountId::new(number).unwrap())
    }

    #[test]
    fn past_its_share_an_account_is_refused_until_capacity_is_released_and_nobody_else_is() {
        let admission = Admission::new(8, 64 * MIB);
        let first = admission.admit(account(1), 3, 20 * MIB).unwrap();
        assert!(admission.admit(account(1), 1, 13 * MIB).is_err(), "too many bytes were admitted");
        assert!(admission.admit(account(1), 2, 1).is_err(), "too many events were admitted");
        let second = admission.admit(account(1), 1, 12 * MIB).unwrap();
        let others: Vec<_> =
            (2..6).map(|other| admission.admit(account(other), 1, 3 * MIB).unwrap()).collect();
        drop((first, second, others));
        assert!(admission.admit(account(1), 4, 32 * MIB).is_ok(), "a refused call used capacity");
    }

    #[test]
    fn the_check_fails_close_to_a_limit() {
        let admission = Admission::new(2, 64 * MIB);
        assert!(admission.check().is_ok());
        let one = admission.admit(account(1), 1, MIB).unwrap();
        assert!(admission.check().is_ok());
        let _two = admission.admit(account(2), 1, MIB).unwrap();
        assert!(admission.check().is_err(), "no event is free");
        drop(one);
        assert!(admission.check().is_ok());
        let admission = Admission::new(100, 6 * MIB);
        let _bytes = [1, 2].map(|number| admission.admit(account(number), 1, 3 * MIB).unwrap());
        assert!(admission.check().is_err(), "hardly a byte is free");
    }

    #[test]
    fn a_call_larger_than_a_share_is_admitted_when_nothing_else_of_the_account_is() {
        let admission = Admission::new(8, 10 * MIB);
        let large = admission.admit(account(1), 9, 900 * MIB).unwrap();
        assert!(admission.admit(account(1), 1, 1).is_err());
        drop(large);
        assert!(admission.admit(account(1), 1, 1).is_ok());
    }
}
