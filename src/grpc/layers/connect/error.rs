//! Errors as Connect has them: an HTTP status and JSON, or the end of a stream, with the details of gRPC's errors.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use prost::Message;
use serde::Serialize;
use serde_json::value::RawValue;
use tonic::{Code, Status};
use tonic_types::{StatusExt, pb};

use super::{super::protocol::Form, frame};
use crate::proto;

/// The response to a call that failed before it had another one.
pub(in super::super) fn error_response(form: Form, status: &Status) -> Response<Bytes> {
    if form.is_stream {
        let mut response = Response::new(end(Some(status)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
        return response;
    }
    let mut response = Response::new(Bytes::from(text(&Error::of(status))));
    *response.status_mut() = http_status(status.code());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code() == Code::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
    if let Some(wait) = wait {
        // In whole seconds, and not too early.
        headers.insert(
            RETRY_AFTER,
            wait.as_millis().div_ceil(1000).to_string().try_into().expect("it is a number"),
        );
    }
    response
}

/// The last message of a stream, in its envelope.
pub(super) fn end(status: Option<&Status>) -> Bytes {
    frame::write(frame::END, &text(&End { error: status.map(Error::of) }))
}

fn text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it has texts only")
}

#[derive(Serialize)]
struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
}

#[derive(Serialize)]
struct Error {
    code: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Serialize)]
struct Detail {
    r#type: String,
    value: String,
    /// Its fields, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Box<RawValue>>,
}

impl Error {
    fn of(status: &Status) -> Self {
        // Empty, or encoded by the library.
        let details = pb::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
        Self {
            code: code(status.code()),
            message: status.message().to_owned(),
            details: details.iter().map(Detail::of).collect(),
        }
    }
}

impl Detail {
    fn of(any: &prost_types::Any) -> Self {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        let descriptor = proto::json::pool().get_message_by_name(name);
        let debug = descriptor.and_then(|descriptor| proto::json::decode(&descriptor, &any.value).ok());
        Self {
            r#type: name.to_owned(),
            value: STANDARD_NO_PAD.encode(&any.value),
            debug: debug.and_then(|json| RawValue::from_string(String::from_utf8(json).ok()?).ok()),
        }
    }
}

fn code(code: Code) -> &'static str {
    match code {
        Code::Cancelled => "canceled",
        Code::Ok | Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// As the protocol's table has it.
fn http_status(code: Code) -> StatusCode {
    let status = match code {
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(status).expect("these are statuses")
}
