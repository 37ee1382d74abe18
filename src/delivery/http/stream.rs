//! A connection to an endpoint for hyper: plain TCP or TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{
    connection::{Reads, Transport},
    proxy::Forwarding,
};
use crate::metrics::InFlightGuard;

/// A connection for hyper.
pub(crate) type Stream<T> = TokioIo<Socket<T>>;

/// A connection that the metrics count, and whose reads are noted.
pub(crate) struct Socket<T> {
    inner: Either<T, Box<TlsStream<T>>>,
    is_http2: bool,
    forwarding: Option<Forwarding>,
    reads: Arc<Reads>,
    _opened: InFlightGuard,
}

impl<T> Socket<T> {
    /// A connection to an http endpoint, or to a proxy that forwards requests to it.
    pub(crate) fn plain(stream: T, forwarding: Option<Forwarding>, opened: InFlightGuard) -> Stream<T> {
        TokioIo::new(Self {
            inner: Either::Left(stream),
            is_http2: false,
            forwarding,
            reads: Arc::default(),
            _opened: opened,
        })
    }

    /// A connection to an https endpoint.
    pub(crate) fn secured(stream: TlsStream<T>, opened: InFlightGuard) -> Stream<T> {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        TokioIo::new(Self {
            inner: Either::Right(Box::new(stream)),
            is_http2,
            forwarding: None,
            reads: Arc::default(),
            _opened: opened,
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for Stream<T> {
    fn is_http2(&self) -> bool {
        self.inner().is_http2
    }

    fn forwarding(&self) -> Option<&Forwarding> {
        self.inner().forwarding.as_ref()
    }

    fn reads(&self) -> &Arc<Reads> {
        &self.inner().reads
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.reads.add(buffer.filled().len() - before);
        if let Poll::Ready(Err(error)) = &read
            && let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            self.reads.failed(tls);
        }
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
