//! Layers in front of the services: the protocols that calls come in, access control, the limit of concurrent calls.

pub(super) mod auth;
pub(super) mod call_share;
pub(super) mod concurrency_limit;
pub(super) mod connect;
pub(super) mod filter;
pub(super) mod protocol;
pub(super) mod protocols;
mod unread_body;
pub(super) mod web_rules;
