//! Which requests of browsers are served: from which sites (`Origin`), under which host names, with how many headers.
//! A browser sends a web page's requests to any port, also with the client certificate of its user.

use std::time::Duration;

use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER},
    uri::Authority,
};
use tonic::body::Body;
use tower_http::cors::CorsLayer;

use super::protocols::text;
use crate::{
    gateway::Gateway,
    http_host::{self, single},
    metrics::CallRefused,
};

/// Most headers of a call. Each takes about a hundred bytes once it is decoded, and one byte on the wire.
pub(super) const HEADERS_MAX: usize = 64;
/// How long a browser may remember what a preflight allowed.
const PREFLIGHT_AGE_MAX: Duration = Duration::from_secs(3600);

/// Headers that the clients of Connect and gRPC-Web send.
const REQUEST_HEADERS: [HeaderName; 9] = [
    AUTHORIZATION,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    HeaderName::from_static("connect-protocol-version"),
    HeaderName::from_static("connect-timeout-ms"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("user-agent"),
];
/// Headers that they read: of an error over gRPC-Web, and when to try again.
const RESPONSE_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    RETRY_AFTER,
];

/// The rules of one server.
pub(in crate::grpc) struct WebRules {
    gateway: Gateway,
    /// `cors_allow_origins`.
    origins: Vec<HeaderValue>,
    /// With TLS the name is checked by the client, against the certificate.
    is_tls: bool,
}

/// Why a request is refused before anything of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has more than [`HEADERS_MAX`] headers.
    Headers,
    /// HTTP/1.1 has one Host (RFC 9112, section 3.2).
    NoHost,
    /// Its host name may be somebody else's that leads here (DNS rebinding).
    Host,
    /// A page of a site made it that is not allowed.
    Origin,
}

impl WebRules {
    pub(in crate::grpc) fn new(gateway: Gateway, origins: Vec<HeaderValue>, is_tls: bool) -> Self {
        Self { gateway, origins, is_tls }
    }

    /// Checks the headers of a request.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let headers = request.headers();
        if headers.len() > HEADERS_MAX {
            return Err(Refusal::Headers);
        }
        let host = match (request.version(), request.uri().authority()) {
            (Version::HTTP_2, authority) => authority.map(Authority::as_str),
            _ => Some(single(headers, &HOST).ok_or(Refusal::NoHost)?),
        };
        if !self.is_tls && !self.gateway.asks_for_proof() && !host.is_some_and(is_of_this_machine) {
            return Err(Refusal::Host);
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        if origins.all(|origin| self.origins.contains(origin)) { Ok(()) } else { Err(Refusal::Origin) }
    }

    /// The headers of responses to sites that are allowed, and the responses to their preflights.
    pub(super) fn cors(&self) -> CorsLayer {
        CorsLayer::new()
            .allow_origin(self.origins.clone())
            .allow_methods([Method::POST])
            .allow_headers(REQUEST_HEADERS)
            .expose_headers(RESPONSE_HEADERS)
            // A public site that calls a gateway within a private network says so in its preflight.
            .allow_private_network(true)
            .max_age(PREFLIGHT_AGE_MAX)
    }
}

/// Whether nobody else's name can be meant: an address, which no name server decides about, or localhost.
fn is_of_this_machine(host: &str) -> bool {
    http_host::name(host)
        .is_some_and(|name| name.eq_ignore_ascii_case("localhost") || http_host::literal(name).is_some())
}

impl Refusal {
    /// The metric's label.
    pub(super) fn reason(self) -> CallRefused {
        match self {
            Self::Headers => CallRefused::Headers,
            Self::NoHost | Self::Host => CallRefused::Host,
            Self::Origin => CallRefused::Origin,
        }
    }

    pub(super) fn response(self) -> Response<Body> {
        match self {
            Self::Headers => text(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                format!("The request has more than {HEADERS_MAX} headers."),
            ),
            Self::NoHost => text(StatusCode::BAD_REQUEST, "The request needs one header Host."),
            Self::Host => text(
                StatusCode::MISDIRECTED_REQUEST,
                "While calls need no access token, the host must be an IP address or localhost: a web page could make \
                 any other name lead here. Use the address, or create an access token.",
            ),
            Self::Origin => text(
                StatusCode::FORBIDDEN,
                "A web page made this request, and cors_allow_origins does not name its origin.",
            ),
        }
    }
}
