//! Bounds the memory that clients make the server hold by not going on: messages that do not arrive whole, and answers that
//! are not taken.

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

/// One connection may hold one part in so many of the whole bound.
const CONNECTION_SHARE: usize = 4;
/// What every gRPC message begins with: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A bound on bytes over all connections. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    setting: &'static str,
    max: usize,
    used: Arc<AtomicUsize>,
}

/// The part of it that one connection has. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    bound: Bound,
    used: Arc<AtomicUsize>,
}

impl Bound {
    /// A bound that this setting sets.
    pub(crate) fn new(setting: &'static str, max: usize) -> Self {
        Self { setting, max, used: Arc::default() }
    }

    /// What a new connection has of it.
    pub(crate) fn share(&self) -> Share {
        Share { bound: self.clone(), used: Arc::default() }
    }
}

impl Share {
    /// Holds nothing as yet.
    pub(crate) fn held(&self) -> Held {
        Held { share: self.clone(), bytes: 0 }
    }
}

/// Bytes that are held, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    share: Share,
    bytes: usize,
}

impl Held {
    /// Holds so many from now on.
    pub(crate) fn set(&mut self, bytes: usize) {
        let (all, one) = (&self.share.bound.used, &self.share.used);
        if bytes >= self.bytes {
            all.fetch_add(bytes - self.bytes, Relaxed);
            one.fetch_add(bytes - self.bytes, Relaxed);
        } else {
            all.fetch_sub(self.bytes - bytes, Relaxed);
            one.fetch_sub(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
    }

    /// Whether that is more than there may be.
    ///
    /// # Errors
    ///
    /// What a caller is told.
    pub(crate) fn check(&self) -> Result<(), Status> {
        let Bound { setting, max, used } = &self.share.bound;
        if used.load(Relaxed) > *max || self.share.used.load(Relaxed) > max / CONNECTION_SHARE {
            return Err(GrpcError::from(GatewayError::overloaded(setting, *max)).into());
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.set(0);
        }
    }
}

/// The body of a call, which ends with an error once too much of it and others waits for the rest of a message.
pub(crate) struct Arriving<B> {
    body: B,
    messages: Messages,
    held: Held,
}

impl<B> Arriving<B> {
    pub(crate) fn new(body: B, share: &Share) -> Self {
        Self { body, messages: Messages::default(), held: share.held() }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Arriving<B> {
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
            this.messages.read(bytes);
            // Most messages come whole, and cost nothing here.
            if this.messages.unfinished != this.held.bytes {
                this.held.set(this.messages.unfinished);
                if this.messages.unfinished > 0 {
                    this.held.check()?;
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

/// Follows the messages in a body.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix is there.
    prefix_length: usize,
    /// How much of the message is to come.
    left: usize,
    /// How much of it is there.
    unfinished: usize,
}

impl Messages {
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

    /// A message of so many bytes.
    fn message(length: u32) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(length.to_be_bytes());
        message.resize(PREFIX_BYTES + length as usize, 7);
        message
    }

    #[test]
    fn only_what_is_not_whole_counts_however_it_is_cut() {
        let bytes = [message(3), message(0), message(300), message(1)].concat();
        // What is there of the message under way, after each byte.
        let ends = [8, 13, 318, 324];
        let expected = |at: usize| {
            let begin = ends.iter().rev().find(|end| **end <= at).copied().unwrap_or_default();
            (at - begin).saturating_sub(PREFIX_BYTES)
        };
        for step in [1, 2, 5, 7, 100, 324] {
            let (mut messages, mut at) = (Messages::default(), 0);
            for part in bytes.chunks(step) {
                messages.read(part);
                at += part.len();
                assert_eq!(messages.unfinished, expected(at), "{step} {at}");
            }
        }
    }

    fn arriving(
        parts: Vec<Vec<u8>>,
        share: &Share,
    ) -> Arriving<impl Body<Data = Bytes, Error = Infallible> + Unpin + use<>> {
        let frames = parts.into_iter().map(|part| Ok(Frame::data(Bytes::from(part))));
        Arriving::new(StreamBody::new(futures_util::stream::iter(frames)), share)
    }

    #[tokio::test]
    async fn a_connection_holds_a_quarter_and_all_together_the_whole() {
        let bound = Bound::new("grpc_unfinished_bytes_max", 400);
        let half = || vec![message(1000)[..85].to_vec(), message(10)];
        let mut kept = Vec::new();
        for connection in 0..5 {
            let share = bound.share();
            let mut first = arriving(half(), &share);
            let frame = first.frame().await.expect("there is one");
            let taken = frame.is_ok();
            assert!(taken, "connection {connection}");
            kept.push((share, first));
        }
        // 80 bytes each; a second message of the first connection is too much for it.
        let mut second = arriving(half(), &kept[0].0);
        let error = second.frame().await.expect("there is one").unwrap_err();
        let status = error.downcast_ref::<Status>().expect("it is a status");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("grpc_unfinished_bytes_max"), "{status:?}");
        drop(second);
        // 400 are there: not one byte more of anybody.
        let mut other = arriving(vec![message(2)[..6].to_vec()], &bound.share());
        assert!(other.frame().await.expect("there is one").is_err());
        drop(other);
        kept.pop();
        let mut other = arriving(half(), &bound.share());
        assert!(other.frame().await.expect("there is one").is_ok());
        drop((kept, other));
        assert_eq!(bound.used.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn whole_messages_of_any_size_pass() {
        let share = Bound::new("grpc_unfinished_bytes_max", 4).share();
        let body = arriving(vec![message(1000), message(0), [message(7), message(9)].concat()], &share);
        assert!(body.collect().await.is_ok());
    }
}
