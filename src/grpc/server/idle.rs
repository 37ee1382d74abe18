//! What happens on a connection: whether there are calls, and whether their answers are taken.

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

use super::buffer_limits::Held;

/// A time span is measured in so many looks.
const LOOKS: usize = 4;
/// Turns that are kept apart: those of a span, the one that is over after it, and one in between.
const TURNS: usize = LOOKS + 2;
/// Parts of an answer up to this size are not counted: those of all streams of a connection together are few megabytes.
const SMALL_BYTES: usize = 16 * 1024;

/// What happens on one connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Calls that have ever begun.
    begun: AtomicUsize,
    /// Calls whose answer has not ended.
    under_way: AtomicUsize,
    /// Counts up, [`LOOKS`] times in the time that an answer may wait.
    turn: AtomicUsize,
    /// Answers that wait for their client to take more, by the turn in which they began to.
    waiting: [AtomicUsize; TURNS],
}

impl Activity {
    /// A call begins.
    pub(crate) fn call(self: &Arc<Self>) -> Call {
        self.begun.fetch_add(1, Relaxed);
        self.under_way.fetch_add(1, Relaxed);
        Call { activity: Arc::clone(self), waits_since: None }
    }

    /// Whether there is no call.
    pub(crate) fn is_quiet(&self) -> bool {
        self.under_way.load(Acquire) == 0
    }

    /// Ends when there was no call for so long.
    pub(crate) async fn idle(&self, limit: Duration) {
        let (mut seen, mut quiet_looks) = (self.begun.load(Relaxed), 0);
        while quiet_looks < LOOKS {
            tokio::time::sleep(step(limit)).await;
            let begun = self.begun.load(Relaxed);
            quiet_looks = if self.is_quiet() && begun == seen { quiet_looks + 1 } else { 0 };
            seen = begun;
        }
    }

    /// Ends when an answer has waited for so long.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            tokio::time::sleep(step(limit)).await;
            let turn = self.turn.load(Relaxed) + 1;
            // Those of the turn that comes next began to wait so many turns before this one.
            if self.waiting[(turn + 1) % TURNS].load(Acquire) > 0 {
                return;
            }
            self.turn.store(turn, Release);
        }
    }
}

fn step(limit: Duration) -> Duration {
    limit / u32::try_from(LOOKS).expect("it is small")
}

/// A call, until its answer has ended.
#[derive(Debug)]
pub(crate) struct Call {
    activity: Arc<Activity>,
    /// The turn in which the answer began to wait for its client.
    waits_since: Option<usize>,
}

impl Call {
    /// The answer begins; `held` counts what its client has not taken. It is refused if that is too much.
    pub(crate) async fn answered<B>(self, answer: Response<B>, held: Held) -> Response<Answer<B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (head, mut body) = answer.into_parts();
        // What there is already is taken out of the body at once: then its size is known, and what it was made of is gone.
        let first = if body.is_end_stream() {
            Poll::Pending
        } else {
            poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await
        };
        let first = match first {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        };
        let mut answer = Answer { body: Some(body), first, held, call: self };
        if let Some(Some(Ok(frame))) = &answer.first {
            answer.held.set(counted(frame));
            if counted(frame) > 0
                && let Err(status) = answer.held.check()
            {
                answer.held.set(0);
                (answer.body, answer.first) = (None, None);
                return status.into_http::<()>().map(|()| answer);
            }
        }
        answer.call.wait();
        Response::from_parts(head, answer)
    }

    fn wait(&mut self) {
        let turn = self.activity.turn.load(Acquire) % TURNS;
        self.activity.waiting[turn].fetch_add(1, Release);
        self.waits_since = Some(turn);
    }

    fn go_on(&mut self) {
        if let Some(turn) = self.waits_since.take() {
            self.activity.waiting[turn].fetch_sub(1, Release);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.go_on();
        self.activity.under_way.fetch_sub(1, Release);
    }
}

/// What a body comes to when it is asked for more.
type Asked<B> = Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

/// The body of an answer. It is asked for more as soon as its client has room for it.
pub(crate) struct Answer<B: Body> {
    /// None for an answer that was refused.
    body: Option<B>,
    /// What was taken out of the body before anybody asked.
    first: Option<Asked<B>>,
    held: Held,
    call: Call,
}

