//! The [Connect protocol](https://connectrpc.com/docs/protocol): unary calls and streams of responses, in JSON and
//! protobuf. A call becomes one of gRPC for the services behind it, and its response is translated back. The message is
//! read only when the service asks for it: access and limits have been checked by then.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TE},
};
use http_body_util::Full;
use prost_reflect::MethodDescriptor;
use tonic::{Code, Status, body::Body};

use self::{
    request::{Encoding, Reading},
    response::{stream, unary},
};
use super::{
    protocol::Form,
    protocols::{Services, called, text},
};
use crate::{
    grpc::wire::{methods::OPEN_MESSAGE_BYTES_MAX, status::GrpcError},
    proto::json,
};

mod error;
mod frame;
mod request;
mod response;

pub(super) use error::error_response;

const VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
/// Most digits of a timeout, as in the protocol.
const TIMEOUT_DIGITS_MAX: usize = 10;
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Makes gRPC calls of Connect's.
pub(super) struct Connect {
    services: Services,
    message_bytes_max: usize,
}

/// Every method, by its path.
static METHODS: LazyLock<HashMap<String, MethodDescriptor>> = LazyLock::new(|| {
    let methods = json::pool().services().flat_map(|service| Vec::from_iter(service.methods()));
    methods
        .map(|method| (format!("/{}/{}", method.parent_service().full_name(), method.name()), method))
        .collect()
});

impl Connect {
    pub(super) fn new(services: Services, message_bytes_max: usize) -> Self {
        Self { services, message_bytes_max }
    }

    /// The response to a call in this form.
    pub(super) async fn call(&self, request: Request<Body>, form: Form) -> Response<Body> {
        let path = request.uri().path();
        let Some(method) = METHODS.get(path) else { return self.unknown(request, form).await };
        if method.is_client_streaming() {
            return error_response(form, &needs_grpc(path)).map(full);
        }
        if method.is_server_streaming() != form.is_stream {
            return wrong_form(path, form);
        }
        match self.prepare(request, form, method) {
            Ok((request, timeout)) => {
                let response = called(&self.services, request).await;
                if form.is_stream {
                    stream(response, form, method.output(), timeout)
                } else {
                    unary(response, form, &method.output()).await
                }
            }
            Err(error) => error_response(form, &error.into()).map(full),
        }
    }

    /// The gRPC call, and how long its client waits.
    fn prepare(
        &self,
        request: Request<Body>,
        form: Form,
        method: &MethodDescriptor,
    ) -> Result<(Request<Body>, Option<Duration>), GrpcError> {
        let (mut head, body) = request.into_parts();
        let is_open = head.uri.path().starts_with("/grpc.");
        check_version(&head.headers)?;
        let timeout = timeout(&head.headers)?;
        let reading = Reading {
            form,
            encoding: Encoding::of(&head.headers, form)?,
            input: method.input(),
            bytes_max: if is_open { OPEN_MESSAGE_BYTES_MAX } else { self.message_bytes_max },
        };
        let headers = &mut head.headers;
        for name in [CONTENT_LENGTH, CONTENT_ENCODING, ACCEPT_ENCODING] {
            headers.remove(name);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = timeout {
            headers.insert(GRPC_TIMEOUT, grpc_timeout(timeout));
        }
        Ok((Request::from_parts(head, reading.body(body)), timeout))
    }

    /// The services' own response to a method that does not exist: it names those that do.
    async fn unknown(&self, request: Request<Body>, form: Form) -> Response<Body> {
        let response = called(&self.services, request.map(|_| Body::empty())).await;
        let status = Status::from_header_map(response.headers());
        error_response(form, &status.unwrap_or_else(|| GrpcError::internal().into())).map(full)
    }
}

/// A method whose requests are a stream.
fn needs_grpc(path: &str) -> Status {
    let message = format!(
        "the requests of {} are a stream, which Connect is not served for: use gRPC, or BatchPublishEvents for many events",
        path.trim_start_matches('/')
    );
    GrpcError::new(Code::Unimplemented, "REQUESTS_STREAM", message).into()
}

/// A method that responds with a stream, called as if it did not, or the reverse.
fn wrong_form(path: &str, form: Form) -> Response<Body> {
    let right = Form { is_stream: !form.is_stream, ..form };
    let kind = if right.is_stream { "responds with a stream" } else { "has one response" };
    let sentence =
        format!("{} {kind}: its content type is {}.", path.trim_start_matches('/'), right.content_type());
    text(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence)
}

fn check_version(headers: &HeaderMap) -> Result<(), GrpcError> {
    match headers.get(VERSION) {
        Some(version) if version != "1" => Err(invalid_header("Connect-Protocol-Version is not 1")),
        _ => Ok(()),
    }
}

/// How long the client waits.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, GrpcError> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let millis = value
        .to_str()
        .ok()
        .filter(|text| text.len() <= TIMEOUT_DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit()));
    let millis = millis
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid_header("Connect-Timeout-Ms is no whole number of at most 10 digits"))?;
    Ok(Some(Duration::from_millis(millis)))
}

