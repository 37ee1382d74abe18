//! Limits on events that wait to be stored, over all publishers. Past a limit a publish is refused at once:
//! memory stays bounded, and admitted events are still served.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::GatewayError;

/// The limits, and how much of them is in use.
pub(super) struct Admission {
    events: Bound,
    bytes: Bound,
}

struct Bound {
    /// The setting of this limit.
    name: &'static str,
    free: Arc<Semaphore>,
    max: u32,
}

/// Capacity that is in use until this is dropped.
pub(super) struct AdmissionPermit {
    _events: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(events_max: usize, bytes_max: usize) -> Self {
        Self {
            events: Bound::new("publish_events_in_flight_max", events_max),
            bytes: Bound::new("publish_bytes_in_flight_max", bytes_max),
        }
    }

    /// Fails if hardly any capacity is left: any publish would be refused now.
    pub(super) fn check(&self) -> Result<(), GatewayError> {
        self.events.check(0)?;
        // Close to the limit, the next event is likely too large.
        self.bytes.check(self.bytes.max / 16)
    }

    /// Reserves capacity for `events` events of `bytes` bytes in total, or fails.
    pub(super) fn admit(&self, events: usize, bytes: usize) -> Result<AdmissionPermit, GatewayError> {
        Ok(AdmissionPermit { _events: self.events.acquire(events)?, _bytes: self.bytes.acquire(bytes)? })
    }
}

impl Bound {
    fn new(name: &'static str, max: usize) -> Self {
        let max = u32::try_from(max).unwrap_or(u32::MAX).max(1);
        Self { name, free: Arc::new(Semaphore::new(usize::try_from(max).expect("a u32 fits"))), max }
    }

    /// Fails unless more than `least` is free.
    fn check(&self, least: u32) -> Result<(), GatewayError> {
        let least = usize::try_from(least).expect("a u32 fits");
        if self.free.available_permits() > least { Ok(()) } else { Err(self.reached()) }
    }

    fn reached(&self) -> GatewayError {
        GatewayError::overloaded(self.name, usize::try_from(self.max).expect("a u32 fits"))
    }

    fn acquire(&self, count: usize) -> Result<OwnedSemaphorePermit, GatewayError> {
        // A call larger than the whole limit is admitted when nothing else is; its size has a limit of its
        // own.
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.max);
        let permit = Arc::clone(&self.free).try_acquire_many_owned(count);
        permit.map_err(|_| self.reached())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_a_limit_callers_are_refused_until_capacity_is_released() {
        let admission = Admission::new(2, 100);
        let first = admission.admit(1, 60).unwrap();
        assert!(admission.admit(1, 41).is_err(), "too many bytes were admitted");
        assert!(admission.admit(2, 1).is_err(), "too many events were admitted");
        let second = admission.admit(1, 40).unwrap();
        drop((first, second));
        assert!(admission.admit(2, 100).is_ok(), "a refused call used capacity");
    }

    #[test]
    fn the_check_fails_close_to_a_limit() {
        let admission = Admission::new(2, 160);
        for (events, bytes, has_capacity) in [(0, 0, true), (1, 149, true), (1, 150, false), (2, 10, false)] {
            let _permit = admission.admit(events, bytes).unwrap();
            assert_eq!(admission.check().is_ok(), has_capacity, "{events} events, {bytes} bytes");
        }
    }

    #[test]
    fn a_call_larger_than_the_limit_is_admitted_when_nothing_else_is() {
        let admission = Admission::new(2, 100);
        let large = admission.admit(9, 900).unwrap();
        assert!(admission.admit(1, 1).is_err());
        drop(large);
        assert!(admission.admit(1, 1).is_ok());
    }
}
