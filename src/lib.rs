//! Tidings: a durable gRPC event gateway that POSTs Chatwoot webhooks.
//!
//! `grpc` translates, `gateway` accepts, `store` remembers, `delivery` sends, `domain` knows. ARCHITECTURE.md
//! describes how one event flows.
//!
//! | module | content |
//! |---|---|
//! | [`commands`] | the subcommands of the program |
//! | [`app`] | builds everything, runs it, drains it |
//! | [`grpc`] | the gRPC server: services, translation, layers, connections |
//! | [`console`] | web pages for people, a client of the gRPC services in the process |
//! | [`webhook_ingress`] | Chatwoot's own webhooks over HTTP, published as events |
//! | [`gateway`] | the use cases |
//! | [`delivery`] | the dispatcher, lanes, and the HTTP client that makes attempts |
//! | [`store`] | the trait with its promises, and the engines on disk and in memory |
//! | [`event`] | Chatwoot's events: catalogue, validation, payload forms, reading back |
//! | [`domain`] | rules and values without I/O |
//! | [`config`] | how settings are read; each part declares its own |
//! | [`limits`], [`listen`], `file_watch`, `log_throttle`, `http_host`, `descriptors` | shared by all listeners |
//! | [`metrics`], [`ops`], [`telemetry`], [`shutdown`], [`clock`] | operation |
//! | [`proto`] | code generated from the contract |

pub mod app;
pub mod clock;
pub mod commands;
pub mod config;
pub mod console;
pub mod delivery;
pub(crate) mod descriptors;
pub mod domain;
pub mod event;
pub mod file_watch;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gateway;
pub mod grpc;
pub(crate) mod http_host;
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
