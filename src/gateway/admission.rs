//! How much may wait to be stored, over all publishers. Past it a publish is refused at once: memory stays bounded, and
//! what was admitted is still served.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::GatewayError;

/// Counts what is under way against its bounds.
pub(super) struct Admission {
    events: Bound,
    bytes: Bound,
}

struct Bound {
    /// The setting that it comes from.
    name: &'static str,
    free: Arc<Semaphore>,
    max: u32,
}

/// Room that is given back when this is dropped.
pub(super) struct Admitted {
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

    /// Errors if there is hardly any room: what comes now would be refused, whatever it is.
    pub(super) fn check(&self) -> Result<(), GatewayError> {
        self.events.check(0)?;
        // Events have some size: close to the bound the next one is over it.
        self.bytes.check(self.bytes.max / 16)
    }

    /// Takes room for so much, or says that there is none.
    pub(super) fn admit(&self, events: usize, bytes: usize) -> Result<Admitted, GatewayError> {
        Ok(Admitted { _events: self.events.take(events)?, _bytes: self.bytes.take(bytes)? })
    }
}

impl Bound {
    fn new(name: &'static str, max: usize) -> Self {
        let max = u32::try_from(max).unwrap_or(u32::MAX).max(1); // With no room at all nothing would count.
        Self { name, free: Arc::new(Semaphore::new(usize::try_from(max).expect("a u32 fits"))), max }
    }

    /// Errors unless there is room for more than `least`.
    fn check(&self, least: u32) -> Result<(), GatewayError> {
        let least = usize::try_from(least).expect("a u32 fits");
        if self.free.available_permits() > least { Ok(()) } else { Err(self.reached()) }
    }

    fn reached(&self) -> GatewayError {
        GatewayError::overloaded(self.name, usize::try_from(self.max).expect("a u32 fits"))
    }

    fn take(&self, count: usize) -> Result<OwnedSemaphorePermit, GatewayError> {
        // What is larger than the whole bound gets in when it is alone; its own size is bounded elsewhere.
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.max);
        let taken = Arc::clone(&self.free).try_acquire_many_owned(count);
        taken.map_err(|_| self.reached())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_a_bound_callers_are_refused_until_room_is_given_back() {
        let admission = Admission::new(2, 100);
        let first = admission.admit(1, 60).unwrap();
        assert!(admission.admit(1, 41).is_err(), "too many bytes were admitted");
        assert!(admission.admit(2, 1).is_err(), "too many events were admitted");
        let second = admission.admit(1, 40).unwrap();
        drop((first, second));
        assert!(admission.admit(2, 100).is_ok(), "a refusal kept room");
    }

    #[test]
    fn there_is_hardly_any_room_close_to_a_bound() {
        let admission = Admission::new(2, 160);
        for (events, bytes, is_room) in [(0, 0, true), (1, 149, true), (1, 150, false), (2, 10, false)] {
            let _taken = admission.admit(events, bytes).unwrap();
            assert_eq!(admission.check().is_ok(), is_room, "{events} events, {bytes} bytes");
        }
    }

    #[test]
    fn what_is_larger_than_the_bound_gets_in_alone() {
        let admission = Admission::new(2, 100);
        let large = admission.admit(9, 900).unwrap();
        assert!(admission.admit(1, 1).is_err());
        drop(large);
        assert!(admission.admit(1, 1).is_ok());
    }
}
