//! Use case of retention: delete old events and audit records.

use std::time::Duration;

use super::{Gateway, GatewayError};
use crate::{
    domain::time::UnixMicros,
    store::{Purged, RetentionLimit, StoreError},
};

impl Gateway {
    /// How often [`Gateway::enforce_retention`] is to be called.
    pub fn retention_interval(&self) -> Duration {
        self.0.settings.retention_interval
    }

    /// Deletes events beyond the age or size of the settings, and audit records beyond the age; gives up what
    /// paused subscriptions were owed for too long. Ages count the time that passed, whatever the wall clock
    /// says.
    ///
    /// Events with unfinished deliveries stay. Their accounts' shares bound them: see `backlog.rs`.
    pub async fn enforce_retention(&self) -> Result<Purged, GatewayError> {
        self.end_old_deliveries_of_paused().await?;
        let settings = &self.0.settings;
        let age = i64::try_from(settings.retention_age.as_micros()).unwrap_or(i64::MAX);
        let since = UnixMicros(self.0.clock.steady().0.saturating_sub(age));
        let bytes_max = settings.retention_bytes_max;
        let purged = self.0.store.purge(RetentionLimit { since, bytes_max }).await?;
        // Audit records have the wall clock's times: after a step none may go early.
        match self.0.store.purge_audit(self.passed_since(settings.retention_age)).await {
            // Try again at the next interval.
            Ok(_) | Err(StoreError::Full | StoreError::NoDescriptor | StoreError::Busy) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(purged)
    }
}
