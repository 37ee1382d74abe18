//! HTTP/1 connections that have no task of their own: whoever uses one drives it.
//!
//! A task per connection would be woken for every answer, only to wake the attempt that waits for it. Nobody drives a
//! connection that is kept unused; the pool looks at those from time to time.

use std::{
    future::{Future, poll_fn},
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

use super::proxy::Forwarding;

/// A connection that no request is under way on.
pub(crate) struct Http1<T: Read + Write + Unpin> {
    sender: http1::SendRequest<Full<Bytes>>,
    connection: http1::Connection<T, Full<Bytes>>,
    /// What it leads to.
    pub(crate) origin: Arc<str>,
    /// How the other end is called in requests.
    pub(crate) host: HeaderValue,
    /// How requests are put, where the other end is a proxy that passes them on.
    pub(crate) forwarding: Option<Forwarding>,
    /// The connection has ended, and is not to be driven any more.
    is_over: bool,
}

impl<T: Read + Write + Unpin + 'static> Http1<T> {
    pub(crate) async fn new(
        builder: &http1::Builder,
        stream: T,
        origin: Arc<str>,
        host: HeaderValue,
    ) -> hyper::Result<Self> {
        let (sender, connection) = builder.handshake(stream).await?;
        Ok(Self { sender, connection, origin, host, forwarding: None, is_over: false })
    }

    /// Whether it can take a request, as far as is known: the other end may have closed it in this moment.
    pub(crate) fn is_usable(&mut self) -> bool {
        // Nothing is waited for, so there is nobody to wake. Forgets whoever used it before, too.
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.is_over && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer. The connection comes back with the answer.
    pub(crate) async fn send(
        mut self: Box<Self>,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Box<Self>), TrySendError<Request<Full<Bytes>>>> {
        let mut answering = pin!(self.sender.try_send_request(request));
        let answer = poll_fn(|context| {
            self.drive(context);
            answering.as_mut().poll(context)
        });
        let response = answer.await?;
        Ok((response, self))
    }

    /// Reads and writes what it can. Why a connection ended, the answer says.
    fn drive(&mut self, context: &mut Context<'_>) {
        if !self.is_over {
            self.is_over = Pin::new(&mut self.connection).poll(context).is_ready();
        }
    }
}

/// What takes back connections that can be used again.
pub(crate) trait TakesBack<T: Read + Write + Unpin>: Send {
    /// Takes one back.
    fn take_back(self, connection: Box<Http1<T>>);
}

/// The body of an answer, and the connection that it comes on.
pub(crate) struct DrivenBody<T: Read + Write + Unpin, H> {
    incoming: Incoming,
    /// `None` once the connection has been given back, or if somebody else drives it.
    driven: Option<(Box<Http1<T>>, H)>,
}

impl<T, H> DrivenBody<T, H>
where
    T: Read + Write + Unpin + 'static,
    H: TakesBack<T>,
{
    /// A body that drives its connection until it has ended, and gives it to `home` then.
    pub(crate) fn new(incoming: Incoming, connection: Box<Http1<T>>, home: H) -> Self {
        Self { incoming, driven: Some((connection, home)) }
    }

    /// A body whose connection is driven by somebody else.
    pub(crate) fn of_shared(incoming: Incoming) -> Self {
        Self { incoming, driven: None }
    }

    fn end(&mut self) {
        if let Some((mut connection, home)) = self.driven.take()
            && connection.is_usable()
        {
            home.take_back(connection);
        }
    }
}

impl<T, H> Body for DrivenBody<T, H>
where
    T: Read + Write + Unpin + 'static,
    H: TakesBack<T> + Unpin,
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
            // What the connection read is there now.
            polled = Pin::new(&mut self.incoming).poll_frame(context);
        }
        if let Poll::Ready(None) = polled {
            self.end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // Never before it was polled to its end, since the connection is given back there.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
