//! Which methods there are, so that a call of another one is told what it could have called.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::Request;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::body::Body;

use super::filter::{Behind, Gate, Passing, refused, through};
use crate::grpc::wire::status::GrpcError;

/// Longest part of an unknown name that is repeated in the answer.
const NAME_CHARS_MAX: usize = 100;

/// The methods of a server by service.
#[derive(Clone, Debug)]
pub(crate) struct Known(Arc<BTreeMap<String, BTreeSet<String>>>);

impl Known {
    /// What these encoded descriptor sets describe.
    pub(crate) fn described_by(sets: &[&[u8]]) -> Self {
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

impl Gate for Known {
    fn call<S: Behind>(&self, behind: &mut S, request: Request<Body>) -> Passing<S::Future> {
        match self.refusal(request.uri().path()) {
            None => through(behind.call(request)),
            Some(refusal) => refused(refusal),
        }
    }
}
