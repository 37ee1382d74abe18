//! A service that calls reach without the router.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::{body::Body, server::NamedService};
use tower::Service;

/// Passes the calls of `service` straight to it, and the others on.
#[derive(Clone, Debug)]
pub(crate) struct Straight<T, S> {
    pub(crate) service: T,
    pub(crate) others: S,
}

impl<T, S> Service<Request<Body>> for Straight<T, S>
where
    T: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<T::Future, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Generated services are always ready.
        self.others.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if service_of(request.uri().path()) == Some(T::NAME) {
            Either::Left(self.service.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

/// `tidings.v1.EventService` of `/tidings.v1.EventService/PublishEvent`.
fn service_of(path: &str) -> Option<&str> {
    Some(path.strip_prefix('/')?.split_once('/')?.0)
}
