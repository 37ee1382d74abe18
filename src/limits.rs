//! Limits that keep clients from taking too much, shared by the listeners: connections, calls without proof, and
//! pools in which every caller has a share.

pub use address_rate::{AddressRateLimiter, FAILURES_PER_MINUTE_MAX, Limited, RATED_ADDRESSES_MAX};
pub use connections::{
    CallUnderWay, ConnectionLimiter, ConnectionPermit, ConnectionState, LimitReached, Shares,
    UNPROVEN_TIMEOUT,
};
pub use shares::{Permit, ShareKey, SharedPool, SharesUsedUp};

mod address_rate;
mod connections;
mod shares;
