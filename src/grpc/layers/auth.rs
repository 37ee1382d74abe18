//! Who may call: lets a call through to its service if its token is good for the method, and tells the service who calls and
//! which accounts it may name. What is refused here costs a few headers: no message is read.
//!
//! The accounts themselves stand in the messages. They are looked at in one place as well, where names are read from
//! requests: [`crate::grpc::wire::request_fields::Fields`].

use std::{collections::HashMap, sync::Arc, time::Instant};

use http::{Extensions, HeaderMap, Request, header::AUTHORIZATION};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, body::Body};

use self::{method_scopes::Need, stream_expiry::Ending};
use super::filter::{Behind, Gate, Passing, refused, through, watched};
use crate::{
    domain::{
        access::{ListenContext, Scope},
        caller::{Caller, Peer, Principal},
    },
    gateway::{Gateway, Issued, TokenFault},
    grpc::wire::status::GrpcError,
    limits::FailureRateLimiter,
    log_throttle::LogThrottle,
    metrics::CallDenied,
};

mod grant;
mod method_scopes;
mod stream_expiry;

pub(in crate::grpc) use grant::Grant;

/// Who may call what is of no account: reflection, or health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Everybody.
    Open,
    /// Whoever may call anything at all.
    Token,
    /// Nobody.
    Off,
}

/// What the look at callers is bounded by.
#[derive(Clone, Copy, Debug)]
pub struct AccessSettings {
    /// Who may ask what the contract is.
    pub reflection: Exposure,
    /// Who may ask whether calls are served.
    pub health: Exposure,
    /// Calls without a token that counts that an address may make in a minute; one more is RESOURCE_EXHAUSTED.
    pub failures_per_minute_max: u32,
    /// Addresses that are counted apart. All further ones share one count.
    pub failure_addresses_max: usize,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            reflection: Exposure::Open,
            health: Exposure::Open,
            failures_per_minute_max: 60,
            failure_addresses_max: 10_000,
        }
    }
}

/// Lets calls through that may be made.
#[derive(Clone)]
pub(crate) struct Access(Arc<Inner>);

struct Inner {
    gateway: Gateway,
    settings: AccessSettings,
    methods: HashMap<String, Method>,
    failures: FailureRateLimiter,
    told: LogThrottle,
}

struct Method {
    need: Need,
    /// It answers with a stream, which may outlive the token.
    streams: bool,
}

impl Access {
    /// Looks at the calls of the methods that these encoded descriptor sets describe.
    pub(crate) fn new(gateway: Gateway, settings: AccessSettings, described: &[&[u8]]) -> Self {
        let failures =
            FailureRateLimiter::new(settings.failures_per_minute_max, settings.failure_addresses_max);
        let methods = methods(described);
        Self(Arc::new(Inner { gateway, settings, methods, failures, told: LogThrottle::new() }))
    }
}

fn methods(described: &[&[u8]]) -> HashMap<String, Method> {
    let mut methods = HashMap::new();
    for set in described {
        let set = FileDescriptorSet::decode(*set).expect("descriptors that were built in are valid");
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let need = method_scopes::of(&path).expect("a test finds a need for every method");
                    methods.insert(path, Method { need, streams: method.server_streaming() });
                }
            }
        }
    }
    methods
}

impl Inner {
    /// Tells the service who calls, or refuses. With a token that may end before the answer does: that token.
    fn admit(&self, request: &mut Request<Body>) -> Result<Option<Arc<Issued>>, GrpcError> {
        let method = self.methods.get(request.uri().path()).ok_or_else(GrpcError::internal)?;
        let exposure = match method.need {
            Need::Scope(_) => Exposure::Token,
            Need::Reflection => self.settings.reflection,
            Need::Health => self.settings.health,
        };
        if exposure == Exposure::Off {
            return Err(GrpcError::unknown_method("this service is switched off".to_owned()));
        }
        let peer = peer(request.extensions());
        let presented = presented(request.headers());
        // Nothing below needs it, so nothing below can tell it.
        request.headers_mut().remove(AUTHORIZATION);
        let (principal, issued) = match exposure {
            Exposure::Open => (Principal::Anonymous, None),
            _ => self.prove(&peer, presented).map_err(|fault| self.failed(fault, &peer))?,
        };
        if let Need::Scope(scope) = method.need {
            self.check_scope(scope, &principal, issued.as_deref(), &peer)?;
        }
        let ends = issued.clone().filter(|_| method.streams);
        request.extensions_mut().insert(Grant::new(issued, Arc::clone(self.gateway.metrics())));
        request.extensions_mut().insert(Caller { principal, peer });
        Ok(ends)
    }

