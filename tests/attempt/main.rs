//! One attempt on real sockets: what is sent, and what comes of every way in which a receiver can answer or fail to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod blocked;
mod bodies;
mod breaks;
mod hostile;
mod kept;
mod profiles;
mod proxies;
mod proxy;
mod receiver;
mod statuses;
mod support;
mod timeouts;
mod tls;
mod tls_receiver;
mod wire;
