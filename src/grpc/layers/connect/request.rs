//! The request of a Connect call as the body of a gRPC call: one message, read when the service asks for it.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_ENCODING};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody};
use prost_reflect::MessageDescriptor;
use tonic::{Code, Status, body::Body};

use super::{super::protocol::Form, frame};
use crate::{
    grpc::wire::{library_errors::message_too_large, status::GrpcError},
    proto::json,
};

const STREAM_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");

/// The compression of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// As the headers of a request say.
    pub(super) fn of(headers: &HeaderMap, form: Form) -> Result<Self, GrpcError> {
        let name = if form.is_stream { STREAM_ENCODING } else { CONTENT_ENCODING };
        match headers.get(name).map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(_) => Err(GrpcError::new(
                Code::Unimplemented,
                "ENCODING_UNKNOWN",
                "messages may be compressed with gzip, or not at all (identity)",
            )),
        }
    }
}

/// How a request is read.
pub(super) struct Reading {
    pub(super) form: Form,
    pub(super) encoding: Encoding,
    pub(super) input: MessageDescriptor,
    /// Longest message, before and after decompression.
    pub(super) bytes_max: usize,
}

impl Reading {
    /// The body of the gRPC call.
    pub(super) fn body(self, body: Body) -> Body {
        let frame = async move { self.frame(body).await.map(Frame::data) };
        Body::new(StreamBody::new(stream::once(frame)))
    }

    async fn frame(self, body: Body) -> Result<Bytes, Status> {
        let prefix = if self.form.is_stream { frame::PREFIX_BYTES } else { 0 };
        let body = collect(body, self.bytes_max, prefix).await?;
        Ok(self.translate(&body)?)
    }

    /// The message with gRPC's prefix.
    pub(super) fn translate(&self, body: &Bytes) -> Result<Bytes, GrpcError> {
        let (message, encoding) =
            if self.form.is_stream { self.out_of_envelope(body)? } else { (body.clone(), self.encoding) };
        let message = match encoding {
            Encoding::Identity => message,
            Encoding::Gzip => self.decompress(&message)?,
        };
        if !self.form.is_json {
            return Ok(frame::write(0, &message));
        }
        let mut framed = frame::begin(message.len());
        json::encode(&self.input, &message, &mut framed)?;
        Ok(frame::end(framed, 0))
    }

    /// The only message of a stream, and its compression.
    fn out_of_envelope(&self, body: &Bytes) -> Result<(Bytes, Encoding), GrpcError> {
        let malformed = |rule| GrpcError::new(Code::InvalidArgument, "MESSAGE_MALFORMED", rule);
        let Some(prefix) = frame::prefix(body) else {
            return Err(malformed("the request has no message: its envelope is cut off or missing"));
        };
        if prefix.length > self.bytes_max {
            return Err(message_too_large(self.bytes_max));
        }
        let message = body.slice(frame::PREFIX_BYTES..);
        if message.len() != prefix.length {
            return Err(malformed("the request is not one message of the length that its envelope says"));
        }
        match (prefix.flags, self.encoding) {
            (0, _) => Ok((message, Encoding::Identity)),
            (frame::COMPRESSED, Encoding::Gzip) => Ok((message, Encoding::Gzip)),
            (frame::COMPRESSED, Encoding::Identity) => {
                Err(malformed("the envelope says compressed, and Connect-Content-Encoding does not say how"))
            }
            _ => Err(malformed("the envelope has unknown flags")),
        }
    }

    fn decompress(&self, compressed: &[u8]) -> Result<Bytes, GrpcError> {
        let max = self.bytes_max as u64;
        let mut bytes = Vec::new();
        let read = GzDecoder::new(compressed).take(max + 1).read_to_end(&mut bytes);
        match read {
            Ok(_) if bytes.len() as u64 > max => Err(message_too_large(self.bytes_max)),
            Ok(_) => Ok(bytes.into()),
            Err(_) => Err(GrpcError::new(
                Code::InvalidArgument,
                "MESSAGE_MALFORMED",
                "the message is not compressed with gzip, or is cut off",
            )),
        }
    }
}

/// All bytes of a body: at most `max` and those of a prefix.
async fn collect(body: Body, max: usize, prefix: usize) -> Result<Bytes, Status> {
    // Its length may be known before any of it is there.
    if body.size_hint().lower() > (max + prefix) as u64 {
        return Err(message_too_large(max).into());
    }
    match Limited::new(body, max + prefix).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(message_too_large(max).into()),
        Err(error) => Err(of_body(Status::from_error(error))),
    }
}

/// The error of a body: our own, or the connection's, which is the client's fault.
fn of_body(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    let message = format!("the request is broken off, or is not framed as HTTP says: {}", status.message());
    GrpcError::new(Code::InvalidArgument, "MESSAGE_MALFORMED", message).into()
}
