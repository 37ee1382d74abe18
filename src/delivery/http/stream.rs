//! A connection to an endpoint for hyper: plain TCP or TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{
    connection::{TlsFailure, Transport},
    proxy::Forwarding,
};
use crate::metrics::InFlightGuard;

/// A connection that the metrics count.
pub(crate) struct Stream<T> {
    inner: TokioIo<Either<T, Box<TlsStream<T>>>>,
    is_http2: bool,
    forwarding: Option<Forwarding>,
    tls_failure: TlsFailure,
    _opened: InFlightGuard,
}

impl<T> Stream<T> {
    /// A connection to an http endpoint, or to a proxy that forwards requests to it.
    pub(crate) fn plain(stream: T, forwarding: Option<Forwarding>, opened: InFlightGuard) -> Self {
        Self {
            inner: TokioIo::new(Either::Left(stream)),
            is_http2: false,
            forwarding,
            tls_failure: TlsFailure::default(),
            _opened: opened,
        }
    }

    /// A connection to an https endpoint.
    pub(crate) fn secured(stream: TlsStream<T>, opened: InFlightGuard) -> Self {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Self {
            inner: TokioIo::new(Either::Right(Box::new(stream))),
            is_http2,
            forwarding: None,
            tls_failure: TlsFailure::default(),
            _opened: opened,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for Stream<T> {
    fn is_http2(&self) -> bool {
        self.is_http2
    }

    fn forwarding(&self) -> Option<&Forwarding> {
        self.forwarding.as_ref()
    }

    fn tls_failure(&self) -> &TlsFailure {
        &self.tls_failure
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Read for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read
            && let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            // Keep the first error.
            drop(self.tls_failure.set(tls.clone()));
        }
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Write for Stream<T> {
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
