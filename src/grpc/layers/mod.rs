//! Layers in front of the services: access control, concurrency limits, unknown methods.

pub(super) mod auth;
pub(super) mod concurrency_limit;
pub(super) mod fast_path;
pub(super) mod filter;
pub(super) mod unknown_method;
