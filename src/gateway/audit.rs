//! Use cases of the audit log: record calls that change something, list the records.

use super::{Gateway, GatewayError};
use crate::{
    domain::audit::{AuditEnd, AuditKey, AuditRecord, AuditedCall},
    store::{AuditQuery, AuditWrite, Page},
};

/// What a call returns, and whether it changed anything.
#[derive(Clone, Debug)]
pub struct Applied<T> {
    /// The result.
    pub result: T,
    /// False if there was nothing to change, as when a paused subscription is paused.
    pub changed: bool,
}

impl<T> Applied<T> {
    /// The same with another result.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Applied<U> {
        Applied { result: map(self.result), changed: self.changed }
    }
}

/// The result of a call that always changes something.
impl<T> From<T> for Applied<T> {
    fn from(result: T) -> Self {
        Self { result, changed: true }
    }
}

impl Gateway {
    /// Records that a call is about to change something. The record is on disk when this returns.
    pub async fn audit_begin(&self, call: AuditedCall) -> Result<AuditKey, GatewayError> {
        let begun = self.0.store.audit(AuditWrite::Begun(call)).await;
        begun.map_err(|error| {
            self.0.metrics.audit_unrecorded.inc();
            error.into()
        })
    }

    /// Records the end of the call. If that fails, the outcome in the record stays unknown; the call itself
    /// is not affected, since its change is done.
    pub async fn audit_end(&self, key: AuditKey, end: AuditEnd) {
        let outcome = end.outcome;
        match self.0.store.audit(AuditWrite::Ended(key, end)).await {
            Ok(_) => self.0.metrics.audited(outcome, 1),
            Err(error) => {
                tracing::warn!(%error, audit.number = key.number, "cannot complete an audit record; its outcome stays unknown");
            }
        }
    }

    /// Records a call that was refused before it could change anything. If that fails, it is only counted.
    pub async fn audit_refused(&self, call: AuditedCall, end: AuditEnd) {
        let (outcome, calls) = (end.outcome, 1 + end.repeats);
        match self.0.store.audit(AuditWrite::Refused(call, end)).await {
            Ok(_) => self.0.metrics.audited(outcome, calls),
            Err(_) => self.0.metrics.audit_unrecorded.inc_by(calls),
        }
    }

    /// Lists audit records, newest first.
    pub async fn list_audit_records(
        &self,
        query: AuditQuery,
    ) -> Result<Page<AuditRecord, AuditKey>, GatewayError> {
        self.read(move |store| store.audit_records(&query)).await
    }
}
