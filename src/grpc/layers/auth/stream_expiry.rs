//! An answer that ends with its caller's token.

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

/// A stream of answers that ends with UNAUTHENTICATED once the token does, whatever it still has to tell, and takes nothing
/// more from the caller.
pub(super) struct Ending {
    body: Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
}

impl Ending {
    /// `body`, until `ended`.
    pub(super) fn of(body: Body, ended: CancellationToken) -> Body {
        Body::new(Self { body, ended: Box::pin(ended.cancelled_owned()), over: false })
    }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.ended.as_mut().poll(context).is_ready() {
            self.over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(farewell()))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }
}

fn farewell() -> HeaderMap {
    let mut headers = Status::from(grant::ended()).into_http::<()>().into_parts().0.headers;
    headers.remove(CONTENT_TYPE);
    headers
}
