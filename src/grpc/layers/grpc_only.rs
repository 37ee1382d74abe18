//! Lets only gRPC calls through. A browser sends a web page's requests to any port, with the client certificate
//! of its user; nothing of them reaches a service. Rejects a request by its headers alone, before anything looks
//! at its path.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, ORIGIN},
};
use tower::{Layer, Service};

use crate::metrics::{CallRefused, Metrics};

/// Most headers of a call. Each takes about a hundred bytes once it is decoded, and one byte on the wire.
pub(in crate::grpc) const HEADERS_MAX: usize = 64;
/// The content type of every gRPC message, up to the name of its encoding.
const GRPC: &[u8] = b"application/grpc";

/// Puts the check in front of a service.
#[derive(Clone)]
pub(in crate::grpc) struct GrpcOnlyLayer(Arc<Metrics>);

impl GrpcOnlyLayer {
    pub(in crate::grpc) fn new(metrics: Arc<Metrics>) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for GrpcOnlyLayer {
    type Service = GrpcOnly<S>;

    fn layer(&self, inner: S) -> GrpcOnly<S> {
        GrpcOnly { metrics: Arc::clone(&self.0), inner }
    }
}

/// A service behind [`GrpcOnlyLayer`].
#[derive(Clone)]
pub(in crate::grpc) struct GrpcOnly<S> {
    metrics: Arc<Metrics>,
    inner: S,
}

impl<S, Q, B> Service<Request<Q>> for GrpcOnly<S>
where
    S: Service<Request<Q>, Response = Response<B>, Error = Infallible>,
    B: Default,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<B>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let Some((status, reason)) = fault(request.method(), request.headers()) else {
            return Either::Left(self.inner.call(request));
        };
        self.metrics.connections.call_refused(reason);
        let mut response = Response::new(B::default());
        *response.status_mut() = status;
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        Either::Right(ready(Ok(response)))
    }
}

/// Why a request is no gRPC call that may be served.
fn fault(method: &Method, headers: &HeaderMap) -> Option<(StatusCode, CallRefused)> {
    if headers.len() > HEADERS_MAX {
        return Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, CallRefused::Headers));
    }
    if *method != Method::POST {
        return Some((StatusCode::METHOD_NOT_ALLOWED, CallRefused::NotGrpc));
    }
    if !headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, CallRefused::NotGrpc));
    }
    // Only browsers send it, and no page is allowed to call.
    headers.contains_key(ORIGIN).then_some((StatusCode::FORBIDDEN, CallRefused::Origin))
}

/// Whether this is gRPC's content type, with any encoding of the messages. That of gRPC-Web is another.
fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().strip_prefix(GRPC).is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_post_of_grpc_without_an_origin_and_with_few_headers_passes() {
        const POST: Method = Method::POST;
        let status = |method: Method, headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            fault(&method, &headers.collect()).map(|(status, _)| status.as_u16())
        };
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
            assert_eq!(status(POST, &[("content-type", content_type)]), None, "{content_type}");
        }
        for content_type in
            ["text/plain", "application/grpc-web", "application/grpcx", "application/json", ""]
        {
            assert_eq!(status(POST, &[("content-type", content_type)]), Some(415), "{content_type}");
        }
        assert_eq!(status(POST, &[]), Some(415));
        for method in [Method::GET, Method::OPTIONS, Method::PUT] {
            assert_eq!(status(method, &[("content-type", "application/grpc")]), Some(405));
        }
        for origin in ["https://elsewhere.example", "null"] {
            let headers = [("content-type", "application/grpc"), ("origin", origin)];
            assert_eq!(status(POST, &headers), Some(403), "{origin}");
        }
        let mut many = HeaderMap::new();
        many.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        for _ in 1..HEADERS_MAX {
            many.append("a", HeaderValue::from_static(""));
        }
        assert_eq!(fault(&POST, &many), None);
        many.append("a", HeaderValue::from_static(""));
        assert_eq!(fault(&POST, &many).map(|(status, _)| status.as_u16()), Some(431));
    }
}
