//! The response of a gRPC call as Connect has it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use prost_reflect::MessageDescriptor;
use tokio::time::Sleep;
use tonic::{Code, Status, body::Body};

use super::{
    super::protocol::Form,
    error::{end, error_response},
    frame, full,
};
use crate::{grpc::wire::status::GrpcError, proto::json};

/// The response with one message.
pub(super) async fn unary(
    response: Response<Body>,
    form: Form,
    output: &MessageDescriptor,
) -> Response<Body> {
    match message(response, form, output).await {
        Ok(message) => with_body(form, full(message)),
        Err(status) => error_response(form, &status).map(full),
    }
}

async fn message(response: Response<Body>, form: Form, output: &MessageDescriptor) -> Result<Bytes, Status> {
    let (head, body) = response.into_parts();
    check(&head.headers)?;
    let collected = body.collect().await?;
    check(collected.trailers().ok_or_else(GrpcError::internal)?)?;
    let bytes = collected.to_bytes();
    let message = frame::prefix(&bytes).and_then(|prefix| {
        let message = bytes.slice(frame::PREFIX_BYTES..);
        (message.len() == prefix.length).then_some(message)
    });
    convert(message.ok_or_else(GrpcError::internal)?, form, output)
}

/// The error in headers or trailers, if there is one.
fn check(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

fn convert(message: Bytes, form: Form, output: &MessageDescriptor) -> Result<Bytes, Status> {
    if !form.is_json {
        return Ok(message);
    }
    let converted = json::decode(output, &message).map(Bytes::from);
    converted.map_err(|_| GrpcError::internal().into())
}

/// The response with a stream of messages. `timeout` is how long its client waits.
pub(super) fn stream(
    response: Response<Body>,
    form: Form,
    output: MessageDescriptor,
    timeout: Option<Duration>,
) -> Response<Body> {
    let (head, body) = response.into_parts();
    if let Err(status) = check(&head.headers) {
        return error_response(form, &status).map(full);
    }
    let timeout = timeout.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
    let stream = ConnectStream { body, buffer: BytesMut::new(), form, output, timeout, is_over: false };
    with_body(form, Body::new(stream))
}

fn with_body(form: Form, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    response
}

/// The messages of a gRPC response in Connect's envelopes. The last envelope tells how the stream ended.
struct ConnectStream {
    body: Body,
    /// What has come of the next message.
    buffer: BytesMut,
    form: Form,
    output: MessageDescriptor,
    timeout: Option<(Duration, Pin<Box<Sleep>>)>,
    is_over: bool,
}

impl ConnectStream {
    /// The end of the stream.
    fn end(&mut self, status: Option<&Status>) -> Bytes {
        self.is_over = true;
        end(status)
    }

    /// The next envelope out of what has come.
    fn next(&mut self) -> Option<Bytes> {
        let message = frame::take(&mut self.buffer)?;
        Some(match convert(message, self.form, &self.output) {
            Ok(message) => frame::write(0, &message),
            Err(status) => self.end(Some(&status)),
        })
    }

    fn poll_envelope(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        if let Some((limit, sleep)) = &mut self.timeout
            && sleep.as_mut().poll(context).is_ready()
        {
            let late = GrpcError::too_slow(*limit).into();
            return Poll::Ready(self.end(Some(&late)));
        }
        loop {
            if let Some(envelope) = self.next() {
                return Poll::Ready(envelope);
            }
            let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
            let envelope = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    self.buffer.extend_from_slice(&data);
                    continue;
                }
                Some(Ok(Err(frame))) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.end(check(&trailers).err().as_ref())
                }
                Some(Err(status)) => self.end(Some(&status)),
                None => self.end(Some(&GrpcError::internal().into())),
            };
            return Poll::Ready(envelope);
        }
    }
}

impl HttpBody for ConnectStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.poll_envelope(context).map(|envelope| Some(Ok(Frame::data(envelope))))
    }
}
