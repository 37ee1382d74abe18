//! The use case of keeping no more than is wanted.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Gateway, GatewayError, Limit};
use crate::{
    domain::time::UnixMicros,
    store::{Purged, RetentionLimit, StoreError},
};

/// How long a caller is asked to wait while the store is full. Deliveries must be made before there is room again.
const STORE_FULL_RETRY_AFTER: Duration = Duration::from_secs(10);

impl Gateway {
    /// How often [`Gateway::enforce_retention`] is to be called.
    pub fn retention_interval(&self) -> Duration {
        self.0.settings.retention_interval
    }

    /// Removes events that are older, or more, than the settings keep, and audit records that are older. What is owed stays: if that alone is more than the
    /// settings keep, nothing more is accepted until some of it is delivered, cancelled or deleted.
    pub async fn enforce_retention(&self) -> Result<Purged, GatewayError> {
        let settings = &self.0.settings;
        let age = i64::try_from(settings.retention_age.as_micros()).unwrap_or(i64::MAX);
        let since = UnixMicros(self.0.clock.now().0.saturating_sub(age));
        let bytes_max = settings.retention_bytes_max;
        let purged = self.0.store.purge(RetentionLimit { since, bytes_max }).await?;
        match self.0.store.purge_audit(since).await {
            // On a full disk they stay a while longer.
            Ok(_) | Err(StoreError::Full | StoreError::Busy) => {}
            Err(error) => return Err(error.into()),
        }
        let is_full = purged.bytes_left > bytes_max;
        let was_full = self.0.full.swap(is_full, Ordering::Relaxed);
        match (was_full, is_full) {
            (false, true) => tracing::warn!(
                store.bytes = purged.bytes_left,
                store.bytes_max = bytes_max,
                "the store is full of what is owed, and takes no more events"
            ),
            (true, false) => tracing::info!(store.bytes = purged.bytes_left, "the store takes events again"),
            _ => {}
        }
        Ok(purged)
    }

    /// Errors while the store is full of what is owed.
    pub(super) fn check_not_full(&self) -> Result<(), GatewayError> {
        if !self.0.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let limit = Limit { name: "retention_bytes_max", max: self.0.settings.retention_bytes_max };
        Err(GatewayError::StoreFull { limit, retry_after: STORE_FULL_RETRY_AFTER })
    }
}
