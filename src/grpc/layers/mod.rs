//! Layers in front of the services: what is no gRPC call, access control, the limit of concurrent calls.

pub(super) mod auth;
pub(super) mod call_share;
pub(super) mod concurrency_limit;
pub(super) mod filter;
pub(super) mod grpc_only;
