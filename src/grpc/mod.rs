//! The gRPC server: translates the contract of `proto/` to the gateway's use cases and back. It decides only
//! matters of the wire: paths of fields, pages, statuses, streams.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod layers;
mod server;
mod services;
mod wire;

pub use crate::listen::Drain;
pub use layers::auth::{AccessSettings, Exposure};
pub use server::connection::ConnectionSettings;
pub use server::serve::{Calls, serve, serve_accepted, serve_calls};
pub use server::settings::GrpcSettings;
pub use server::tls::{Tls, TlsError, TlsFiles, TlsListener, TlsSettings};
pub use services::health::Health;
pub use wire::status::{DETAILS_BYTES_MAX, DOMAIN, MESSAGE_BYTES_MAX, VIOLATIONS_MAX};
