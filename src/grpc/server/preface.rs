//! The words that every HTTP/2 client begins with, and what is read after them, in turns. Whoever begins otherwise is told
//! apart by the first byte that differs.

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

use super::accept::NotOpened;
use crate::metrics::CloseReason;

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// So much is read of a connection before the others have their turn. A flood of small frames would keep its thread to itself.
const TURN_BYTES: usize = 8 * 1024;

/// What a connection has read in its turn, in bytes. Whoever polls the connection begins each turn: what is polled may ask to
/// read many times in one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Arc<AtomicUsize>);

impl Turn {
    /// The others have had theirs.
    pub(crate) fn begin(&self) {
        self.0.store(0, Relaxed);
    }
}

/// A connection on which the preface was read, and is there to be read again.
pub(crate) struct Begun<T> {
    unread: &'static [u8],
    /// What was read since the others had their turn.
    turn: Turn,
    stream: T,
}

/// Reads the preface.
///
/// # Errors
///
/// The client begins with something else, or is gone.
pub(crate) async fn begun<T: AsyncRead + Unpin>(mut stream: T) -> Result<Begun<T>, NotOpened> {
    let (mut read, mut length) = ([0; PREFACE.len()], 0);
    while length < PREFACE.len() {
        let more = stream.read(&mut read[length..]).await?;
        if more == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        length += more;
        if read[..length] != PREFACE[..length] {
            return Err(NotOpened::because(CloseReason::NotHttp2, "it does not begin as HTTP/2 does"));
        }
    }
    Ok(Begun { unread: PREFACE, turn: Turn::default(), stream })
}

impl<T: AsyncRead + Unpin> Begun<T> {
    /// Its turn.
    pub(crate) fn turn(&self) -> Turn {
        self.turn.clone()
    }

    fn poll_in_turn(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turn.0.load(Relaxed) >= TURN_BYTES {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.turn.0.fetch_add(buffer.filled().len() - before, Relaxed);
        polled
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Begun<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return self.poll_in_turn(context, buffer);
        }
        let (now, later) = self.unread.split_at(self.unread.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Begun<T> {
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
