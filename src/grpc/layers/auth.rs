//! Access control: forwards a call if its caller may call the method, and hands the service the caller and
//! the accounts that the call may name. A rejected call costs a few headers; its message is not read.
//!
//! Messages name accounts. [`crate::grpc::wire::request_fields::Fields`] checks those, wherever it reads a
//! name.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use clap::{Args, ValueEnum};
use futures_util::future::Either;
use http::{Extensions, HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Code, body::Body};
use tower::{Layer, Service};

use self::{method_scopes::RequiredScope, scope_refusals::ScopeRefusals, stream_expiry::RevocableBody};
use super::{
    call_share::{CallShare, ConnectionShare},
    filter::{FilterFuture, GrpcService, reject, reject_later},
};
use crate::{
    domain::{
        access::{ClientSubject, ListenContext, Scope},
        caller::{Caller, Peer, Principal},
    },
    gateway::{Gateway, Issued, TokenFault},
    grpc::wire::{
        audited::share_of,
        methods,
        status::{GrpcError, RATE_LIMITED},
    },
    limits::{AddressRateLimiter, FAILURES_PER_MINUTE_MAX, RATED_ADDRESSES_MAX, ShareKey},
    log_throttle::LogThrottle,
    metrics::CallDenied,
};

mod grant;
mod method_scopes;
mod scope_refusals;
mod stream_expiry;

use grant::{Holder, MissingScope};

pub(in crate::grpc) use grant::Grant;

/// Callers of a service that belongs to no account: reflection, or health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Exposure {
    /// Everybody.
    Open,
    /// Callers with an access token of any scope.
    Token,
    /// Nobody.
    Off,
}

/// Settings of the check of callers, and its limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub struct AccessSettings {
    /// What client certificates grant without an access token: `CN=publisher,O=Acme -> publish accounts/1`.
    ///
    /// An entry has a subject as the log shows it, an arrow, scopes (publish, read, manage, admin) and accounts;
    /// accounts/- is all. Entries in one text are separated by semicolons; the flag may be repeated. Certificates
    /// of other subjects prove the connection only: their calls need an access token. Without entries and before
    /// the first access token, every certificate of grpc_client_ca_file grants everything, and a warning says so.
    #[arg(long, value_name = "SUBJECT", value_parser = ClientSubject::parse)]
    pub grpc_client_subjects: Vec<ClientSubject>,
    /// Callers of gRPC reflection: everybody (open), those with an access token of any scope (token), nobody
    /// (off).
    #[arg(long, value_name = "WORD", default_value = "open")]
    pub grpc_reflection: Exposure,
    /// Callers of grpc.health.v1: open, token or off.
    #[arg(long, value_name = "WORD", default_value = "open")]
    pub grpc_health: Exposure,
    /// Calls without a valid access token that one address may make in a minute; one more is
    /// RESOURCE_EXHAUSTED.
    #[arg(skip = FAILURES_PER_MINUTE_MAX)]
    pub failures_per_minute_max: u32,
    /// Addresses for which these are counted separately; all others share one count.
    #[arg(skip = RATED_ADDRESSES_MAX)]
    pub failure_addresses_max: usize,
}

/// Puts access control in front of a service.
#[derive(Clone)]
pub(in crate::grpc) struct AuthLayer(Arc<Auth>);

struct Auth {
    gateway: Gateway,
    settings: AccessSettings,
    /// What certificates grant, by subject.
    subjects: HashMap<String, Arc<ClientSubject>>,
    methods: HashMap<String, Method>,
    failures: AddressRateLimiter,
    scope_refusals: Arc<ScopeRefusals>,
    log_throttle: LogThrottle,
}

struct Method {
    required: RequiredScope,
    /// Whether it responds with a stream, which may outlive the token.
    streams: bool,
}

impl AuthLayer {
    /// Knows every method that the server offers.
    pub(in crate::grpc) fn new(gateway: Gateway, settings: AccessSettings) -> Self {
        let subjects = settings.grpc_client_subjects.iter();
        let subjects = subjects.map(|entry| (entry.subject.clone(), Arc::new(entry.clone()))).collect();
        let failures =
            AddressRateLimiter::new(settings.failures_per_minute_max, settings.failure_addresses_max);
        let method = |method: &methods::Method| {
            let required =
                method_scopes::required(&method.path).expect("a test finds a scope for every method");
            (method.path.clone(), Method { required, streams: method.streams_responses })
        };
        let methods = methods::served().iter().map(method).collect();
        let log_throttle = LogThrottle::new();
        let scope_refusals = Arc::new(ScopeRefusals::new(gateway.clone()));
        Self(Arc::new(Auth { gateway, settings, subjects, methods, failures, scope_refusals, log_throttle }))
    }
}

