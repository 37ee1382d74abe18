//! What keeps those who come in from taking too much, shared by the listeners: places for connections, tries that failed, log
//! lines that would repeat.

pub use auth_failures::{FailureRateLimiter, Limited};
pub use connections::{ConnectionLimiter, ConnectionPermit, LimitReached};

mod auth_failures;
mod connections;
