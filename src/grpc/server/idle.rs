//! Finds idle connections, and connections whose client does not read its responses.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Response;
use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::buffer_limits::ByteBudget;
use crate::{
    grpc::layers::{call_share::CallShare, protocol::Protocol},
    limits::{CallUnderWay, ConnectionState, Permit},
};

/// A timeout is measured in this many ticks.
const TICKS_PER_TIMEOUT: usize = 4;
/// Slots of the timer wheel: one timeout's worth, plus the expired one and a spare.
const WHEEL_SLOTS: usize = TICKS_PER_TIMEOUT + 2;
/// Frames up to this size are not counted: those of all streams of a connection together are a few megabytes.
const SMALL_BYTES: usize = 16 * 1024;

/// The activity of one connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionActivity {
    /// Calls that have ever begun.
    begun: AtomicUsize,
    /// Calls whose response has not ended.
    in_flight: AtomicUsize,
    /// The current tick. There are [`TICKS_PER_TIMEOUT`] in the longest time that a response may wait.
    tick: AtomicUsize,
    /// Responses that wait for their client to read, by the slot of the tick in which they began to wait.
    waiting: [AtomicUsize; WHEEL_SLOTS],
    /// What the listener knows of the connection.
    state: Option<ConnectionState>,
}

impl ConnectionActivity {
    /// Of a connection that a listener has accepted, if one has.
    pub(super) fn new(state: Option<ConnectionState>) -> Self {
        Self { state, ..Self::default() }
    }

    /// Begins a call.
    pub(super) fn call(self: &Arc<Self>) -> CallGuard {
        self.begun.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        let under_way = self.state.as_ref().map(ConnectionState::call);
        CallGuard { activity: Arc::clone(self), waits_in: None, _under_way: under_way }
    }

    /// Whether no call is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight.load(Acquire) == 0
    }

    /// Completes once there was no call for `limit`.
    pub(super) async fn idle(&self, limit: Duration) {
        let (mut seen, mut quiet_ticks) = (self.begun.load(Relaxed), 0);
        while quiet_ticks < TICKS_PER_TIMEOUT {
            tokio::time::sleep(tick_length(limit)).await;
            let begun = self.begun.load(Relaxed);
            quiet_ticks = if self.is_quiet() && begun == seen { quiet_ticks + 1 } else { 0 };
            seen = begun;
        }
    }

    /// Completes once a response has waited for `limit`.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            tokio::time::sleep(tick_length(limit)).await;
            let tick = self.tick.load(Relaxed) + 1;
            // The slot that is used next: its responses began to wait a whole timeout before this tick.
            if self.waiting[(tick + 1) % WHEEL_SLOTS].load(Acquire) > 0 {
                return;
            }
            self.tick.store(tick, Release);
        }
    }
}

fn tick_length(limit: Duration) -> Duration {
    limit / u32::try_from(TICKS_PER_TIMEOUT).expect("it is small")
}

/// A call in flight, until its response has ended.
#[derive(Debug)]
pub(super) struct CallGuard {
    activity: Arc<ConnectionActivity>,
    /// The slot in which the response waits for its client.
    waits_in: Option<usize>,
    _under_way: Option<CallUnderWay>,
}

impl CallGuard {
    /// Tracks the body of the response to `call`. `unread` reserves the bytes that the client has not read; if
    /// they do not fit, the response becomes an error in the protocol of the call.
    pub(super) async fn track<B>(
        self,
        response: Response<B>,
        unread: &ByteBudget,
        call: &CallShare,
        protocol: Option<Protocol>,
    ) -> Response<TrackedBody<B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (head, mut body) = response.into_parts();
        // Takes the first frame out of the body at once: its size is known then, and its message is freed.
        let first = if body.is_end_stream() {
            Poll::Pending
        } else {
            poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await
        };
        let first = match first {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        };
        let reserved = unread.reservation(call);
        let mut tracked =
            TrackedBody { body: Some(body), first, has_data: false, unread: reserved, call: self };
        if let Some(Some(Ok(frame))) = &tracked.first {
            let bytes = counted_bytes(frame);
            if bytes > 0
                && let Err(status) = unread.resize(&mut tracked.unread, bytes)
            {
                let (head, text) = protocol.unwrap_or(Protocol::Grpc).error(status).into_parts();
                let text = Some(text).filter(|text| !text.is_empty());
                (tracked.body, tracked.first) = (None, text.map(|text| Some(Ok(Frame::data(text)))));
                return Response::from_parts(head, tracked);
            }
        }
        tracked.call.begin_wait();
        Response::from_parts(head, tracked)
    }

    fn begin_wait(&mut self) {
        let slot = self.activity.tick.load(Acquire) % WHEEL_SLOTS;
        self.activity.waiting[slot].fetch_add(1, Release);
        self.waits_in = Some(slot);
    }

    fn end_wait(&mut self) {
        if let Some(slot) = self.waits_in.take() {
            self.activity.waiting[slot].fetch_sub(1, Release);
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.end_wait();
        self.activity.in_flight.fetch_sub(1, Release);
    }
}

