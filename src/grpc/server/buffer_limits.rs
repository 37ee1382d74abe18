//! Limits the memory that slow clients take: request messages that have not arrived whole, and responses that
//! were not read.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tonic::Status;
use tower::BoxError;

use crate::{gateway::GatewayError, grpc::wire::status::GrpcError};

/// One connection may take this fraction of a budget: 1/4.
const CONNECTION_SHARE: usize = 4;
/// Length of the prefix of every gRPC message: a flag for compression, and the message's length.
const PREFIX_BYTES: usize = 5;

/// A limit on buffered bytes over all connections. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ByteBudget {
    setting: &'static str,
    max: usize,
    used: Arc<AtomicUsize>,
}

/// The share of a budget that one connection has. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ConnectionBudget {
    budget: ByteBudget,
    used: Arc<AtomicUsize>,
}

impl ByteBudget {
    /// A budget of `max` bytes, which comes from `setting`.
    pub(super) fn new(setting: &'static str, max: usize) -> Self {
        Self { setting, max, used: Arc::default() }
    }

    /// The share of a new connection.
    pub(super) fn connection(&self) -> ConnectionBudget {
        ConnectionBudget { budget: self.clone(), used: Arc::default() }
    }
}

impl ConnectionBudget {
    /// A reservation of no bytes yet.
    pub(super) fn reservation(&self) -> BufferReservation {
        BufferReservation { connection: self.clone(), bytes: 0 }
    }
}

/// Reserved bytes. Dropping it frees them.
#[derive(Debug)]
pub(super) struct BufferReservation {
    connection: ConnectionBudget,
    bytes: usize,
}

impl BufferReservation {
    /// Changes the reservation to `bytes`.
    pub(super) fn resize(&mut self, bytes: usize) {
        let (all, one) = (&self.connection.budget.used, &self.connection.used);
        if bytes >= self.bytes {
            all.fetch_add(bytes - self.bytes, Relaxed);
            one.fetch_add(bytes - self.bytes, Relaxed);
        } else {
            all.fetch_sub(self.bytes - bytes, Relaxed);
            one.fetch_sub(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
    }

    /// Checks that all reservations together fit.
    ///
    /// # Errors
    ///
    /// OVERLOADED: the budget, or the connection's share of it, is used up.
    pub(super) fn check(&self) -> Result<(), Status> {
        let ByteBudget { setting, max, used } = &self.connection.budget;
        if used.load(Relaxed) > *max || self.connection.used.load(Relaxed) > max / CONNECTION_SHARE {
            return Err(GrpcError::from(GatewayError::overloaded(setting, *max)).into());
        }
        Ok(())
    }
}

impl Drop for BufferReservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.resize(0);
        }
    }
}

/// The body of a request. It ends with an error once too many bytes of unfinished messages are buffered.
pub(in crate::grpc) struct MeteredBody<B> {
    body: B,
    parser: FrameParser,
    reserved: BufferReservation,
}

impl<B> MeteredBody<B> {
    pub(super) fn new(body: B, connection: &ConnectionBudget) -> Self {
        Self { body, parser: FrameParser::default(), reserved: connection.reservation() }
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
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(Into::into)?;
        if let Some(bytes) = frame.data_ref() {
            this.parser.read(bytes);
            // Most messages arrive whole, and cost nothing here.
            if this.parser.unfinished != this.reserved.bytes {
                this.reserved.resize(this.parser.unfinished);
                if this.parser.unfinished > 0 {
                    this.reserved.check()?;
                }
            }
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
#[derive(Debug, Default)]
struct FrameParser {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that have arrived.
    prefix_length: usize,
    /// Bytes of the message that are still to arrive.
    left: usize,
    /// Bytes of the message that have arrived.
    unfinished: usize,
}

impl FrameParser {
    fn read(&mut self, mut bytes: &[u8]) {
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
                *self = Self::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};
    use tonic::Code;

    use super::*;

    /// A message of this length.
    fn message(length: u32) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(length.to_be_bytes());
        message.resize(PREFIX_BYTES + length as usize, 7);
        message
    }

    #[test]
    fn only_unfinished_messages_are_counted_however_they_are_split() {
        let bytes = [message(3), message(0), message(300), message(1)].concat();
        // Bytes of the unfinished message that have arrived, after each byte.
        let ends = [8, 13, 318, 324];
        let expected = |at: usize| {
            let begin = ends.iter().rev().find(|end| **end <= at).copied().unwrap_or_default();
            (at - begin).saturating_sub(PREFIX_BYTES)
        };
        for step in [1, 2, 5, 7, 100, 324] {
            let (mut parser, mut at) = (FrameParser::default(), 0);
            for part in bytes.chunks(step) {
                parser.read(part);
                at += part.len();
                assert_eq!(parser.unfinished, expected(at), "{step} {at}");
            }
        }
    }

    fn metered(
        parts: Vec<Vec<u8>>,
        connection: &ConnectionBudget,
    ) -> MeteredBody<impl Body<Data = Bytes, Error = Infallible> + Unpin + use<>> {
        let frames = parts.into_iter().map(|part| Ok(Frame::data(Bytes::from(part))));
        MeteredBody::new(StreamBody::new(futures_util::stream::iter(frames)), connection)
    }

    #[tokio::test]
    async fn a_connection_may_buffer_a_quarter_and_all_together_the_whole() {
        let budget = ByteBudget::new("grpc_unfinished_bytes_max", 400);
        let half = || vec![message(1000)[..85].to_vec(), message(10)];
        let mut kept = Vec::new();
        for connection in 0..5 {
            let share = budget.connection();
            let mut first = metered(half(), &share);
            let frame = first.frame().await.expect("there is one");
            let accepted = frame.is_ok();
            assert!(accepted, "connection {connection}");
            kept.push((share, first));
        }
        // 80 bytes each. A second message of the first connection passes its share.
        let mut second = metered(half(), &kept[0].0);
        let error = second.frame().await.expect("there is one").unwrap_err();
        let status = error.downcast_ref::<Status>().expect("it is a status");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("grpc_unfinished_bytes_max"), "{status:?}");
        drop(second);
        // 400 bytes are buffered: no connection may buffer one byte more.
        let mut other = metered(vec![message(2)[..6].to_vec()], &budget.connection());
        assert!(other.frame().await.expect("there is one").is_err());
        drop(other);
        kept.pop();
        let mut other = metered(half(), &budget.connection());
        assert!(other.frame().await.expect("there is one").is_ok());
        drop((kept, other));
        assert_eq!(budget.used.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn whole_messages_of_any_size_pass() {
        let share = ByteBudget::new("grpc_unfinished_bytes_max", 4).connection();
        let body = metered(vec![message(1000), message(0), [message(7), message(9)].concat()], &share);
        assert!(body.collect().await.is_ok());
    }
}
