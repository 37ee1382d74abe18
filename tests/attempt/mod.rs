//! One attempt on real sockets: its request, and its result for every way in which a receiver can respond or
//! fail to.

mod blocked;
mod bodies;
mod broken_connections;
mod hostile;
mod http2;
mod keep_alive;
mod profiles;
mod proxies;
mod sender;
mod statuses;
mod timeouts;
mod tls;
mod wire;