/// The result of polling a body for a frame.
type PolledFrame<B> = Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

/// The body of a response. HTTP polls it for more as soon as the client has room.
pub(super) struct TrackedBody<B: Body> {
    /// `None` if the response was replaced by an error.
    body: Option<B>,
    /// The frame that was taken out of the body before HTTP/2 polled for it.
    first: Option<PolledFrame<B>>,
    /// Whether a frame with data was polled. From then on only the poll after the last frame ends the body: HTTP polls it
    /// once the client has room, and until then the response waits.
    has_data: bool,
    unread: Permit,
    call: CallGuard,
}

impl<B: Body<Data = Bytes, Error: Unpin> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        this.call.end_wait();
        let polled = match (this.first.take(), &mut this.body) {
            (Some(first), _) => Poll::Ready(first),
            (None, Some(body)) => Pin::new(body).poll_frame(context),
            (None, None) => Poll::Ready(None),
        };
        let bytes = match &polled {
            Poll::Ready(Some(Ok(frame))) => counted_bytes(frame),
            _ => 0,
        };
        this.has_data |= matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data());
        this.unread.resize(bytes);
        if matches!(polled, Poll::Ready(Some(_))) {
            this.call.begin_wait();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.first {
            Some(first) => first.is_none(),
            None => !self.has_data && self.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.first, &self.body) {
            (None, Some(body)) => body.size_hint(),
            (Some(Some(Ok(frame))), _) if self.has_ended() => {
                SizeHint::with_exact(frame.data_ref().map_or(0, Bytes::len) as u64)
            }
            _ => SizeHint::default(),
        }
    }
}

