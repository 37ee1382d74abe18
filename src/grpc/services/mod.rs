//! The gRPC services, one file each.

pub(super) mod access_tokens;
pub(super) mod audit_log;
pub(super) mod backups;
pub(super) mod deliveries;
pub(super) mod events;
pub(super) mod health;
pub(super) mod notices;
pub(super) mod publish;
pub(super) mod publish_stream;
pub(super) mod subscriptions;
