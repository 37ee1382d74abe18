//! Checks the HTTP/2 connection preface, then limits how much one poll may read. The first byte that differs
//! from the preface rejects the connection.

use std::{
    io::{self, IoSlice},
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

/// A connection whose preface was checked. Reading from it begins with the preface again.
pub(super) struct PrefacedStream<T> {
    /// The rest of the preface that is to be read again.
    unread: &'static [u8],
    budget: ReadBudget,
    stream: T,
}

/// Reads the preface.
///
/// # Errors
///
/// The client sends other bytes, or is gone.
pub(super) async fn read_preface<T: AsyncRead + Unpin>(
    mut stream: T,
) -> Result<PrefacedStream<T>, AcceptError> {
    let (mut read, mut length) = ([0; PREFACE.len()], 0);
    while length < PREFACE.len() {
        let more = stream.read(&mut read[length..]).await?;
        if more == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        length += more;
        if read[..length] != PREFACE[..length] {
            return Err(AcceptError::new(CloseReason::NotHttp2, "it does not begin with the HTTP/2 preface"));
        }
    }
    Ok(PrefacedStream { unread: PREFACE, budget: ReadBudget::default(), stream })
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
        let (now, later) = self.unread.split_at(self.unread.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.unread = later;
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
