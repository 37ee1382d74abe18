//! HTTP/1 connections without a task of their own: the request drives its connection.
//!
//! A task per connection would wake for every response only to wake the attempt that waits for it. Nothing
//! drives an idle connection; the pool checks those at intervals.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
    rt::{Read, Write},
};

use super::{
    connection::{Reads, Transport},
    lifetime::Lifetime,
    proxy::Forwarding,
};

/// A connection without a request under way.
pub(crate) struct Http1<T: Read + Write + Unpin> {
    sender: http1::SendRequest<Full<Bytes>>,
    connection: http1::Connection<T, Full<Bytes>>,
    /// Origin of the requests.
    pub(crate) origin: Arc<str>,
    /// Value of the `Host` header.
    pub(crate) host: HeaderValue,
    /// How to send requests if the other end is a proxy that forwards them.
    pub(crate) forwarding: Option<Forwarding>,
    /// The other end.
    pub(crate) remote: Option<SocketAddr>,
    /// What was read from it so far.
    reads: Arc<Reads>,
    /// How long it is used.
    pub(crate) lifetime: Lifetime,
    /// The connection has ended and must not be polled any more.
    is_over: bool,
}

/// Why a request got no response.
pub(crate) struct Unanswered {
    pub(crate) error: TrySendError<Request<Full<Bytes>>>,
    /// Not one byte of a response was read.
    pub(crate) is_unread: bool,
}

impl<T: Transport> Http1<T> {
    /// A connection to an origin over a new stream.
    pub(crate) async fn new(
        builder: &http1::Builder,
        stream: T,
        origin: Arc<str>,
        host: HeaderValue,
        remote: Option<SocketAddr>,
        lifetime: Lifetime,
    ) -> hyper::Result<Self> {
        let (forwarding, reads) = (stream.forwarding().cloned(), Arc::clone(stream.reads()));
        let (sender, connection) = builder.handshake(stream).await?;
        Ok(Self { sender, connection, origin, host, forwarding, remote, reads, lifetime, is_over: false })
    }
}

impl<T: Read + Write + Unpin + 'static> Http1<T> {
    /// Whether it seems able to take a request, and may. The peer may close it at any moment.
    pub(crate) fn is_usable(&mut self) -> bool {
        // Nothing waits, so there is nothing to wake. This also drops the waker of the previous user.
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.is_over && self.sender.is_ready() && !self.lifetime.is_over()
    }

    /// Sends a request and waits for the head of the response. Returns the connection with the response.
    pub(crate) async fn send(
        mut self: Box<Self>,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Box<Self>), Unanswered> {
        let before = self.reads.bytes();
        let mut responding = pin!(self.sender.try_send_request(request));
        let response = poll_fn(|context| {
            self.drive(context);
            responding.as_mut().poll(context)
        });
        match response.await {
            Ok(response) => Ok((response, self)),
            Err(error) => Err(Unanswered { error, is_unread: self.reads.bytes() == before }),
        }
    }

    /// Reads and writes as much as possible. The response reports why a connection ended.
    fn drive(&mut self, context: &mut Context<'_>) {
        if !self.is_over {
            self.is_over = Pin::new(&mut self.connection).poll(context).is_ready();
        }
    }
}

/// Takes back connections that can be used again.
pub(crate) trait Recycle<T: Read + Write + Unpin>: Send {
    /// Takes a connection back.
    fn recycle(self, connection: Box<Http1<T>>);
}

/// The body of a response, and the connection that it arrives on.
pub(crate) struct PooledBody<T: Read + Write + Unpin, H> {
    incoming: Incoming,
    /// `None` once the connection was returned to the pool, or if another task drives it.
    driven: Option<(Box<Http1<T>>, H)>,
}

impl<T, H> PooledBody<T, H>
where
    T: Read + Write + Unpin + 'static,
    H: Recycle<T>,
{
    /// A body that drives its connection to the end of the body, then returns it to `pool`.
    pub(crate) fn new(incoming: Incoming, connection: Box<Http1<T>>, pool: H) -> Self {
        Self { incoming, driven: Some((connection, pool)) }
    }

    /// A body on an HTTP/2 connection, which has a task of its own.
    pub(crate) fn multiplexed(incoming: Incoming) -> Self {
        Self { incoming, driven: None }
    }

    fn end(&mut self) {
        if let Some((mut connection, pool)) = self.driven.take()
            && connection.is_usable()
        {
            pool.recycle(connection);
        }
    }
}

impl<T, H> Body for PooledBody<T, H>
where
    T: Read + Write + Unpin + 'static,
    H: Recycle<T> + Unpin,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut polled = Pin::new(&mut self.incoming).poll_frame(context);
        if polled.is_pending()
            && let Some((connection, _)) = &mut self.driven
        {
            connection.drive(context);
            // The connection may have read a frame.
            polled = Pin::new(&mut self.incoming).poll_frame(context);
        }
        if let Poll::Ready(None) = polled {
            self.end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // Not before the body was polled to its end, because that returns the connection.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
