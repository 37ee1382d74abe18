//! The server's own deadline for calls.

use std::{future::Future, time::Duration};

use tonic::{Response, Status};

use super::status::GrpcError;

/// The response to `call`, or DEADLINE_EXCEEDED after `limit`.
pub(in crate::grpc) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, GrpcError>>,
) -> Result<Response<T>, Status> {
    Ok(in_time(limit, call).await.map(Response::new)?)
}

/// The result of `call`, or DEADLINE_EXCEEDED after `limit`.
pub(in crate::grpc) async fn in_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, GrpcError>>,
) -> Result<T, GrpcError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(GrpcError::too_slow(limit)))
}
