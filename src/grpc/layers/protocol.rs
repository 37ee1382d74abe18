//! The protocols that calls come in, by their content type: gRPC, gRPC-Web and Connect.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use tonic::Status;

use super::connect;

/// How every content type of gRPC and gRPC-Web begins.
const GRPC: &[u8] = b"application/grpc";

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Protocol {
    /// gRPC, with any name of an encoding of the messages.
    Grpc,
    /// gRPC-Web. Its messages are in base64, or not.
    GrpcWeb {
        /// `application/grpc-web-text`.
        is_text: bool,
    },
    /// Connect.
    Connect(Form),
}

/// The form of a Connect call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) struct Form {
    /// Whether messages are JSON, otherwise protobuf.
    pub(super) is_json: bool,
    /// Whether messages are enveloped, as of a method that streams; otherwise the body is one message.
    pub(super) is_stream: bool,
}

impl Protocol {
    /// The protocol of a request with these headers; `None` if it is no call.
    pub(in crate::grpc) fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(CONTENT_TYPE)?;
        match content_type.as_bytes().strip_prefix(GRPC) {
            Some([] | [b'+' | b';', ..]) => Some(Self::Grpc),
            Some(b"-web" | b"-web+proto") => Some(Self::GrpcWeb { is_text: false }),
            Some(b"-web-text" | b"-web-text+proto") => Some(Self::GrpcWeb { is_text: true }),
            Some(_) => None,
            None => Form::of(content_type).map(Self::Connect),
        }
    }

    /// Whether every message of a request has a prefix with its length.
    pub(in crate::grpc) fn is_framed(self) -> bool {
        match self {
            Self::Grpc => true,
            Self::GrpcWeb { is_text } => !is_text,
            Self::Connect(form) => form.is_stream,
        }
    }

    /// The response to a call that failed with this status before it had another one.
    pub(in crate::grpc) fn error(self, status: Status) -> Response<Bytes> {
        match self {
            Self::Connect(form) => connect::error_response(form, &status),
            Self::Grpc => status.into_http(),
            Self::GrpcWeb { is_text } => {
                let content_type =
                    if is_text { "application/grpc-web-text+proto" } else { "application/grpc-web+proto" };
                let mut response = status.into_http();
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
                response
            }
        }
    }
}

impl Form {
    /// The form with this content type. Its parameters say UTF-8 at most.
    fn of(content_type: &HeaderValue) -> Option<Self> {
        let text = content_type.to_str().ok()?;
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let parameters = parameters.trim();
        if !parameters.is_empty() && !parameters.eq_ignore_ascii_case("charset=utf-8") {
            return None;
        }
        let form = |is_json, is_stream| Some(Self { is_json, is_stream });
        match name.trim().to_ascii_lowercase().as_str() {
            "application/json" => form(true, false),
            "application/proto" => form(false, false),
            "application/connect+json" => form(true, true),
            "application/connect+proto" => form(false, true),
            _ => None,
        }
    }

    /// The content type of its requests and responses.
    pub(super) fn content_type(self) -> &'static str {
        match (self.is_json, self.is_stream) {
            (true, false) => "application/json",
            (false, false) => "application/proto",
            (true, true) => "application/connect+json",
            (false, true) => "application/connect+proto",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_known_by_its_content_type_and_no_other_passes() {
        let of = |content_type: &'static str| {
            Protocol::of(&[(CONTENT_TYPE, HeaderValue::from_static(content_type))].into_iter().collect())
        };
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
            assert_eq!(of(content_type), Some(Protocol::Grpc), "{content_type}");
        }
        assert_eq!(of("application/grpc-web+proto"), Some(Protocol::GrpcWeb { is_text: false }));
        assert_eq!(of("application/grpc-web-text"), Some(Protocol::GrpcWeb { is_text: true }));
        for form in [(true, false), (false, false), (true, true), (false, true)] {
            let form = Form { is_json: form.0, is_stream: form.1 };
            assert_eq!(of(form.content_type()), Some(Protocol::Connect(form)));
        }
        let json = of("application/json");
        assert_eq!(of("Application/JSON; charset=UTF-8"), json);
        for content_type in [
            "",
            "text/plain",
            "application/grpcx",
            "application/grpc-web+json",
            "application/json; charset=latin1",
            "application/json;boundary=x",
            "application/jsonx",
            "application/connect+xml",
        ] {
            assert_eq!(of(content_type), None, "{content_type}");
        }
        assert_eq!(Protocol::of(&HeaderMap::new()), None);
    }
}
