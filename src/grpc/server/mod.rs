//! The gRPC server: accepts connections, bounds them, serves HTTP/2.

pub(super) mod accept;
pub(super) mod buffer_limits;
pub(super) mod certificate_subject;
pub(super) mod connection;
pub(super) mod event_server;
pub(super) mod idle;
pub(super) mod preface;
pub(super) mod routes;
pub(super) mod serve;
pub(super) mod settings;
pub(super) mod tls;
