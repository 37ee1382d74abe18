//! A response stream that ends when its caller's token does.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::grant;

/// The body of a streaming response. Ends with UNAUTHENTICATED once the token has ended, even if more
/// messages follow, and reads nothing more from the caller then.
pub(super) struct RevocableBody {
    body: Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    finished: bool,
}

impl RevocableBody {
    /// Forwards `body` until `ended` is cancelled.
    pub(super) fn wrap(body: Body, ended: CancellationToken) -> Body {
        Body::new(Self { body, ended: Box::pin(ended.cancelled_owned()), finished: false })
    }
}

impl http_body::Body for RevocableBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.finished {
            return Poll::Ready(None);
        }
        if self.ended.as_mut().poll(context).is_ready() {
            self.finished = true;
            return Poll::Ready(Some(Ok(Frame::trailers(final_trailers()))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }
}

fn final_trailers() -> HeaderMap {
    let mut headers = Status::from(grant::ended()).into_http::<()>().into_parts().0.headers;
    headers.remove(CONTENT_TYPE);
    headers
}
