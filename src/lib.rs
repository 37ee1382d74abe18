//! Tidings: a durable gRPC event gateway that POSTs Chatwoot webhooks.
//!
//! The tree is a sentence: `grpc` translates, `gateway` accepts, `store` remembers, `delivery` sends, `domain` knows.
//! ARCHITECTURE.md says how one event flows.

pub mod clock;
pub mod delivery;
pub mod domain;
pub mod gateway;
pub mod grpc;
pub mod proto;
pub mod store;