impl Auth {
    /// Puts the caller and its grant into the request's extensions, or rejects the call. Returns the token
    /// that must end the response, if the response is a stream.
    fn authorize(&self, request: &mut Request<Body>) -> Result<Option<Arc<Issued>>, GrpcError> {
        let method = self.methods.get(request.uri().path()).ok_or_else(GrpcError::internal)?;
        let exposure = match method.required {
            RequiredScope::Scope(_) | RequiredScope::OwnOr(_) => Exposure::Token,
            RequiredScope::Reflection => self.settings.grpc_reflection,
            RequiredScope::Health => self.settings.grpc_health,
        };
        if exposure == Exposure::Off {
            return Err(GrpcError::unknown_method("this service is switched off".to_owned()));
        }
        let peer = peer(request.extensions());
        let credentials = credentials(request.headers());
        // Services do not need the token, so they cannot leak it.
        request.headers_mut().remove(AUTHORIZATION);
        let (principal, holder) = match exposure {
            Exposure::Open => (Principal::Anonymous, Holder::Unrestricted),
            _ => self.authenticate(&peer, credentials).map_err(|error| self.reject(error, &peer))?,
        };
        let caller = Caller { principal, peer };
        let missing = match method.required {
            RequiredScope::Scope(scope) | RequiredScope::OwnOr(scope) => {
                self.missing_scope(scope, &caller, &holder, request.uri().path())
            }
            RequiredScope::Reflection | RequiredScope::Health => None,
        };
        let ends = holder.token().filter(|_| method.streams).cloned();
        let grant = Grant::new(holder, Arc::clone(self.gateway.metrics()), missing);
        if !matches!(method.required, RequiredScope::OwnOr(_)) {
            grant.check_scope()?;
        }
        let share = share(request.extensions_mut(), &caller.peer);
        if caller.principal != Principal::Anonymous {
            share.prove(share_of(&caller));
        }
        if exposure != Exposure::Open {
            share.prove_connection();
        }
        request.extensions_mut().insert(grant);
        request.extensions_mut().insert(caller);
        Ok(ends)
    }

    /// The scope that a caller has not got; `None` if it may call.
    fn missing_scope(
        &self,
        scope: Scope,
        caller: &Caller,
        holder: &Holder,
        path: &str,
    ) -> Option<MissingScope> {
        let rights = holder.rights();
        let message = match rights {
            Some(rights) if rights.allow(scope) => return None,
            Some(_) => {
                format!("{} may not call this method: it needs the scope {}", caller.principal, scope.word())
            }
            None if is_remote_anonymous(caller) && scope == Scope::Admin => {
                "without an access token, methods that need the scope admin may be called from the server's own machine only"
                    .to_owned()
            }
            None => return None,
        };
        let account = rights.and_then(|rights| rights.accounts.charged(None));
        let refusal = self.scope_refusals.of(share_of(caller), caller.clone(), account, path);
        Some(MissingScope { scope, message, refusal })
    }

    /// The caller, and what gives it its rights.
    fn authenticate(&self, peer: &Peer, credentials: Credentials) -> Result<(Principal, Holder), AuthError> {
        let certified = peer.certificate.clone().map(Principal::Certificate);
        if !self.gateway.asks_for_proof() {
            return Ok((certified.unwrap_or_default(), Holder::Unrestricted));
        }
        match (credentials, &peer.certificate, certified) {
            // A token was sent on purpose: it decides, whatever the certificate grants.
            (Credentials::Token(text), ..) => {
                let issued = self.gateway.authenticate(&text).map_err(AuthError::Token)?;
                Ok((Principal::Token(issued.token.id.name()), Holder::Token(issued)))
            }
            (Credentials::Malformed, ..) => Err(AuthError::Malformed),
            (Credentials::None, Some(subject), Some(certified)) => match self.subjects.get(subject) {
                Some(entry) => Ok((certified, Holder::Certificate(Arc::clone(entry)))),
                // Nothing says what a certificate grants: there is neither a token nor an entry yet.
                None if self.subjects.is_empty() && !self.gateway.has_tokens() => {
                    Ok((certified, Holder::Unrestricted))
                }
                None => Err(AuthError::Unlisted),
            },
            (Credentials::None, ..) => Err(AuthError::Missing),
        }
    }

