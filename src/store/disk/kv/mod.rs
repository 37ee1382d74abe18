//! Trees in sled: subscriptions, access tokens and audit records.

pub(super) mod access_tokens;
pub mod audit_log;
pub mod audit_record;
pub(crate) mod sled;
pub(super) mod subscriptions;