impl<B: Body> TrackedBody<B> {
    /// Whether nothing comes after what was polled so far.
    fn has_ended(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

/// The bytes of a frame; 0 for a small one.
fn counted_bytes(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map(Bytes::len).filter(|bytes| *bytes > SMALL_BYTES).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::FutureExt;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::{sync::mpsc, time::Instant};
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;
    use crate::{
        domain::time::UnixMicros,
        grpc::layers::call_share::ConnectionShare,
        limits::ShareKey,
        metrics::{CallRefused, Metrics},
    };

    const LIMIT: Duration = Duration::from_secs(60);

    /// How long `future` takes, to a minute in a quarter of it.
    async fn took(future: impl Future<Output = ()>) -> Option<Duration> {
        let begin = Instant::now();
        let ended = tokio::time::timeout(LIMIT * 10, future).await;
        ended.ok().map(|()| begin.elapsed())
    }

    fn body() -> (
        mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>,
        impl Body<Data = Bytes, Error = Infallible> + Unpin,
    ) {
        let (sender, frames) = mpsc::unbounded_channel();
        (sender, StreamBody::new(UnboundedReceiverStream::new(frames)))
    }

    fn budget() -> ByteBudget {
        let metrics = Metrics::new(UnixMicros(0));
        ByteBudget::new("grpc_unread_bytes_max", 400_000, CallRefused::UnreadBytes, metrics)
    }

    fn caller() -> CallShare {
        ConnectionShare::new(ShareKey::Local, None).call()
    }

    async fn tracked<B: Body<Data = Bytes, Error = Infallible> + Unpin>(
        call: CallGuard,
        body: B,
        budget: &ByteBudget,
    ) -> TrackedBody<B> {
        call.track(Response::new(body), budget, &caller(), Some(Protocol::Grpc)).await.into_body()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_calls_is_idle_after_the_time_and_one_with_a_call_never() {
        let activity = Arc::new(ConnectionActivity::default());
        assert_eq!(took(activity.idle(LIMIT)).await, Some(LIMIT));
        let call = activity.call();
        assert_eq!(took(activity.idle(LIMIT)).await, None);
        drop(call);
        assert_eq!(took(activity.idle(LIMIT)).await, Some(LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn short_calls_reset_the_idle_timeout() {
        let activity = Arc::new(ConnectionActivity::default());
        let calling = Arc::clone(&activity);
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(LIMIT * 9 / 10).await;
                drop(calling.call());
            }
        });
        let took = took(activity.idle(LIMIT)).await.expect("it ends after the last call");
        assert!((LIMIT * 11 / 2..LIMIT * 6).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_not_read_is_stalled_and_one_without_data_is_not() {
        let activity = Arc::new(ConnectionActivity::default());
        let (sender, body) = body();
        let mut response = tracked(activity.call(), body, &budget()).await;
        let within = LIMIT..=LIMIT * 5 / 4;
        let waited = took(activity.stalled(LIMIT)).await.expect("its first frame was not polled");
        assert!(within.contains(&waited), "{waited:?}");

        let activity = Arc::new(ConnectionActivity::default());
        response.call = activity.call();
        assert!(response.frame().now_or_never().is_none());
        assert_eq!(took(activity.stalled(LIMIT)).await, None, "there was nothing to read");
        sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).expect("it is there");
        assert!(response.frame().now_or_never().is_some());
        let waited = took(activity.stalled(LIMIT)).await.expect("it waits for its client");
        assert!(within.contains(&waited), "{waited:?}");
        drop(response);
        assert_eq!(took(activity.stalled(LIMIT)).await, None, "it is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_read_slowly_is_not_stalled() {
        let activity = Arc::new(ConnectionActivity::default());
        let (sender, body) = body();
        let mut response = tracked(activity.call(), body, &budget()).await;
        let taking = tokio::spawn(async move {
            for _ in 0..8 {
                sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).expect("it is there");
                tokio::time::sleep(LIMIT * 9 / 10).await;
                response.frame().await.expect("there is one").expect("it is whole");
            }
            drop(response);
        });
        assert_eq!(took(activity.stalled(LIMIT)).await, None);
        taking.await.unwrap();
    }

    #[tokio::test]
    async fn unread_responses_are_limited_and_read_ones_are_not_counted() {
        let (activity, budget) = (Arc::new(ConnectionActivity::default()), budget());
        let call = caller();
        let respond = |bytes: usize| {
            let body = http_body_util::Full::new(Bytes::from(vec![7; bytes]));
            activity.call().track(Response::new(body), &budget, &call, Some(Protocol::Grpc))
        };
        let first = respond(190_000).await;
        let call_of_json = Some(
            Protocol::of(
                &[(http::header::CONTENT_TYPE, "application/json".parse().unwrap())].into_iter().collect(),
            )
            .unwrap(),
        );
        let body = http_body_util::Full::new(Bytes::from(vec![7; 20_000]));
        let refused = activity.call().track(Response::new(body), &budget, &call, call_of_json).await;
        assert_eq!(refused.status(), 429);
        let text = refused.into_body().collect().await.unwrap().to_bytes();
        assert!(text.starts_with(br#"{"code":"resource_exhausted","message":"#), "{text:?}");
        let refused = respond(20_000).await;
        assert_eq!(refused.headers()["grpc-status"], "8");
        assert!(refused.body().is_end_stream());
        let small = respond(SMALL_BYTES).await;
        assert!(small.headers().is_empty(), "small ones always pass");
        assert_eq!(first.into_body().collect().await.unwrap().to_bytes().len(), 190_000);
        let second = respond(20_000).await;
        assert!(second.headers().is_empty(), "the first was read");
        drop((second, small, refused));
        assert!(activity.is_quiet());
    }
}
