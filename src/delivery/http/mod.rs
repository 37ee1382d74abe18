//! One POST: the HTTP client, its tower stack, connections, DNS, proxies and TLS.

pub mod client;
pub(super) mod connect;
pub(super) mod connection;
pub(super) mod dns;
pub mod failure;
pub(super) mod http1;
mod http1_origins;
mod idle_pool;
mod lifetime;
pub(super) mod pool;
pub(super) mod proxy;
mod race;
mod send;
mod send_error;
pub(super) mod stack;
pub(super) mod stream;
pub(super) mod tls;
