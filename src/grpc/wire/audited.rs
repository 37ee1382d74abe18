//! The one place that makes the calls which change something, and sees to it that each leaves an audit record: begun before anything
//! is changed, and ended before it is answered.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

use super::{request_fields::Fields, status::GrpcError};
use crate::{
    domain::{
        audit::{AuditEnd, AuditOutcome, AuditSubject, AuditedCall, audit_text},
        caller::{Caller, Peer, Principal},
    },
    gateway::{Gateway, GatewayError},
    grpc::server::serve::{in_time, within},
};

/// A request to change something.
pub(crate) trait Audited: Send + 'static {
    /// What it is answered with.
    type Answer: Send + 'static;

    /// `tidings.v1.SubscriptionService/DeleteSubscription`.
    const METHOD: &'static str;

    /// Whether the time that a call may take bounds it.
    const IS_TIMED: bool = true;

    /// What it is about, as far as the request says so in words of the contract: what cannot be read is left out. Never a secret,
    /// nor a text of the caller's that may be one by mistake.
    fn subject(&self) -> AuditSubject;

    /// Whether it is to be checked only, and changes nothing.
    fn checks_only(&self) -> bool {
        false
    }

    /// Adds to the record what only the answer tells.
    fn conclude(_answer: &Self::Answer, _end: &mut AuditEnd) {}
}

/// Makes changes.
#[derive(Clone)]
pub(crate) struct Changes {
    gateway: Gateway,
    call_timeout: Duration,
    places: Arc<Semaphore>,
    calls_max: usize,
}

impl Changes {
    /// At most `calls_max` at once, those included whose callers are gone.
    pub(crate) fn new(gateway: Gateway, call_timeout: Duration, calls_max: usize) -> Self {
        Self { gateway, call_timeout, places: Arc::new(Semaphore::new(calls_max)), calls_max }
    }

    /// Reads `request` with `parse`, which changes nothing, and does with `work` what it asks for. That comes to its end, and into
    /// the record, even if the caller is gone.
    pub(crate) async fn make<Q, P, W>(
        &self,
        request: Request<Q>,
        parse: impl FnOnce(&Gateway, Fields, Q) -> Result<P, GrpcError>,
        work: impl FnOnce(Gateway, P) -> W + Send + 'static,
    ) -> Result<Response<Q::Answer>, Status>
    where
        Q: Audited,
        P: Send + 'static,
        W: Future<Output = Result<Q::Answer, GrpcError>> + Send + 'static,
    {
        let (gateway, limit) = (self.gateway.clone(), self.call_timeout);
        let (caller, fields) = (caller(&request), Fields::of(&request)?);
        let request = request.into_inner();
        let (subject, checks_only) = (request.subject(), request.checks_only());
        let parsed = parse(&gateway, fields, request);
        if checks_only {
            return within(limit, work(gateway, parsed?)).await;
        }
        let call = AuditedCall {
            principal: audit_text(&caller.principal.to_string()),
            address: caller.peer.address.map(|address| address.to_string()).unwrap_or_default(),
            method: Q::METHOD.to_owned(),
            subject,
        };
        let what = match parsed {
            Ok(what) => what,
            Err(refusal) => {
                gateway.audit_refused(call, end_of(&refusal)).await;
                return Err(refusal.into());
            }
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            gateway.metrics().audit_unrecorded.inc();
            GrpcError::from(GatewayError::overloaded("grpc_calls_in_flight_max", self.calls_max))
        })?;
        let change = async move {
            let _taken = place;
            change::<Q, P, W>(gateway, limit, call, what, work).await
        };
        // A task, since the call's own future is dropped when its caller is gone.
        match tokio::spawn(change).await {
            Ok(made) => Ok(made.map(Response::new)?),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_ending) => Err(GrpcError::shutting_down().into()),
            },
        }
    }
}

async fn change<Q, P, W>(
    gateway: Gateway,
    limit: Duration,
    call: AuditedCall,
    what: P,
    work: impl FnOnce(Gateway, P) -> W,
) -> Result<Q::Answer, GrpcError>
where
    Q: Audited,
    W: Future<Output = Result<Q::Answer, GrpcError>>,
{
    let key = in_time(limit, async { Ok(gateway.audit_begin(call).await?) }).await?;
    let work = work(gateway.clone(), what);
    let made = if Q::IS_TIMED { in_time(limit, work).await } else { work.await };
    let end = match &made {
        Ok(answer) => {
            let mut end = AuditEnd { outcome: AuditOutcome::Ok, ..AuditEnd::default() };
            Q::conclude(answer, &mut end);
            end
        }
        Err(refusal) => end_of(refusal),
    };
    // However long it takes beyond that, it is written.
    drop(tokio::time::timeout(limit, gateway.audit_end(key, end)).await);
    made
}

/// How a refused call ended. Some refusals do not know themselves whether a write takes effect.
fn end_of(refusal: &GrpcError) -> AuditEnd {
    let outcome = match refusal.code() {
        Code::DeadlineExceeded | Code::Unavailable | Code::Internal | Code::Unknown => AuditOutcome::Unknown,
        _ => AuditOutcome::Refused,
    };
    let (code, reason) = (refusal.code().into(), refusal.reason().to_owned());
    AuditEnd { outcome, code, reason, ..AuditEnd::default() }
}

/// Who made a call: as it was authenticated, or what is known of the connection.
fn caller<Q>(request: &Request<Q>) -> Caller {
    if let Some(caller) = request.extensions().get::<Caller>() {
        return caller.clone();
    }
    let peer = request.extensions().get::<Peer>().cloned();
    let peer = peer.unwrap_or_default();
    let principal = peer.certificate.clone().map_or(Principal::Anonymous, Principal::Certificate);
    Caller { principal, peer }
}
