//! One attempt as a tower stack: sends the request and returns the outcome.
//!
//! Every layer does one thing. Nothing here waits for the next attempt: a retry is a record in the store.

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
use tokio::time::{Instant, Sleep, timeout};
use tower::{Service, ServiceBuilder, layer::layer_fn, service_fn, util::BoxCloneSyncService};
use url::Position;

use super::{
    connection::Connect,
    failure::Failure,
    send::{HttpClient, ResponseBody, Target},
    send_error::Resend,
};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, Outcome},
        egress::EgressPolicy,
        response,
        secret::REDACTED,
        time::UnixMicros,
        webhook_headers,
    },
    event::{
        exchange::{self, Exchange},
        webhook::{ResponseRest, WebhookClient, WebhookRequest, WebhookResponse},
    },
};

/// How often an attempt sends its request again at most.
const RESENDS_MAX: u32 = 3;

/// Bounds on the body of a response.
#[derive(Clone, Copy)]
pub(crate) struct BodyBounds {
    /// Bytes read at most.
    pub(crate) read: usize,
    /// Bytes kept at most, from its start.
    pub(crate) kept: usize,
    /// How long the attempt waits for the body after the head.
    pub(crate) wait: Duration,
}

/// The stack, from the outside in: an outer layer sees all that the inner ones do.
///
/// Each layer is a function of the inner service, so all their futures are one, and an attempt runs in one
/// task. No layer waits for readiness: the client is always ready.
pub(crate) fn webhook_client<C>(
    client: HttpClient<C>,
    default_timeout: Duration,
    bounds: BodyBounds,
    egress: EgressPolicy,
    clock: Arc<dyn Clock>,
) -> WebhookClient
where
    C: Connect,
{
    let (now, egress) = (Arc::clone(&clock), Arc::new(egress));
    let stack = ServiceBuilder::new()
        // Outermost: its clock covers everything, and every failure becomes an `Attempt` here.
        .layer(layer_fn(|inner| record(inner, Arc::clone(&now))))
        // Outside the deadline, which reaches it through the body: it ends the body, and the status counts.
        .layer(layer_fn(|inner| read_response(inner, bounds)))
        // Around everything that waits for the receiver, including further tries: it covers the attempt as a
        // whole.
        .layer(layer_fn(|inner| deadline(inner, default_timeout)))
        // Around `assemble`, so that each try is signed with its own timestamp.
        .layer(layer_fn(resend))
        // Innermost: the timestamp is the time of sending.
        .layer(layer_fn(move |client| assemble(client, Arc::clone(&egress), Arc::clone(&clock))))
        .service(client);
    BoxCloneSyncService::new(stack)
}

/// A service that sends webhook requests: each layer is one and wraps one.
trait Sends<T, E>:
    Service<WebhookRequest, Response = T, Error = E, Future: Send + 'static> + Clone + Send + Sync + 'static
{
}

impl<S, T, E> Sends<T, E> for S where
    S: Service<WebhookRequest, Response = T, Error = E, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Turns the response or failure into an [`Attempt`].
fn record(
    mut inner: impl Sends<ReadResponse, Failure>,
    clock: Arc<dyn Clock>,
) -> impl Sends<WebhookResponse, Infallible> {
    service_fn(move |request: WebhookRequest| {
        let (clock, start_time, start) = (Arc::clone(&clock), clock.now(), Instant::now());
        let url = request.subscription.settings.url.as_str().to_owned();
        let responding = inner.call(request);
        async move {
            let mut attempt = Attempt {
                start_time,
                duration: Duration::ZERO,
                outcome: Outcome::Ok,
                http_status: 0,
                error: String::new(),
                response_body: String::new(),
                retry_after: None,
                resent: 0,
                url,
            };
            let mut rest = None;
            match responding.await {
                Ok(response) => {
                    let asked = response.retry_after.filter(|_| !response.status.is_success());
                    attempt.retry_after =
                        asked.and_then(|value| response::parse_retry_after(&value, clock.now()));
                    attempt.http_status = response.status.as_u16();
                    attempt.outcome = response::classify(response.status);
                    if attempt.outcome != Outcome::Ok {
                        attempt.error = response::status_text(response.status, response.location.as_ref());
                    }
                    attempt.response_body = response.body;
                    rest = response.rest;
                }
                Err(failure) => {
                    exchange::note(|exchange| exchange.lacked_descriptor = failure.lacked_descriptor);
                    attempt.outcome = failure.outcome;
                    attempt.error = response::fit_error(failure.text);
                }
            }
            attempt.resent = exchange::note(|exchange| exchange.resent).unwrap_or_default();
            attempt.duration = start.elapsed();
            Ok(WebhookResponse { attempt, rest })
        }
    })
}

