//! The use cases of writing down who changes what, and of reading it.

use super::{Gateway, GatewayError};
use crate::{
    domain::audit::{AuditEnd, AuditKey, AuditRecord, AuditedCall},
    store::{AuditQuery, AuditWrite, Page},
};

impl Gateway {
    /// Writes down that a call is about to change something. On disk once this is answered.
    pub async fn audit_begin(&self, call: AuditedCall) -> Result<AuditKey, GatewayError> {
        let begun = self.0.store.audit(AuditWrite::Begun(call)).await;
        begun.map_err(|error| {
            self.0.metrics.audit_unrecorded.inc();
            error.into()
        })
    }

    /// Writes down how it ended. Where that cannot be done the record says on that nobody knows, and the call's answer stands: what it
    /// did is done.
    pub async fn audit_end(&self, key: AuditKey, end: AuditEnd) {
        let outcome = end.outcome;
        match self.0.store.audit(AuditWrite::Ended(key, end)).await {
            Ok(_) => self.0.metrics.audited(outcome),
            Err(error) => {
                tracing::warn!(%error, audit.number = key.number, "an audit record was left without its end");
            }
        }
    }

    /// Writes down a call that was refused before it could change anything. Where that cannot be done it is counted.
    pub async fn audit_refused(&self, call: AuditedCall, end: AuditEnd) {
        let outcome = end.outcome;
        match self.0.store.audit(AuditWrite::Refused(call, end)).await {
            Ok(_) => self.0.metrics.audited(outcome),
            Err(_) => self.0.metrics.audit_unrecorded.inc(),
        }
    }

    /// Lists audit records, the newest first.
    pub async fn list_audit_records(
        &self,
        query: AuditQuery,
    ) -> Result<Page<AuditRecord, AuditKey>, GatewayError> {
        self.read(move |store| store.audit_records(&query)).await
    }
}
