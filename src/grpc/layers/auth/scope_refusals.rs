//! Audit records of calls that are refused for their scope. They are refused before their message is read and by the
//! thousand a second, so the first is written at once and repeats are counted in memory in between.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::Code;

use crate::{
    domain::{
        audit::{AuditEnd, AuditOutcome, AuditSubject, AuditedCall, audit_text},
        caller::Caller,
        ids::AccountId,
    },
    gateway::Gateway,
    limits::{Permit, ShareKey, SharedPool},
};

/// Different refusals (by caller, IP address and method) that are counted at the same time, half of them for one
/// caller. Others leave no record and count as unrecorded.
const REFUSALS_COUNTED_MAX: usize = 1024;
/// How long repeats are counted before they are written.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Counts refusals.
pub(super) struct ScopeRefusals {
    gateway: Gateway,
    pool: SharedPool,
    /// The calls since the last write.
    counted: Mutex<HashMap<Key, u64>>,
}

/// What repeats have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    principal: String,
    address: Option<IpAddr>,
    method: String,
}

/// A call that its caller's scopes do not allow, to be recorded once it is refused.
pub(super) struct ScopeRefusal {
    refusals: Arc<ScopeRefusals>,
    share: ShareKey,
    caller: Caller,
    account: Option<AccountId>,
    method: String,
}

impl ScopeRefusals {
    pub(super) fn new(gateway: Gateway) -> Self {
        Self { gateway, pool: SharedPool::of_places(REFUSALS_COUNTED_MAX), counted: Mutex::default() }
    }

    /// A refusal of a method (its path) to this caller, for whose account its record counts.
    pub(super) fn of(
        self: &Arc<Self>,
        share: ShareKey,
        caller: Caller,
        account: Option<AccountId>,
        path: &str,
    ) -> ScopeRefusal {
        let method = path.trim_start_matches('/').to_owned();
        ScopeRefusal { refusals: Arc::clone(self), share, caller, account, method }
    }

    /// Writes the first refusal, and then its repeats at intervals as long as there are any.
    async fn write(self: Arc<Self>, key: Key, call: AuditedCall, _permit: Permit) {
        let mut repeats = 0;
        loop {
            let end = AuditEnd {
                outcome: AuditOutcome::Refused,
                code: Code::PermissionDenied.into(),
                reason: "SCOPE_DENIED".to_owned(),
                repeats,
                ..AuditEnd::default()
            };
            self.gateway.audit_refused(call.clone(), end).await;
            tokio::time::sleep(WRITE_INTERVAL).await;
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            match counted.get_mut(&key).map(std::mem::take) {
                None | Some(0) => {
                    counted.remove(&key);
                    return;
                }
                Some(calls) => repeats = calls - 1,
            }
        }
    }
}

impl ScopeRefusal {
    /// Records the refusal, without waiting for the disk.
    pub(super) fn record(&self) {
        let Self { refusals, share, caller, account, method } = self;
        let key = Key {
            principal: audit_text(&caller.principal.to_string()),
            address: caller.peer.address.map(|address| address.ip()),
            method: method.clone(),
        };
        let mut counted = refusals.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match counted.entry(key) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += 1;
                return;
            }
            Entry::Vacant(entry) => entry,
        };
        let Ok(permit) = refusals.pool.try_acquire(*share, 1) else {
            refusals.gateway.metrics().audit_unrecorded.inc();
            return;
        };
        let call = AuditedCall {
            principal: entry.key().principal.clone(),
            address: caller.peer.address.map(|address| address.to_string()).unwrap_or_default(),
            method: method.clone(),
            subject: AuditSubject::default(),
            account: *account,
        };
        let key = entry.key().clone();
        entry.insert(0);
        tokio::spawn(Arc::clone(refusals).write(key, call, permit));
    }
}