/// In the words of gRPC, which has at most eight digits.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    let text = match timeout.as_millis() {
        millis if millis < 100_000_000 => format!("{millis}m"),
        millis => format!("{}S", millis / 1000),
    };
    HeaderValue::try_from(text).expect("digits and a letter are a header's value")
}

fn invalid_header(message: &str) -> GrpcError {
    GrpcError::new(Code::InvalidArgument, "HEADER_INVALID", message)
}

fn full(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes))
}

/// The property of the fuzz target: a request becomes one frame of gRPC or an error, and what came in JSON can be said
/// in JSON again.
#[cfg(any(test, fuzzing))]
pub(in crate::grpc) fn check_translation(data: &[u8]) {
    use prost_reflect::DynamicMessage;

    let Some((choice, body)) = data.split_first() else { return };
    let form = Form { is_json: choice & 1 == 0, is_stream: choice & 2 != 0 };
    let encoding = if choice & 4 == 0 { Encoding::Identity } else { Encoding::Gzip };
    let input = METHODS["/tidings.v1.EventService/BatchPublishEvents"].input();
    let reading = Reading { form, encoding, input: input.clone(), bytes_max: 64 * 1024 };
    let Ok(framed) = reading.translate(&Bytes::copy_from_slice(body)) else { return };
    let prefix = frame::prefix(&framed).expect("it has a prefix");
    assert_eq!(prefix, frame::Prefix { flags: 0, length: framed.len() - frame::PREFIX_BYTES });
    if form.is_json {
        let message = &framed[frame::PREFIX_BYTES..];
        let text = json::decode(&input, message).expect("what came in JSON can be said in JSON");
        let mut again = bytes::BytesMut::new();
        json::encode(&input, &text, &mut again).expect("and is read again");
        // The order of entries of a map may differ.
        let decoded = |bytes: &[u8]| DynamicMessage::decode(input.clone(), bytes).expect("it was encoded");
        assert_eq!(decoded(&again), decoded(message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_but_those_of_reflection_is_known() {
        for method in crate::grpc::wire::methods::served() {
            assert_eq!(METHODS.contains_key(&method.path), !method.path.contains("reflection"), "{method:?}");
        }
    }

    #[test]
    fn a_timeout_in_milliseconds_is_one_of_grpc() {
        let of = |value: &'static str| {
            timeout(&[(TIMEOUT, HeaderValue::from_static(value))].into_iter().collect())
        };
        for (value, grpc) in [("0", "0m"), ("99999999", "99999999m"), ("9999999999", "9999999S")] {
            assert_eq!(grpc_timeout(of(value).unwrap().unwrap()), grpc);
        }
        for value in ["", "-1", "1.5", "1s", "12345678901"] {
            assert_eq!(of(value).unwrap_err().reason(), "HEADER_INVALID", "{value}");
        }
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
    }
}