/// The parts of a response that are kept.
struct ReadResponse {
    status: StatusCode,
    location: Option<HeaderValue>,
    retry_after: Option<HeaderValue>,
    /// As much of the body as arrived in time.
    body: String,
    rest: Option<ResponseRest>,
}

/// Waits for a response's body, for the record only: the head has said all that counts. A body that takes
/// longer is left to be read by whoever gets the attempt, so that the connection can be reused.
fn read_response<B>(
    mut inner: impl Sends<Response<B>, Failure>,
    bounds: BodyBounds,
) -> impl Sends<ReadResponse, Failure>
where
    B: Body<Data = Bytes, Error = Failure> + Send + Unpin + 'static,
{
    service_fn(move |request: WebhookRequest| {
        let responding = inner.call(request);
        async move {
            let (head, body) = responding.await?.into_parts();
            let location = head.headers.get(header::LOCATION).cloned();
            let retry_after = head.headers.get(header::RETRY_AFTER).cloned();
            exchange::note(|exchange| exchange.response_headers = exchange::kept_headers(head.headers));
            let mut reading = Reading::new(body, bounds);
            let is_over = timeout(bounds.wait, reading.run()).await.is_ok();
            let body = reading.excerpt();
            let rest = (!is_over).then(|| Box::pin(async move { reading.run().await }) as ResponseRest);
            Ok(ReadResponse { status: head.status, location, retry_after, body, rest })
        }
    })
}

/// A body that is read to its end, so that the connection can be reused; or up to its bound. Dropping an
/// unfinished body closes its connection.
struct Reading<B> {
    body: B,
    bounds: BodyBounds,
    start: Vec<u8>,
    /// Whether `start` is all that arrived.
    fits: bool,
    has_ended: bool,
    /// Bytes that may still be read.
    left: usize,
}

impl<B> Reading<B>
where
    B: Body<Data = Bytes, Error = Failure> + Unpin,
{
    fn new(body: B, bounds: BodyBounds) -> Self {
        Self { body, bounds, start: Vec::new(), fits: true, has_ended: false, left: bounds.read }
    }

    /// Reads on until the body ends, breaks, runs out of time or reaches its bound. May be dropped and called
    /// again.
    async fn run(&mut self) {
        loop {
            match self.body.frame().await {
                None => return self.has_ended = true,
                Some(Err(_)) => return,
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    let room = self.bounds.kept - self.start.len();
                    self.start.extend_from_slice(&data[..data.len().min(room)]);
                    self.fits &= data.len() <= room;
                    // An empty frame uses the limit as well: an HTTP/2 peer could send them for ever.
                    let Some(left) = self.left.checked_sub(data.len().max(1)) else { return };
                    self.left = left;
                }
            }
        }
    }

    /// The start of the body, as far as it has arrived.
    fn excerpt(&self) -> String {
        response::excerpt(&self.start, self.fits && self.has_ended, self.bounds.kept)
    }
}

