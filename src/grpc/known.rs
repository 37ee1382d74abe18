//! Which methods there are, so that a call of another one is told what it could have called.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::status::Refusal;

/// Longest part of an unknown name that is repeated in the answer.
const NAME_CHARS_MAX: usize = 100;

/// The methods of a server by service.
#[derive(Clone, Debug)]
pub(super) struct Known(Arc<BTreeMap<String, BTreeSet<String>>>);

impl Known {
    /// What these encoded descriptor sets describe.
    pub(super) fn described_by(sets: &[&[u8]]) -> Self {
        let mut services: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for set in sets {
            let set = FileDescriptorSet::decode(*set).expect("descriptors that were built in are valid");
            for file in &set.file {
                for service in &file.service {
                    let methods = service.method.iter().map(|method| method.name().to_owned()).collect();
                    services.insert(format!("{}.{}", file.package(), service.name()), methods);
                }
            }
        }
        Self(Arc::new(services))
    }

    /// What to answer to a call of `path`, unless it is known.
    fn refusal(&self, path: &str) -> Option<Refusal> {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        let shown = |text: &str| text.chars().take(NAME_CHARS_MAX).collect::<String>();
        let message = match self.0.get(service) {
            Some(methods) if methods.contains(method) => return None,
            Some(methods) => {
                format!("{service} has no method {}; it has {}", shown(method), list(methods.iter()))
            }
            None => format!("there is no service {}; there are {}", shown(service), list(self.0.keys())),
        };
        Some(Refusal::unknown_method(message))
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

/// Passes calls of known methods on, and answers the others.
#[derive(Clone, Debug)]
pub(super) struct KnownOnly<S> {
    known: Known,
    inner: S,
}

impl<S> Service<Request<Body>> for KnownOnly<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, std::future::Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.known.refusal(request.uri().path()) {
            None => Either::Left(self.inner.call(request)),
            Some(refusal) => Either::Right(std::future::ready(Ok(Status::from(refusal).into_http()))),
        }
    }
}