    /// Counts a failed authentication. Returns the error to respond with: another one past the address's
    /// limit.
    fn reject(&self, error: AuthError, peer: &Peer) -> GrpcError {
        let address = peer.address.map(|address| address.ip().to_canonical());
        let (reason, denied, message) = error.describe();
        if let Some(calls) = self.log_throttle.record() {
            tracing::warn!(
                peer.address = address.map(tracing::field::display),
                peer.certificate,
                reason,
                calls,
                "rejected calls without a valid access token"
            );
        }
        match self.failures.record(address, Instant::now()) {
            Ok(()) => {
                self.gateway.metrics().call_denied(denied);
                GrpcError::new(Code::Unauthenticated, reason, message)
            }
            Err(limited) => {
                self.gateway.metrics().call_denied(CallDenied::RateLimited);
                let what = "calls without a valid access token";
                GrpcError::rate_limited(what, "access_failures_per_minute_max", limited)
            }
        }
    }
}

/// Whether a caller without any proof is on another machine.
fn is_remote_anonymous(caller: &Caller) -> bool {
    caller.principal == Principal::Anonymous
        && caller.peer.address.is_some_and(|address| !ListenContext::is_loopback(address.ip()))
}

/// The share of a call.
fn share<'a>(extensions: &'a mut Extensions, peer: &Peer) -> &'a CallShare {
    // A call within this process comes over no connection.
    extensions.get_or_insert_with(|| {
        ConnectionShare::new(ShareKey::of_address(peer.address.map(|address| address.ip())), None).call()
    })
}

fn peer(extensions: &Extensions) -> Peer {
    extensions.get::<Peer>().cloned().unwrap_or_default()
}

/// The value of the metadata `authorization`.
enum Credentials {
    None,
    /// The text of a bearer token. Dropped as soon as it is hashed.
    Token(String),
    Malformed,
}

fn credentials(headers: &HeaderMap) -> Credentials {
    const SCHEME: &str = "Bearer ";
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Credentials::None };
    let token = value.to_str().ok().filter(|_| more.is_none()).and_then(|text| {
        let (scheme, token) = text.split_at_checked(SCHEME.len())?;
        // RFC 9110, section 11.1: the scheme's name has no case.
        scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
    });
    match token {
        Some(token) if !token.is_empty() => Credentials::Token(token.to_owned()),
        _ => Credentials::Malformed,
    }
}

/// Why authentication failed.
#[derive(Clone, Copy)]
enum AuthError {
    Missing,
    /// There is only a client certificate, and its subject grants nothing.
    Unlisted,
    Malformed,
    Token(TokenFault),
}

impl AuthError {
    /// The error's reason, its metric label and its message.
    fn describe(&self) -> (&'static str, CallDenied, &'static str) {
        match self {
            Self::Missing => (
                "TOKEN_MISSING",
                CallDenied::Missing,
                "the call needs an access token: send the metadata `authorization: Bearer <token>`",
            ),
            Self::Unlisted => (
                "TOKEN_MISSING",
                CallDenied::Missing,
                "the call needs an access token, since grpc_client_subjects has no entry for the subject of the client \
                 certificate: send the metadata `authorization: Bearer <token>`",
            ),
            Self::Malformed => (
                "TOKEN_INVALID",
                CallDenied::Invalid,
                "the metadata authorization must be there once, and be Bearer and an access token",
            ),
            Self::Token(TokenFault::Unknown) => {
                ("TOKEN_INVALID", CallDenied::Invalid, "there is no such access token")
            }
            Self::Token(TokenFault::Expired) => {
                ("TOKEN_EXPIRED", CallDenied::Expired, "the access token has expired")
            }
            Self::Token(TokenFault::Revoked) => {
                ("TOKEN_REVOKED", CallDenied::Revoked, "the access token was revoked")
            }
        }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService { auth: Arc::clone(&self.0), inner }
    }
}

/// A service behind [`AuthLayer`].
#[derive(Clone)]
pub(in crate::grpc) struct AuthService<S> {
    auth: Arc<Auth>,
    inner: S,
}

impl<S: GrpcService> Service<Request<Body>> for AuthService<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FilterFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.auth.authorize(&mut request) {
            Err(error) if error.reason() == RATE_LIMITED => reject_later(error),
            Err(error) => reject(error),
            Ok(None) => Either::Left(self.inner.call(request)),
            Ok(Some(issued)) => {
                let call = self.inner.call(request);
                let ended = issued.ended().clone();
                Either::Right(Box::pin(async move {
                    call.await.map(|response| response.map(|body| RevocableBody::wrap(body, ended)))
                }))
            }
        }
    }
}
