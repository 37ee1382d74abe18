//! What stands before the services, each gate a layer of its own: it lets a call through, answers it itself, or sees to it until its end.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service, layer::layer_fn};

use crate::grpc::wire::status::GrpcError;

/// The answer to a call.
pub(crate) type Answer = Result<Response<Body>, Infallible>;

/// The answer of a gate, to come: its own, that of the service, or what it makes of that.
pub(crate) type Passing<F> = Either<Either<Ready<Answer>, F>, Pin<Box<dyn Future<Output = Answer> + Send>>>;

/// What is behind a gate.
pub(crate) trait Behind:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
{
}

impl<S> Behind for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
{
}

/// Decides about each call before its message is read.
pub(crate) trait Gate: Clone {
    /// Decides about one call.
    fn call<S: Behind>(&self, behind: &mut S, request: Request<Body>) -> Passing<S::Future>;

    /// Puts it before whatever is behind.
    fn layer<S>(self) -> impl Layer<S, Service = Gated<Self, S>> + Clone {
        layer_fn(move |behind| Gated { gate: self.clone(), behind })
    }
}

/// Answers a call with a refusal.
pub(crate) fn refused<F>(refusal: GrpcError) -> Passing<F> {
    Either::Left(Either::Left(ready(Ok(Status::from(refusal).into_http()))))
}

/// Lets a call through, and what is answered as well.
pub(crate) fn through<F>(call: F) -> Passing<F> {
    Either::Left(Either::Right(call))
}

/// Lets a call through, and sees to it until its answer begins.
pub(crate) fn watched<F>(call: impl Future<Output = Answer> + Send + 'static) -> Passing<F> {
    Either::Right(Box::pin(call))
}

/// A service with a gate before it.
#[derive(Clone)]
pub(crate) struct Gated<G, S> {
    gate: G,
    behind: S,
}

impl<G: Gate, S: Behind> Service<Request<Body>> for Gated<G, S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Passing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.behind.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.gate.call(&mut self.behind, request)
    }
}
