//! The contract over real sockets: the server within this process with the reference store, called by a real
//! client.

mod access;
mod audit;
mod connect;
mod deliveries;
mod events;
mod inspection;
mod limits;
mod overload;
mod pressure;
mod refusals;
mod rotation;
mod server;
mod streams;
mod subscriptions;
mod tls_options;
mod web;
