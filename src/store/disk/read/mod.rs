//! Reads: queries over the index, and events and attempts fetched from the log.

pub(super) mod damaged;
pub(super) mod event_cache;
pub(super) mod fetch;
pub(super) mod query;
