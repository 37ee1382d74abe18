//! Limits that keep clients from taking too much, shared by the listeners: connections, failed authentication, and
//! pools in which every caller has a share.

pub use auth_failures::{FAILURE_ADDRESSES_MAX, FAILURES_PER_MINUTE_MAX, FailureRateLimiter, Limited};
pub use connections::{
    CallUnderWay, ConnectionLimiter, ConnectionPermit, ConnectionState, LimitReached, Shares,
    UNPROVEN_TIMEOUT,
};
pub use shares::{Permit, ShareKey, SharedPool, SharesUsedUp};

mod auth_failures;
mod connections;
mod shares;
