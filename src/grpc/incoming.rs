//! Accepts connections: never more than a bound, never ending for an error, and each to be cut when the drain is over.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::metrics::{Open, Opened};

/// How long to wait after an accept that failed, for example since no file descriptor is free. Without it the loop would
/// spin until one is.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections that `accepted` yields, taken out at most `connections_max` at a time. Once `cut` is cancelled all of
/// them break.
pub(super) fn connections<T>(
    accepted: impl Stream<Item = T>,
    connections_max: usize,
    open: Open,
    cut: CancellationToken,
) -> impl Stream<Item = Result<Connection<T>, io::Error>> {
    let places = Arc::new(Semaphore::new(connections_max));
    stream::unfold((Box::pin(accepted), places, open, cut), async |(mut accepted, places, open, cut)| {
        let place = Arc::clone(&places).acquire_owned().await.expect("this semaphore is never closed");
        let stream = accepted.next().await?;
        let opened = open.one();
        let cut_off = Box::pin(cut.clone().cancelled_owned());
        let connection = Connection { stream, cut: cut_off, _place: place, _opened: opened };
        Some((Ok(connection), (accepted, places, open, cut)))
    })
}

/// What `listener` accepts. Each is accepted when it is asked for; those that are not wait in the listener's backlog.
pub(super) fn accepted(listener: TcpListener) -> impl Stream<Item = TcpStream> {
    stream::unfold(listener, async |listener| Some((accept(&listener).await, listener)))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => match stream.set_nodelay(true) {
                Ok(()) => return stream,
                // Gone before it was served.
                Err(error) => tracing::debug!(%error, "a connection broke as it was accepted"),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// An accepted connection. Takes up a place until it is dropped.
pub(super) struct Connection<T> {
    stream: T,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
    _opened: Opened,
}

impl<T> Connection<T> {
    fn poll_cut(&mut self, context: &mut Context<'_>) -> Result<(), io::Error> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has stopped"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl<T: Connected> Connected for Connection<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> T::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Reads alone look for the cut: a connection that is served always has one under way.
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
