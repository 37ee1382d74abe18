//! Layers in front of the services: access control and the limit of concurrent calls.

pub(super) mod auth;
pub(super) mod concurrency_limit;
pub(super) mod filter;
