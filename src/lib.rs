//! Tidings: a durable gRPC event gateway that POSTs Chatwoot webhooks.
//!
//! The tree is a sentence: `grpc` translates, `gateway` accepts, `store` remembers, `delivery` sends, `domain` knows.
//! ARCHITECTURE.md says how one event flows.

pub mod app;
pub mod clock;
pub mod commands;
pub mod config;
pub mod delivery;
pub mod domain;
pub mod event;
pub mod file_watch;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gateway;
pub mod grpc;
pub mod limits;
pub mod listen;
pub(crate) mod log_throttle;
pub mod metrics;
pub mod ops;
pub mod proto;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod webhook_ingress;