impl<B: Body<Data = Bytes, Error: Unpin> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        this.call.go_on();
        let polled = match (this.first.take(), &mut this.body) {
            (Some(first), _) => Poll::Ready(first),
            (None, Some(body)) => Pin::new(body).poll_frame(context),
            (None, None) => Poll::Ready(None),
        };
        let bytes = match &polled {
            Poll::Ready(Some(Ok(frame))) => counted(frame),
            _ => 0,
        };
        this.held.set(bytes);
        if matches!(polled, Poll::Ready(Some(_))) {
            this.call.wait();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.first {
            Some(first) => first.is_none(),
            None => self.body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.first, &self.body) {
            (None, Some(body)) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// The bytes of a part of an answer, as far as they count.
fn counted(frame: &Frame<Bytes>) -> usize {
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
    use crate::grpc::server::buffer_limits::Bound;

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

    fn bound() -> Bound {
        Bound::new("grpc_unread_bytes_max", 400_000)
    }

    async fn answered<B: Body<Data = Bytes, Error = Infallible> + Unpin>(
        call: Call,
        body: B,
        bound: &Bound,
    ) -> Answer<B> {
        call.answered(Response::new(body), bound.share().held()).await.into_body()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_calls_is_idle_after_the_time_and_one_with_a_call_never() {
        let activity = Arc::new(Activity::default());
        assert_eq!(took(activity.idle(LIMIT)).await, Some(LIMIT));
        let call = activity.call();
        assert_eq!(took(activity.idle(LIMIT)).await, None);
        drop(call);
        assert_eq!(took(activity.idle(LIMIT)).await, Some(LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn short_calls_in_between_count() {
        let activity = Arc::new(Activity::default());
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
    async fn an_answer_that_is_not_taken_is_noticed_and_one_that_has_nothing_to_say_is_not() {
        let activity = Arc::new(Activity::default());
        let (sender, body) = body();
        let mut answer = answered(activity.call(), body, &bound()).await;
        let within = LIMIT..=LIMIT * 5 / 4;
        let waited = took(activity.stalled(LIMIT)).await.expect("nobody has asked for its first part");
        assert!(within.contains(&waited), "{waited:?}");

        let activity = Arc::new(Activity::default());
        answer.call = activity.call();
        assert!(answer.frame().now_or_never().is_none());
        assert_eq!(took(activity.stalled(LIMIT)).await, None, "there was nothing to take");
        sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).expect("it is there");
        assert!(answer.frame().now_or_never().is_some());
        let waited = took(activity.stalled(LIMIT)).await.expect("it waits for its client");
        assert!(within.contains(&waited), "{waited:?}");
        drop(answer);
        assert_eq!(took(activity.stalled(LIMIT)).await, None, "it is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_slowly_lives() {
        let activity = Arc::new(Activity::default());
        let (sender, body) = body();
        let mut answer = answered(activity.call(), body, &bound()).await;
        let taking = tokio::spawn(async move {
            for _ in 0..8 {
                sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).expect("it is there");
                tokio::time::sleep(LIMIT * 9 / 10).await;
                answer.frame().await.expect("there is one").expect("it is whole");
            }
            drop(answer);
        });
        assert_eq!(took(activity.stalled(LIMIT)).await, None);
        taking.await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_takes_is_bounded_and_what_is_taken_counts_no_more() {
        let (activity, bound) = (Arc::new(Activity::default()), bound());
        let share = bound.share();
        let answer = |bytes: usize| {
            let body = http_body_util::Full::new(Bytes::from(vec![7; bytes]));
            activity.call().answered(Response::new(body), share.held())
        };
        let first = answer(90_000).await;
        let refused = answer(20_000).await;
        assert_eq!(refused.headers()["grpc-status"], "8");
        assert!(refused.body().is_end_stream());
        let small = answer(SMALL_BYTES).await;
        assert!(small.headers().is_empty(), "small ones always pass");
        assert_eq!(first.into_body().collect().await.unwrap().to_bytes().len(), 90_000);
        let second = answer(20_000).await;
        assert!(second.headers().is_empty(), "the first was taken");
        drop((second, small, refused));
        assert!(activity.is_quiet());
    }
}