/// Ends an attempt that takes too long, even in the middle of the response's body.
fn deadline<B: 'static>(
    mut inner: impl Sends<Response<B>, Failure>,
    default: Duration,
) -> impl Sends<Response<Timed<B>>, Failure> {
    service_fn(move |request: WebhookRequest| {
        let limit = request.subscription.settings.timeout.unwrap_or(default);
        let responding = inner.call(request);
        async move {
            let mut end = Box::pin(tokio::time::sleep(limit));
            tokio::select! {
                // A response that has arrived is used, even if this task runs late.
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

/// Sends again at once what the receiver did not take.
///
/// That says nothing about the receiver and should not cost an attempt: an HTTP/2 receiver may close a
/// connection after some number of requests, and says which ones it did not process. An HTTP/1 receiver
/// closes idle connections, and one may do so just when a request is sent; sending it twice is safe, since
/// the webhook id is the same.
fn resend<B: Send + 'static>(inner: impl Sends<Response<B>, Failure>) -> impl Sends<Response<B>, Failure> {
    service_fn(move |request: WebhookRequest| {
        let mut inner = inner.clone();
        async move {
            let (mut resent, mut was_stale) = (0, false);
            loop {
                let result = inner.call(request.clone()).await;
                let may_resend = match result.as_ref().err().map(|failure| failure.resend) {
                    Some(Resend::Unprocessed) => true,
                    Some(Resend::Once) => !std::mem::replace(&mut was_stale, true),
                    Some(Resend::Never) | None => false,
                };
                if !may_resend || resent == RESENDS_MAX {
                    return result;
                }
                resent += 1;
                exchange::note(|exchange| exchange.resent = resent);
            }
        }
    })
}

/// Builds the HTTP request and sends it.
fn assemble<C: Connect>(
    client: HttpClient<C>,
    egress: Arc<EgressPolicy>,
    clock: Arc<dyn Clock>,
) -> impl Sends<Response<ResponseBody<C>>, Failure> {
    service_fn(move |request: WebhookRequest| {
        let (client, http_request) = (client.clone(), request_of(&request, &egress, clock.now()));
        // Boxed: the outer layers would copy this large future.
        Box::pin(async move {
            let settings = &request.subscription.settings;
            let origin = &settings.url[..Position::BeforePath];
            let http_request = http_request?;
            note_request(&request, &http_request);
            let begun = Instant::now();
            let to = Target {
                origin,
                tls: settings.tls.as_ref(),
                account: request.subscription.name.account,
                needs_new: request.is_test,
            };
            let response = client.send(to, http_request).await?;
            exchange::note(|exchange| {
                let opening = [exchange.dns, exchange.connect, exchange.tls].into_iter().flatten().sum();
                exchange.first_byte = Some(begun.elapsed().saturating_sub(opening));
            });
            Ok(response)
        })
    })
}

/// Notes the headers of a request. The subscription's own may be secrets.
fn note_request(webhook: &WebhookRequest, request: &Request<Full<Bytes>>) {
    exchange::note(|exchange| {
        let own = &webhook.subscription.settings.headers;
        // Two more: the length here, and the host on an HTTP/1 connection.
        let mut headers = Vec::with_capacity(request.headers().len() + 2);
        for (name, value) in request.headers() {
            let is_own = !own.is_empty() && own.contains_key(name.as_str());
            let value = if is_own { HeaderValue::from_static(REDACTED) } else { value.clone() };
            headers.push((name.clone(), value));
        }
        if let Some(length) = request.body().size_hint().exact() {
            headers.push((header::CONTENT_LENGTH, length.into()));
        }
        // A further try starts over.
        let resent = exchange.resent;
        *exchange = Exchange { request_headers: headers, resent, ..Exchange::default() };
    });
}

fn request_of(
    webhook: &WebhookRequest,
    egress: &EgressPolicy,
    at: UnixMicros,
) -> Result<Request<Full<Bytes>>, Failure> {
    let subscription = &webhook.subscription;
    // Checked when it was set, but the policy may have changed since.
    if let Some(name) = egress.denied_headers(subscription.settings.headers.keys()).first() {
        return Err(Failure::denied_header(name));
    }
    let url =
        Uri::try_from(subscription.settings.url.as_str()).map_err(|error| Failure::unusable_url(&error))?;
    let body = webhook.event.body(subscription.settings.payload_format);
    let headers = webhook_headers::headers(subscription, webhook.facts(at), &body);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url;
    *request.headers_mut() = headers;
    Ok(request)
}
