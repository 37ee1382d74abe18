//! Translates: the contract of `proto/` to the gateway's use cases and back. Nothing is decided here but what belongs to
//! the wire: paths of fields, pages, statuses, streams.

mod access;
mod activity;
mod audit;
mod bounded;
mod changes;
mod connection;
mod convert;
mod deliveries;
mod events;
mod fields;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod held;
mod incoming;
mod known;
mod page;
mod preface;
mod server;
mod status;
mod straight;
mod stream;
mod subscriptions;
mod tls;
mod tokens;

pub use access::{AccessSettings, Exposure};
pub use connection::ConnectionSettings;
pub use health::Health;
pub use server::{Drain, GrpcSettings, serve, serve_accepted};
pub use status::{DETAILS_BYTES_MAX, DOMAIN, MESSAGE_BYTES_MAX, VIOLATIONS_MAX};
pub use tls::{Tls, TlsError, TlsFiles};
