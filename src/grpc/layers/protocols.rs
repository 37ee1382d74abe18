//! Serves calls in every protocol with the same services. gRPC over HTTP/2 passes after a look at its headers; all
//! other requests are first checked as browsers may send them, and then translated.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use futures_util::future::Either;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{ALLOW, CONTENT_TYPE, ORIGIN, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

use super::{
    connect::Connect,
    protocol::Protocol,
    unread_body::UnreadBody,
    web_rules::{HEADERS_MAX, WebRules},
};
use crate::{
    grpc::wire::methods,
    metrics::{CallRefused, Metrics},
};

/// The services behind everything that guards them.
pub(in crate::grpc) type Services = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The content types that are served, for whoever sends another.
const CONTENT_TYPES: &str = "application/json and application/proto (Connect; of methods that stream \
                             application/connect+json and application/connect+proto), application/grpc-web, and over \
                             HTTP/2 application/grpc";

/// Puts the other protocols beside gRPC.
#[derive(Clone)]
pub(in crate::grpc) struct ProtocolsLayer(Arc<Others>);

/// Everything that is no gRPC over HTTP/2.
struct Others {
    rules: WebRules,
    calls: Arc<Translated>,
    /// The same, with the headers that browsers want of another site.
    of_sites: Services,
    /// Most bytes of a body that are read though the call is refused: twice a message.
    unread_bytes_max: u64,
    metrics: Arc<Metrics>,
}

/// The services in each protocol.
struct Translated {
    services: Services,
    grpc_web: Services,
    connect: Connect,
    metrics: Arc<Metrics>,
}

impl ProtocolsLayer {
    /// `services` get the translated calls, whose messages have at most `message_bytes_max` bytes.
    pub(in crate::grpc) fn new(
        metrics: &Arc<Metrics>,
        rules: WebRules,
        services: Services,
        message_bytes_max: usize,
    ) -> Self {
        let calls = Arc::new(Translated {
            grpc_web: BoxCloneSyncService::new(GrpcWebLayer::new().layer(services.clone())),
            connect: Connect::new(services.clone(), message_bytes_max),
            services,
            metrics: Arc::clone(metrics),
        });
        let of_sites = {
            let calls = Arc::clone(&calls);
            service_fn(move |request| {
                let calls = Arc::clone(&calls);
                async move { Ok(calls.call(request).await) }
            })
        };
        let of_sites = BoxCloneSyncService::new(rules.cors().layer(of_sites));
        let unread_bytes_max = 2 * message_bytes_max as u64;
        Self(Arc::new(Others { rules, calls, of_sites, unread_bytes_max, metrics: Arc::clone(metrics) }))
    }
}

impl<S> Layer<S> for ProtocolsLayer {
    type Service = Protocols<S>;

    fn layer(&self, inner: S) -> Protocols<S> {
        Protocols { others: Arc::clone(&self.0), inner }
    }
}

/// A service behind [`ProtocolsLayer`].
#[derive(Clone)]
pub(in crate::grpc) struct Protocols<S> {
    others: Arc<Others>,
    inner: S,
}

impl<S, B> Service<Request<B>> for Protocols<S>
where
    S: Service<Request<B>, Response = Response<AxumBody>, Error = Infallible>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<AxumBody>;
    type Error = Infallible;
    type Future =
        Either<S::Future, Pin<Box<dyn Future<Output = Result<Response<AxumBody>, Infallible>> + Send>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_plain_grpc(&request) {
            return Either::Left(self.inner.call(request));
        }
        let others = Arc::clone(&self.others);
        Either::Right(Box::pin(async move {
            let (request, unread) = UnreadBody::lend(request.map(Body::new), others.unread_bytes_max);
            let response = others.respond(request).await;
            if let Some(unread) = unread {
                unread.drop_rest().await;
            }
            Ok(response.map(AxumBody::new))
        }))
    }
}

/// Whether this is gRPC over HTTP/2, not from a web page. A page on a name that leads here (DNS rebinding) cannot make
/// such a call: browsers speak HTTP/2 only with TLS, where the name must be that of the certificate.
fn is_plain_grpc<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.version() == Version::HTTP_2
        && *request.method() == Method::POST
        && headers.len() <= HEADERS_MAX
        && Protocol::of(headers) == Some(Protocol::Grpc)
        && !headers.contains_key(ORIGIN)
}

impl Others {
    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        if let Err(refusal) = self.rules.check(&request) {
            self.metrics.connections.call_refused(refusal.reason());
            return refusal.response();
        }
        if request.headers().contains_key(ORIGIN) {
            called(&self.of_sites, request).await
        } else {
            self.calls.call(request).await
        }
    }
}

impl Translated {
    async fn call(&self, request: Request<Body>) -> Response<Body> {
        if *request.method() != Method::POST {
            return self.refuse(not_a_post(request.uri().path()));
        }
        match Protocol::of(request.headers()) {
            None => self.refuse(text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("The content type is none of those served: {CONTENT_TYPES}."),
            )),
            Some(Protocol::Grpc) if request.version() != Version::HTTP_2 => self.refuse(text(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "gRPC needs HTTP/2. Over HTTP/1.1 send application/json or application/proto (Connect), or \
                 application/grpc-web.",
            )),
            Some(Protocol::Grpc) => called(&self.services, request).await,
            Some(Protocol::GrpcWeb { .. }) => called(&self.grpc_web, request).await,
            Some(Protocol::Connect(form)) => self.connect.call(request, form).await,
        }
    }

    fn refuse(&self, response: Response<Body>) -> Response<Body> {
        self.metrics.connections.call_refused(CallRefused::NotACall);
        response
    }
}

/// The response of a service, which has no other errors.
pub(super) async fn called(services: &Services, request: Request<Body>) -> Response<Body> {
    let Ok(response) = services.clone().oneshot(request).await;
    response
}

/// What somebody reads who opens the port in a browser, or mistypes.
fn not_a_post(path: &str) -> Response<Body> {
    let (status, beginning) = match methods::find(path) {
        Some(_) => (StatusCode::METHOD_NOT_ALLOWED, "Methods are called with POST."),
        None => (StatusCode::NOT_FOUND, "This is the port of Tidings' API; there is no page here."),
    };
    let example = "curl --json '{\"parent\": \"accounts/1\"}' \
                   http://127.0.0.1:50051/tidings.v1.SubscriptionService/ListSubscriptions";
    let mut response = text(
        status,
        format!(
            "{beginning} Call a method with POST and JSON, for example:\n\n  {example}\n\ngRPC, gRPC-Web and Connect are \
             served; the methods are those of proto/tidings/v1."
        ),
    );
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// A response for people: a sentence or more.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let text = text.into() + "\n";
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
