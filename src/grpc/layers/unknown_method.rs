//! Which methods there are, so that a call of another one is told what it could have called.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::filter::{FilterFuture, GrpcService, reject};
use crate::grpc::wire::{methods, status::GrpcError};

/// Longest part of an unknown name that is repeated in the answer.
const NAME_CHARS_MAX: usize = 100;

/// The methods of a server by service.
#[derive(Clone, Debug)]
pub(crate) struct Known(Arc<BTreeMap<String, BTreeSet<String>>>);

impl Known {
    /// Every method that the server offers.
    pub(crate) fn new() -> Self {
        let mut services: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for method in methods::served() {
            services.entry(method.service.clone()).or_default().insert(method.name.clone());
        }
        Self(Arc::new(services))
    }

    /// What to answer to a call of `path`, unless it is known.
    fn refusal(&self, path: &str) -> Option<GrpcError> {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        let shown = |text: &str| text.chars().take(NAME_CHARS_MAX).collect::<String>();
        let message = match self.0.get(service) {
            Some(methods) if methods.contains(method) => return None,
            Some(methods) => {
                format!("{service} has no method {}; it has {}", shown(method), list(methods.iter()))
            }
            None => format!("there is no service {}; there are {}", shown(service), list(self.0.keys())),
        };
        Some(GrpcError::unknown_method(message))
    }
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl<S> Layer<S> for Known {
    type Service = KnownOnly<S>;

    fn layer(&self, inner: S) -> KnownOnly<S> {
        KnownOnly { known: self.clone(), inner }
    }
}

/// A service behind [`Known`].
#[derive(Clone)]
pub(crate) struct KnownOnly<S> {
    known: Known,
    inner: S,
}

impl<S: GrpcService> Service<Request<Body>> for KnownOnly<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FilterFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.known.refusal(request.uri().path()) {
            None => Either::Left(self.inner.call(request)),
            Some(error) => reject(error),
        }
    }
}
