//! Types and rules: ids, subscriptions, deliveries, retries, signatures, access, egress. Pure functions of
//! values: no socket, no clock, no `async`.

pub mod access;
pub mod audit;
pub mod caller;
pub mod damage;
pub mod delivery;
pub mod egress;
pub mod event_routing;
pub mod field_violation;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod give_up;
pub mod ids;
pub mod key_pair;
pub mod notice;
pub mod payload_format;
pub mod rate_limit;
pub mod response;
pub mod retry;
pub mod seal;
pub mod secret;
pub mod shared_limit;
pub mod signature;
pub mod subscription;
pub mod time;
pub mod webhook_headers;
