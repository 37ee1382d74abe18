//! Use case of retention: delete old events and audit records.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Gateway, GatewayError, Limit};
use crate::{
    domain::time::UnixMicros,
    store::{Purged, RetentionLimit, StoreError},
};

/// Retry delay that the error recommends. Deliveries must succeed before the store has room again.
const STORE_FULL_RETRY_AFTER: Duration = Duration::from_secs(10);

impl Gateway {
    /// How often [`Gateway::enforce_retention`] is to be called.
    pub fn retention_interval(&self) -> Duration {
        self.0.settings.retention_interval
    }

    /// Deletes events beyond the age or size of the settings, and audit records beyond the age. Ages count the
    /// time that passed, whatever the wall clock says.
    ///
    /// Events with unfinished deliveries stay. If these exceed the size by themselves, no event is accepted
    /// until some deliveries succeed, are cancelled or deleted.
    pub async fn enforce_retention(&self) -> Result<Purged, GatewayError> {
        let settings = &self.0.settings;
        let age = i64::try_from(settings.retention_age.as_micros()).unwrap_or(i64::MAX);
        let since = UnixMicros(self.0.clock.steady().0.saturating_sub(age));
        let bytes_max = settings.retention_bytes_max;
        let purged = self.0.store.purge(RetentionLimit { since, bytes_max }).await?;
        // Audit records have the wall clock's times: after a step none may go early.
        let since = since.min(UnixMicros(self.0.clock.now().0.saturating_sub(age)));
        match self.0.store.purge_audit(since).await {
            // Try again at the next interval.
            Ok(_) | Err(StoreError::Full | StoreError::NoDescriptor | StoreError::Busy) => {}
            Err(error) => return Err(error.into()),
        }
        let is_full = purged.bytes_left > bytes_max;
        let was_full = self.0.full.swap(is_full, Ordering::Relaxed);
        match (was_full, is_full) {
            (false, true) => tracing::warn!(
                store.bytes = purged.bytes_left,
                store.bytes_max = bytes_max,
                "the store is full of events with unfinished deliveries; new events are refused"
            ),
            (true, false) => tracing::info!(
                store.bytes = purged.bytes_left,
                "the store has room; new events are accepted again"
            ),
            _ => {}
        }
        Ok(purged)
    }

    /// Fails while the store is full of events with unfinished deliveries.
    pub(super) fn check_not_full(&self) -> Result<(), GatewayError> {
        if !self.0.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let limit = Limit { name: "retention_bytes_max", max: self.0.settings.retention_bytes_max };
        Err(GatewayError::StoreFull { limit, retry_after: STORE_FULL_RETRY_AFTER })
    }
}
