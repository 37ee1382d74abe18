//! Runs every call that changes something, and writes its audit record: begun before the change, and
//! completed before the response.

use std::time::Duration;

use tonic::{Code, Request, Response, Status};

use super::{
    deadline::{in_time, within},
    request_fields::Fields,
    status::GrpcError,
};
use crate::{
    domain::{
        audit::{AuditEnd, AuditOutcome, AuditSubject, AuditedCall, audit_text, audited_account},
        caller::{Caller, Peer, Principal, Via},
    },
    gateway::{Applied, Gateway, GatewayError},
    limits::{ShareKey, SharedPool},
};

/// Most calls at once that change something, those included whose callers are gone. Each has one record that waits to
/// be written: fewer than the store's queue takes.
const AUDITED_CALLS_MAX: usize = 2048;

/// A request that changes something.
pub(in crate::grpc) trait AuditedRequest: Send + 'static {
    /// The message of its response, or what a stream of responses is made of.
    type Response: Send + 'static;

    /// `tidings.v1.SubscriptionService/DeleteSubscription`.
    const METHOD: &'static str;

    /// Whether the call timeout applies to it.
    const IS_TIMED: bool = true;

    /// The resource, fields and parameters for the record. Unreadable values are left out. Never a secret,
    /// nor a caller's text that may be one by mistake.
    fn subject(&self) -> AuditSubject;

    /// Whether the request is only to be validated, and changes nothing.
    fn is_dry_run(&self) -> bool {
        false
    }

    /// Adds facts from the response to the record.
    fn record_result(_answer: &Self::Response, _end: &mut AuditEnd) {}
}

/// Runs audited calls.
#[derive(Clone)]
pub(in crate::grpc) struct AuditedCalls {
    gateway: Gateway,
    call_timeout: Duration,
    places: SharedPool,
}

impl AuditedCalls {
    /// As many at once as there are calls, but no more than [`AUDITED_CALLS_MAX`], with a share for each caller.
    pub(in crate::grpc) fn new(gateway: Gateway, call_timeout: Duration, calls_max: usize) -> Self {
        Self { gateway, call_timeout, places: SharedPool::of_places(calls_max.min(AUDITED_CALLS_MAX)) }
    }

    /// Reads `request` with `parse`, which changes nothing, and carries it out with `work`. Both the work and
    /// its record are completed even if the caller is gone.
    pub(in crate::grpc) async fn run<Q, P, W, R>(
        &self,
        request: Request<Q>,
        parse: impl FnOnce(&Gateway, Fields, Q) -> Result<P, GrpcError>,
        work: impl FnOnce(Gateway, P) -> W + Send + 'static,
    ) -> Result<Response<Q::Response>, Status>
    where
        Q: AuditedRequest,
        P: Send + 'static,
        W: Future<Output = Result<R, GrpcError>> + Send + 'static,
        R: Into<Applied<Q::Response>>,
    {
        let (gateway, limit) = (self.gateway.clone(), self.call_timeout);
        let (caller, fields) = (caller(&request), Fields::of(&request)?);
        let via = request.extensions().get::<Via>().copied();
        let request = request.into_inner();
        let (mut subject, is_dry_run) = (request.subject(), request.is_dry_run());
        if let Some(Via(part)) = via {
            subject.parameters.insert("via".to_owned(), part.to_owned());
        }
        let charged = fields.grant().accounts().charged(audited_account(&subject.resource));
        let parsed = parse(&gateway, fields, request);
        if is_dry_run {
            let checked = async { Ok(work(gateway, parsed?).await?.into().result) };
            return within(limit, checked).await;
        }
        let call = AuditedCall {
            principal: audit_text(&caller.principal.to_string()),
            address: caller.peer.address.map(|address| address.to_string()).unwrap_or_default(),
            method: Q::METHOD.to_owned(),
            account: charged.filter(|_| charged != audited_account(&subject.resource)),
            subject,
        };
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                gateway.audit_refused(call, end_of(&error)).await;
                return Err(error.into());
            }
        };
        let place = self.places.try_acquire(share_of(&caller), 1).map_err(|_| {
            gateway.metrics().audit_unrecorded.inc();
            GrpcError::from(GatewayError::overloaded("audited_calls_max", self.places.max()))
        })?;
        let change = async move {
            let _place = place;
            change::<Q, P, W, R>(gateway, limit, call, parsed, work).await
        };
        // A task, since the call's own future is dropped when its caller is gone.
        match tokio::spawn(change).await {
            Ok(made) => Ok(made.map(Response::new)?),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => Err(GrpcError::shutting_down().into()),
            },
        }
    }
}

async fn change<Q, P, W, R>(
    gateway: Gateway,
    limit: Duration,
    call: AuditedCall,
    parsed: P,
    work: impl FnOnce(Gateway, P) -> W,
) -> Result<Q::Response, GrpcError>
where
    Q: AuditedRequest,
    W: Future<Output = Result<R, GrpcError>>,
    R: Into<Applied<Q::Response>>,
{
    let key = in_time(limit, async { Ok(gateway.audit_begin(call).await?) }).await?;
    let work = work(gateway.clone(), parsed);
    let made = if Q::IS_TIMED { in_time(limit, work).await } else { work.await };
    let made = made.map(Into::into);
    let end = match &made {
        Ok(Applied { result, changed }) => {
            let mut end = AuditEnd { outcome: AuditOutcome::Ok, unchanged: !changed, ..AuditEnd::default() };
            Q::record_result(result, &mut end);
            end
        }
        Err(error) => end_of(error),
    };
    // The record is written even if that takes longer than this wait.
    drop(tokio::time::timeout(limit, gateway.audit_end(key, end)).await);
    made.map(|made| made.result)
}

/// The record of a failed call. Some errors leave open whether a write takes effect.
fn end_of(error: &GrpcError) -> AuditEnd {
    let outcome = match error.code() {
        Code::DeadlineExceeded | Code::Unavailable | Code::Internal | Code::Unknown => AuditOutcome::Unknown,
        _ => AuditOutcome::Refused,
    };
    let (code, reason) = (error.code().into(), error.reason().to_owned());
    AuditEnd { outcome, code, reason, ..AuditEnd::default() }
}

/// Whose share of the limits a call takes.
pub(in crate::grpc) fn share_of(caller: &Caller) -> ShareKey {
    match &caller.principal {
        Principal::Anonymous => ShareKey::of_address(caller.peer.address.map(|address| address.ip())),
        Principal::Token(name) | Principal::Certificate(name) => ShareKey::of_name(name),
    }
}

/// The caller: as it was authenticated, or as the connection shows it.
fn caller<Q>(request: &Request<Q>) -> Caller {
    if let Some(caller) = request.extensions().get::<Caller>() {
        return caller.clone();
    }
    let peer = request.extensions().get::<Peer>().cloned();
    let peer = peer.unwrap_or_default();
    let principal = peer.certificate.clone().map_or(Principal::Anonymous, Principal::Certificate);
    Caller { principal, peer }
}
