//! One attempt: a tower stack that makes a POST and says what came of it.
//!
//! Every layer does one thing. Between attempts there is only the store: nothing here waits for another one.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, Sleep};
use tower::{Service, ServiceBuilder, layer::layer_fn, service_fn, util::BoxCloneSyncService};
use url::Position;

use super::{
    failure::Failure,
    pool::{AnswerBody, Connects, HttpClient},
};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, Outcome, RESPONSE_BYTES_KEPT},
        response,
        time::UnixMicros,
        webhook_headers,
    },
    event::webhook::{WebhookClient, WebhookRequest, webhook_id},
};

/// The stack. From the outside in: what stands further out sees everything that those within do.
///
/// Each layer is a function of what it stands around, so that the futures of all are one, and a POST is one task's. None
/// waits to be ready: the client always is.
pub(crate) fn webhook_client<C>(
    client: HttpClient<C>,
    default_timeout: Duration,
    response_bytes_max: usize,
    clock: Arc<dyn Clock>,
) -> WebhookClient
where
    C: Connects,
{
    let now = Arc::clone(&clock);
    let stack = ServiceBuilder::new()
        // Outermost: its clock covers everything, and whatever went wrong within becomes a value here.
        .layer(layer_fn(|inner| record(inner, Arc::clone(&now))))
        // Outside the deadline, which reaches it through the body: an answer that stops half-way keeps its status.
        .layer(layer_fn(|inner| read_answer(inner, response_bytes_max)))
        // Around everything that waits for the receiver, a second try included: it covers the attempt as a whole.
        .layer(layer_fn(|inner| deadline(inner, default_timeout)))
        // Around the assembly, so that a second try is signed with its own time.
        .layer(layer_fn(try_stale_again))
        // Innermost: the timestamp is that of the sending.
        .layer(layer_fn(move |client| assemble(client, Arc::clone(&clock))))
        .service(client);
    BoxCloneSyncService::new(stack)
}

/// A service that takes POSTs, as each layer is one and stands around one.
trait Posts<T, E>:
    Service<WebhookRequest, Response = T, Error = E, Future: Send + 'static> + Clone + Send + Sync + 'static
{
}

impl<S, T, E> Posts<T, E> for S where
    S: Service<WebhookRequest, Response = T, Error = E, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Makes an [`Attempt`] of whatever came of a POST.
fn record(mut inner: impl Posts<Answer, Failure>, clock: Arc<dyn Clock>) -> impl Posts<Attempt, Infallible> {
    service_fn(move |post: WebhookRequest| {
        let (clock, start_time, start) = (Arc::clone(&clock), clock.now(), Instant::now());
        let url = post.subscription.settings.url.as_str().to_owned();
        let answering = inner.call(post);
        async move {
            let mut attempt = Attempt {
                start_time,
                duration: Duration::ZERO,
                outcome: Outcome::Ok,
                http_status: 0,
                error: String::new(),
                response_body: String::new(),
                retry_after: None,
                url,
            };
            let failure = match answering.await {
                Ok(answer) => {
                    let asked = answer.retry_after.filter(|_| !answer.status.is_success());
                    attempt.retry_after =
                        asked.and_then(|value| response::parse_retry_after(&value, clock.now()));
                    attempt.http_status = answer.status.as_u16();
                    attempt.outcome = response::classify(answer.status);
                    if attempt.outcome != Outcome::Ok {
                        attempt.error = response::status_text(answer.status, answer.location.as_ref());
                    }
                    attempt.response_body = answer.body;
                    answer.failure
                }
                Err(failure) => Some(failure),
            };
            if let Some(failure) = failure {
                attempt.outcome = failure.outcome;
                attempt.error = response::fit_error(failure.text);
            }
            attempt.duration = start.elapsed();
            Ok(attempt)
        }
    })
}

/// What is kept of an answer.
struct Answer {
    status: StatusCode,
    location: Option<HeaderValue>,
    retry_after: Option<HeaderValue>,
    body: String,
    /// Why the body is not whole, if that is the receiver's doing.
    failure: Option<Failure>,
}

