//! Trees in sled: subscriptions, access tokens and audit records.

pub(super) mod access_tokens;
pub(in crate::store::disk) mod audit_index;
pub mod audit_log;
pub mod audit_record;
pub(super) mod engine;
pub(super) mod requests;
pub(crate) mod sled;
pub(super) mod subscriptions;

/// sled's segment, in bytes: the largest that it allows. sled moves a leaf of more than a quarter of a
/// segment into a file of its own, which its `flush` does not sync.
pub(in crate::store::disk) const SEGMENT_BYTES: usize = 16 * 1024 * 1024;
