//! Tells HTTP/2 from HTTP/1.1 by the first bytes of a connection, then limits how much one poll may read. What begins as
//! neither is rejected at its first byte.

use std::{
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::accept::AcceptError;
use crate::metrics::CloseReason;

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most bytes that one poll of a connection reads. Without it, a flood of small frames would keep a thread to
/// itself.
const READ_BUDGET_BYTES: usize = 8 * 1024;

/// The bytes that a connection has read in the current poll. The task that polls the connection resets it
/// first, since one poll may read many times.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadBudget(Arc<AtomicUsize>);

impl ReadBudget {
    /// Begins a poll.
    pub(super) fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

/// A connection whose first bytes were read. Reading from it begins with them again.
pub(super) struct PrefacedStream<T> {
    /// What the first bytes are of.
    pub(super) version: HttpVersion,
    /// The first bytes, and those of them that are to be read again.
    read: [u8; PREFACE.len()],
    unread: Range<usize>,
    budget: ReadBudget,
    stream: T,
}

/// Reads the first bytes: the preface of HTTP/2, or as many as tell that they are of HTTP/1.1.
///
/// # Errors
///
/// The client sends other bytes, or is gone.
pub(super) async fn read_preface<T: AsyncRead + Unpin>(
    mut stream: T,
) -> Result<PrefacedStream<T>, AcceptError> {
    let (mut read, mut length) = ([0; PREFACE.len()], 0);
    let version = loop {
        let more = stream.read(&mut read[length..]).await?;
        if more == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        length += more;
        if read[..length] != PREFACE[..length] {
            // Every method of HTTP is in capital letters.
            if !read[0].is_ascii_uppercase() {
                return Err(AcceptError::new(CloseReason::NotHttp, "it does not begin as HTTP does"));
            }
            break HttpVersion::Http1;
        }
        if length == PREFACE.len() {
            break HttpVersion::Http2;
        }
    };
    Ok(PrefacedStream { version, read, unread: 0..length, budget: ReadBudget::default(), stream })
}

impl<T: AsyncRead + Unpin> PrefacedStream<T> {
    /// The budget that the polling task resets.
    pub(super) fn budget(&self) -> ReadBudget {
        self.budget.clone()
    }

    fn poll_within_budget(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.budget.0.load(Relaxed) >= READ_BUDGET_BYTES {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.budget.0.fetch_add(buffer.filled().len() - before, Relaxed);
        polled
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for PrefacedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return self.poll_within_budget(context, buffer);
        }
        let begin = self.unread.start;
        let end = self.unread.end.min(begin + buffer.remaining());
        buffer.put_slice(&self.read[begin..end]);
        self.unread.start = end;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for PrefacedStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
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
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
