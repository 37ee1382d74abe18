//! Limits the memory and the time that slow clients take: request messages that have not arrived whole, and
//! responses that were not read.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::{Code, Status};
use tower::BoxError;

use crate::{
    gateway::GatewayError,
    grpc::{
        layers::call_share::CallShare,
        wire::{methods, status::GrpcError},
    },
    limits::{Permit, SharedPool},
    metrics::{CallRefused, Metrics},
};

/// Bytes that a caller may have before others count: a message of the largest size, or less of a small pool.
const FIRST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A first place has at most this fraction of a pool: 1/16.
const FIRST_PART: usize = 16;
/// Longest time that a client of reflection may be silent between two messages. Its stream ends then.
const REFLECTION_SILENCE_MAX: Duration = Duration::from_secs(60);
/// Length of the prefix of every gRPC message: a flag for compression, and the message's length.
const PREFIX_BYTES: usize = 5;

/// A limit on buffered bytes over all connections, with a share for each caller. Clones share it.
#[derive(Clone)]
pub(super) struct ByteBudget {
    name: &'static str,
    pool: SharedPool,
    reason: CallRefused,
    metrics: Arc<Metrics>,
}

impl ByteBudget {
    /// A budget of `max` bytes. `name` and `reason` are those of its refusals.
    pub(super) fn new(name: &'static str, max: usize, reason: CallRefused, metrics: Arc<Metrics>) -> Self {
        let pool = SharedPool::new(max, FIRST_BYTES_MAX.min(max / FIRST_PART));
        Self { name, pool, reason, metrics }
    }

    /// A reservation of no bytes yet for the caller of `call`, who is known by now.
    pub(super) fn reservation(&self, call: &CallShare) -> Permit {
        self.pool.empty(call.key())
    }

    /// Changes a reservation to `bytes`.
    ///
    /// # Errors
    ///
    /// OVERLOADED: the budget, or the caller's share of it, is used up.
    pub(super) fn resize(&self, reservation: &mut Permit, bytes: usize) -> Result<(), Status> {
        reservation.try_resize(bytes).map_err(|_| {
            self.metrics.connections.call_refused(self.reason);
            GrpcError::from(GatewayError::overloaded(self.name, self.pool.max())).into()
        })
    }
}

/// The limits on the messages of requests.
#[derive(Clone)]
pub(super) struct RequestLimits {
    /// On bytes of unfinished messages.
    pub(super) unfinished: ByteBudget,
    /// The longest time for a message to arrive.
    pub(super) message_timeout: Duration,
}

/// How the messages of a method arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// One message, within the timeout from the beginning of the call.
    One,
    /// Any number, each within the timeout from its first byte, and with this silence at most in between.
    Stream { silence_max: Option<Duration> },
}

/// The body of a request. It ends with an error once too many bytes of unfinished messages are buffered, or once
/// a message takes too long to arrive.
pub(in crate::grpc) struct MeteredBody<B> {
    body: B,
    parser: FrameParser,
    arrival: Arrival,
    /// Messages are short enough not to count: their methods need no token, and have few calls.
    is_small: bool,
    /// Only while the client is waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// Only of messages that did not arrive in one piece.
    reserved: Option<Permit>,
    call: CallShare,
    limits: Arc<RequestLimits>,
}

impl<B: Body> MeteredBody<B> {
    /// The body of a call of the method with this path. If it `is_framed`, messages have a prefix with their length;
    /// otherwise it is one message.
    pub(super) fn new(
        body: B,
        path: &str,
        is_framed: bool,
        call: CallShare,
        limits: Arc<RequestLimits>,
    ) -> Self {
        let method = methods::find(path);
        let is_open = method.is_some_and(methods::Method::is_open);
        let arrival = match method {
            Some(method) if method.streams_requests => {
                Arrival::Stream { silence_max: is_open.then_some(REFLECTION_SILENCE_MAX) }
            }
            _ => Arrival::One,
        };
        let (parser, is_small) = (FrameParser::new(is_framed), is_open);
        Self { body, parser, arrival, is_small, timer: None, reserved: None, call, limits }
    }

    /// The error, once the client was waited for too long.
    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let (limit, what) = match self.arrival {
            Arrival::Stream { silence_max } if !self.parser.is_within_message() => {
                (silence_max, "no message")
            }
            _ => (Some(self.limits.message_timeout), "the message was not there"),
        };
        let Some(limit) = limit else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(context).map(|()| {
            self.limits.unfinished.metrics.connections.call_refused(CallRefused::MessageTimeout);
            let message = format!("{what} within {limit:?}");
            GrpcError::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).into()
        })
    }

    /// Counts the bytes that have arrived.
    fn count(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let before = (self.parser.messages, self.parser.is_within_message());
        self.parser.read(bytes);
        if !self.parser.is_framed && self.body.is_end_stream() {
            // It has arrived whole.
            self.parser.unfinished = 0;
        }
        if self.arrival != Arrival::One && before != (self.parser.messages, self.parser.is_within_message()) {
            // Another message, or its first byte: the time begins again.
            self.timer = None;
        }
        if self.is_small {
            return Ok(());
        }
        // Most messages arrive whole, and cost nothing here.
        match &mut self.reserved {
            None if self.parser.unfinished == 0 => Ok(()),
            reserved => {
                let unfinished = &self.limits.unfinished;
                let reserved = reserved.get_or_insert_with(|| unfinished.reservation(&self.call));
                unfinished.resize(reserved, self.parser.unfinished)
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for MeteredBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            return this.poll_timeout(context).map(|late| Some(Err(late.into())));
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(Into::into)?;
        if let Some(bytes) = frame.data_ref() {
            this.count(bytes)?;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Finds the boundaries of the messages in a body.
#[derive(Debug)]
struct FrameParser {
    /// Whether messages have a prefix. Without one the end of the body is that of its message.
    is_framed: bool,
    /// Messages that have arrived whole.
    messages: usize,
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that have arrived.
    prefix_length: usize,
    /// Bytes of the message that are still to arrive.
    left: usize,
    /// Bytes of the message that have arrived.
    unfinished: usize,
}

impl FrameParser {
    fn new(is_framed: bool) -> Self {
        Self { is_framed, messages: 0, prefix: [0; PREFIX_BYTES], prefix_length: 0, left: 0, unfinished: 0 }
    }

    /// Whether a message has begun and not ended.
    fn is_within_message(&self) -> bool {
        self.prefix_length > 0
    }

    fn read(&mut self, mut bytes: &[u8]) {
        if !self.is_framed {
            self.unfinished += bytes.len();
            return;
        }
        while !bytes.is_empty() {
            if self.prefix_length < PREFIX_BYTES {
                let (now, later) = bytes.split_at(bytes.len().min(PREFIX_BYTES - self.prefix_length));
                self.prefix[self.prefix_length..][..now.len()].copy_from_slice(now);
                self.prefix_length += now.len();
                bytes = later;
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
            } else {
                let now = bytes.len().min(self.left);
                self.left -= now;
                self.unfinished += now;
                bytes = &bytes[now..];
            }
            if self.prefix_length == PREFIX_BYTES && self.left == 0 {
                *self = Self { messages: self.messages + 1, ..Self::new(true) };
            }
        }
    }
}

#[cfg(test)]
mod tests;