/// Reads an answer's body to its end, so that the connection can be kept; or to a bound.
fn read_answer<B>(
    mut inner: impl Posts<Response<B>, Failure>,
    bytes_max: usize,
) -> impl Posts<Answer, Failure>
where
    B: Body<Data = Bytes, Error = Failure> + Send + Unpin + 'static,
{
    service_fn(move |post: WebhookRequest| {
        let responding = inner.call(post);
        async move {
            let (mut head, body) = responding.await?.into_parts();
            let (body, failure) = read(body, bytes_max).await;
            Ok(Answer {
                status: head.status,
                location: head.headers.remove(header::LOCATION),
                retry_after: head.headers.remove(header::RETRY_AFTER),
                body,
                failure,
            })
        }
    })
}

/// The start of a body, and why it did not come to its end. Gives up at `bytes_max`, which is no failure: dropping a body
/// that is not at its end drops the connection with it.
async fn read<B>(mut body: B, bytes_max: usize) -> (String, Option<Failure>)
where
    B: Body<Data = Bytes, Error = Failure> + Unpin,
{
    let (mut start, mut whole, mut left) = (Vec::new(), true, bytes_max);
    loop {
        match body.frame().await {
            None => return (response::excerpt(&start, whole), None),
            Some(Err(failure)) => return (response::excerpt(&start, false), Some(failure)),
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                let room = RESPONSE_BYTES_KEPT - start.len();
                start.extend_from_slice(&data[..data.len().min(room)]);
                whole &= data.len() <= room;
                // An empty frame counts too: HTTP/2 could send them without end.
                let Some(rest) = left.checked_sub(data.len().max(1)) else {
                    return (response::excerpt(&start, false), None);
                };
                left = rest;
            }
        }
    }
}

/// Ends an attempt that takes too long, be it in the middle of the answer's body.
fn deadline<B: 'static>(
    mut inner: impl Posts<Response<B>, Failure>,
    default: Duration,
) -> impl Posts<Response<Timed<B>>, Failure> {
    service_fn(move |post: WebhookRequest| {
        let limit = post.subscription.settings.timeout.unwrap_or(default);
        let responding = inner.call(post);
        async move {
            let mut end = Box::pin(tokio::time::sleep(limit));
            tokio::select! {
                // An answer that is there counts, however late it is looked at.
                biased;
                response = responding => Ok(response?.map(|inner| Timed { inner, end, limit })),
                () = &mut end => Err(Failure::timeout(limit)),
            }
        }
    })
}

/// A body under the deadline of its attempt.
struct Timed<B> {
    inner: B,
    end: Pin<Box<Sleep>>,
    limit: Duration,
}

impl<B> Body for Timed<B>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Failure::from)));
        }
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(Some(Err(Failure::timeout(self.limit))))
    }
}

/// Sends a second time, once, if a kept connection broke before the answer.
///
/// Receivers close idle connections, and one may do so in the moment in which a POST is on its way. That says nothing
/// about the receiver and should not cost an attempt. Sending twice is safe: the delivery's id is the same.
fn try_stale_again<B: Send + 'static>(
    inner: impl Posts<Response<B>, Failure>,
) -> impl Posts<Response<B>, Failure> {
    service_fn(move |post: WebhookRequest| {
        let mut inner = inner.clone();
        async move {
            let mut result = inner.call(post.clone()).await;
            if result.as_ref().is_err_and(|failure| failure.kept_connection_broke) {
                result = inner.call(post).await;
            }
            result
        }
    })
}

/// Makes the request of a POST.
fn assemble<C: Connects>(
    client: HttpClient<C>,
    clock: Arc<dyn Clock>,
) -> impl Posts<Response<AnswerBody<C>>, Failure> {
    service_fn(move |post: WebhookRequest| {
        let (client, request) = (client.clone(), request_of(&post, clock.now()));
        // In a box: the layers around it would move it about.
        Box::pin(async move {
            let settings = &post.subscription.settings;
            let origin = &settings.url[..Position::BeforePath];
            Ok(client.send(origin, settings.tls.as_ref(), request?).await?)
        })
    })
}

fn request_of(post: &WebhookRequest, at: UnixMicros) -> Result<Request<Full<Bytes>>, Failure> {
    let subscription = &post.subscription;
    let url =
        Uri::try_from(subscription.settings.url.as_str()).map_err(|error| Failure::unusable_url(&error))?;
    let id = webhook_id(subscription.uid, &post.event.name.to_text());
    let body = post.event.body(subscription.settings.payload_format);
    let headers = webhook_headers::headers(subscription, id, at, &body);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url;
    *request.headers_mut() = headers;
    Ok(request)
}
