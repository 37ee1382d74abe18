//! Types that the layers in front of the services share.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    time::Duration,
};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::Service;

use crate::grpc::wire::status::GrpcError;

/// A gRPC service, or a layer around one.
pub(in crate::grpc) trait GrpcService:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
{
}

impl<S> GrpcService for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
{
}

/// The response of a layer: the inner service's own, untouched and without an allocation, or another future.
pub(in crate::grpc) type FilterFuture<F> =
    Either<F, Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>>;

/// How long a caller past the share of its address waits for the refusal. Meanwhile it has a stream less: who asks
/// again at once takes no more processor time than who waits.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// Responds with an error, without calling the inner service.
pub(in crate::grpc) fn reject<F>(error: GrpcError) -> FilterFuture<F> {
    Either::Right(Box::pin(ready(Ok(Status::from(error).into_http()))))
}

/// As [`reject`], but not before [`REFUSAL_WAIT`]. For callers that have shown no token.
pub(in crate::grpc) fn reject_later<F>(error: GrpcError) -> FilterFuture<F> {
    Either::Right(Box::pin(async move {
        tokio::time::sleep(REFUSAL_WAIT).await;
        Ok(Status::from(error).into_http())
    }))
}
