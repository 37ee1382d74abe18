//! The contract over real sockets: a server on port 0 with the reference store, called by a real client.

mod access;
mod audit;
mod deliveries;
mod events;
mod harness;
mod held_store;
mod limits;
mod overload;
mod pressure;
mod refusals;
mod rotation;
mod server;
mod streams;
mod subscriptions;
mod tls_options;
