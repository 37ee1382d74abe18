//! Limits that keep clients from taking too much, shared by the listeners: connections, and failed
//! authentication.

pub use auth_failures::{FAILURE_ADDRESSES_MAX, FAILURES_PER_MINUTE_MAX, FailureRateLimiter, Limited};
pub use connections::{ConnectionLimiter, ConnectionPermit, LimitReached};

mod auth_failures;
mod connections;
