//! Sends: one attempt of a delivery.
//!
//! `client` holds the settings and the kept connections, `attempt` the tower stack of one POST, `connect` and `resolve`
//! the way to a socket, `egress` the verdict on its address, `failure` what there is instead of an answer.

mod attempt;
pub mod client;
pub mod connect;
pub mod egress;
mod failure;
mod resolve;
