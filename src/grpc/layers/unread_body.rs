//! The rest of a request's body that nobody read, over HTTP/1.1. A server that responds and closes while its client still
//! sends takes the response from it; so the rest is read and dropped before the response goes out, within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Version, header::EXPECT};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tonic::{Status, body::Body};

/// Gets the body back once the service has dropped it.
pub(super) struct UnreadBody {
    rest: oneshot::Receiver<Body>,
    bytes_max: u64,
}

impl UnreadBody {
    /// Lends the body of a request to a service; `None` if its rest needs no reading: over HTTP/2 a stream ends by itself,
    /// and a client that waits for 100 has sent nothing. Of longer bodies than `bytes_max` nothing is read.
    pub(super) fn lend(request: Request<Body>, bytes_max: u64) -> (Request<Body>, Option<Self>) {
        let is_http1 = request.version() != Version::HTTP_2;
        if !is_http1 || request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
            return (request, None);
        }
        let (back, rest) = oneshot::channel();
        let request = request.map(|body| Body::new(LentBody { body: Some(body), back: Some(back) }));
        (request, Some(Self { rest, bytes_max }))
    }

    /// Reads and drops the rest. Ends early at an error, such as that of a message that takes too long.
    pub(super) async fn drop_rest(mut self) {
        let Ok(mut body) = self.rest.try_recv() else { return };
        if body.size_hint().lower() > self.bytes_max {
            return;
        }
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len) as u64;
            if read > self.bytes_max {
                return;
            }
        }
    }
}

/// A body that comes back when it is dropped before its end.
struct LentBody {
    body: Option<Body>,
    back: Option<oneshot::Sender<Body>>,
}

impl LentBody {
    fn body(&self) -> &Body {
        self.body.as_ref().expect("it is there until this is dropped")
    }
}

impl HttpBody for LentBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let body = self.body.as_mut().expect("it is there until this is dropped");
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(Some(Err(_)) | None)) {
            // Nothing comes after it.
            self.back = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}

impl Drop for LentBody {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // Nobody waits for it if the call was cancelled.
            drop(back.send(body));
        }
    }
}