    /// Who calls, and with which token.
    fn prove(
        &self,
        peer: &Peer,
        presented: Presented,
    ) -> Result<(Principal, Option<Arc<Issued>>), FieldViolation> {
        let certified = peer.certificate.clone().map(Principal::Certificate);
        if !self.gateway.asks_for_proof() {
            return Ok((certified.unwrap_or_default(), None));
        }
        match (presented, certified) {
            // A token says less than a certificate, and was sent on purpose: it decides.
            (Presented::Token(text), _) => {
                let issued = self.gateway.authenticate(&text).map_err(FieldViolation::Token)?;
                Ok((Principal::Token(issued.token.id.name()), Some(issued)))
            }
            (Presented::SomethingElse, _) => Err(FieldViolation::Malformed),
            (Presented::Nothing, Some(certified)) => Ok((certified, None)),
            (Presented::Nothing, None) => Err(FieldViolation::Missing),
        }
    }

    fn check_scope(
        &self,
        scope: Scope,
        principal: &Principal,
        issued: Option<&Issued>,
        peer: &Peer,
    ) -> Result<(), GrpcError> {
        let denied = match issued {
            Some(issued) if issued.token.rights.allow(scope) => return Ok(()),
            Some(_) => format!("{principal} may not call this method: it needs the scope {}", scope.word()),
            None if *principal == Principal::Anonymous && scope == Scope::Admin && !is_near(peer) => {
                "without an access token, what needs the scope admin may be called from the server's own machine only".to_owned()
            }
            None => return Ok(()),
        };
        self.gateway.metrics().call_denied(CallDenied::Scope);
        Err(GrpcError::new(Code::PermissionDenied, "SCOPE_DENIED", denied)
            .with_metadata("scope", scope.word()))
    }

    /// What is answered to a try that failed.
    fn failed(&self, fault: FieldViolation, peer: &Peer) -> GrpcError {
        let now = Instant::now();
        let address = peer.address.map(|address| address.ip().to_canonical());
        let (reason, counted, message) = fault.told();
        if let Some(calls) = self.told.happens(now) {
            let peer = address.map(tracing::field::display);
            tracing::warn!(peer.address = peer, reason, calls, "calls were made without a token that counts");
        }
        match self.failures.note(address, now) {
            Ok(()) => {
                self.gateway.metrics().call_denied(counted);
                GrpcError::new(Code::Unauthenticated, reason, message)
            }
            Err(limited) => {
                self.gateway.metrics().call_denied(CallDenied::RateLimited);
                limited.into()
            }
        }
    }
}

/// Whether the caller is on this machine, or where there are no addresses.
fn is_near(peer: &Peer) -> bool {
    peer.address.is_none_or(|address| ListenContext::is_loopback(address.ip()))
}

fn peer(extensions: &Extensions) -> Peer {
    extensions.get::<Peer>().cloned().unwrap_or_default()
}

/// What the metadata `authorization` has.
enum Presented {
    Nothing,
    /// The text of a bearer token. Dropped as soon as it was hashed.
    Token(String),
    SomethingElse,
}

fn presented(headers: &HeaderMap) -> Presented {
    const SCHEME: &str = "Bearer ";
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Presented::Nothing };
    let token = value.to_str().ok().filter(|_| more.is_none()).and_then(|text| {
        let (scheme, token) = text.split_at_checked(SCHEME.len())?;
        // RFC 9110, section 11.1: the scheme's name has no case.
        scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
    });
    match token {
        Some(token) if !token.is_empty() => Presented::Token(token.to_owned()),
        _ => Presented::SomethingElse,
    }
}

/// Why a caller is not known.
#[derive(Clone, Copy)]
enum FieldViolation {
    Missing,
    Malformed,
    Token(TokenFault),
}

impl FieldViolation {
    /// The reason as the caller is told it, as it is counted, and in words.
    fn told(&self) -> (&'static str, CallDenied, &'static str) {
        match self {
            Self::Missing => (
                "TOKEN_MISSING",
                CallDenied::Missing,
                "the call needs an access token: send the metadata `authorization: Bearer <token>`",
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

impl Gate for Access {
    fn call<S: Behind>(&self, behind: &mut S, mut request: Request<Body>) -> Passing<S::Future> {
        match self.0.admit(&mut request) {
            Err(refusal) => refused(refusal),
            Ok(None) => through(behind.call(request)),
            Ok(Some(issued)) => {
                let call = behind.call(request);
                let ended = issued.ended().clone();
                watched(async move { call.await.map(|answer| answer.map(|body| Ending::of(body, ended))) })
            }
        }
    }
}
