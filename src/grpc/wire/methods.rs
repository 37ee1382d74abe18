//! The methods that the server offers, read from the descriptors of their services.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::proto;

/// The descriptors of everything that is served: the contract, error details, health checks and reflection
/// itself.
pub(in crate::grpc) static DESCRIPTOR_SETS: [&[u8]; 5] = [
    proto::DESCRIPTORS,
    tonic_types::pb::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// Largest message of a method that needs no token: a name.
pub(in crate::grpc) const OPEN_MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// A method of a service.
#[derive(Debug)]
pub(in crate::grpc) struct Method {
    /// `tidings.v1.EventService`.
    pub(in crate::grpc) service: String,
    /// `PublishEvent`.
    pub(in crate::grpc) name: String,
    /// `/tidings.v1.EventService/PublishEvent`.
    pub(in crate::grpc) path: String,
    /// Whether its requests are a stream.
    pub(in crate::grpc) streams_requests: bool,
    /// Whether it responds with a stream.
    pub(in crate::grpc) streams_responses: bool,
}

impl Method {
    /// Whether it may be open to callers without a token: a health check, or reflection.
    pub(in crate::grpc) fn is_open(&self) -> bool {
        self.service.starts_with("grpc.")
    }
}

/// The method with this path, if there is one.
pub(in crate::grpc) fn find(path: &str) -> Option<&'static Method> {
    static METHODS: LazyLock<HashMap<&str, &Method, foldhash::fast::RandomState>> =
        LazyLock::new(|| served().iter().map(|method| (method.path.as_str(), method)).collect());
    METHODS.get(path).copied()
}

/// Every method of [`DESCRIPTOR_SETS`].
pub(in crate::grpc) fn served() -> &'static [Method] {
    static METHODS: LazyLock<Vec<Method>> = LazyLock::new(|| {
        let mut methods = Vec::new();
        for set in DESCRIPTOR_SETS {
            let set = FileDescriptorSet::decode(set).expect("descriptors that were built in are valid");
            for file in &set.file {
                for service in &file.service {
                    let service_name = format!("{}.{}", file.package(), service.name());
                    methods.extend(service.method.iter().map(|method| Method {
                        path: format!("/{service_name}/{}", method.name()),
                        service: service_name.clone(),
                        name: method.name().to_owned(),
                        streams_requests: method.client_streaming(),
                        streams_responses: method.server_streaming(),
                    }));
                }
            }
        }
        methods
    });
    &METHODS
}
