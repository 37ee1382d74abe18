//! What Tidings knows: ids, events, subscriptions, deliveries, and the rules about them. Pure: no socket, no clock, no
//! `async`. Everything here is a function of values.

pub mod access;
pub mod audit;
pub mod caller;
pub mod delivery;
pub mod egress;
pub mod event_routing;
pub mod field_violation;
pub mod ids;
pub mod key_pair;
pub mod payload_format;
pub mod response;
pub mod retry;
pub mod seal;
pub mod secret;
pub mod signature;
pub mod subscription;
pub mod time;
pub mod webhook_headers;
