//! What a call was let through with, for the services that answer it.

use std::sync::Arc;

use tonic::{Code, Request};

use crate::{
    domain::access::Accounts,
    gateway::Issued,
    grpc::wire::status::GrpcError,
    metrics::{CallDenied, Metrics},
};

/// What a call may be about. There is one in the extensions of every request that reaches a service.
#[derive(Clone)]
pub(in crate::grpc) struct Grant {
    /// The token that it was made with; `None` if everything is allowed.
    issued: Option<Arc<Issued>>,
    metrics: Arc<Metrics>,
}

impl Grant {
    pub(super) fn new(issued: Option<Arc<Issued>>, metrics: Arc<Metrics>) -> Self {
        Self { issued, metrics }
    }

    /// That of a request.
    ///
    /// # Errors
    ///
    /// Its token has ended since the call was let through: its message may take long to arrive.
    pub(in crate::grpc) fn of<T>(request: &Request<T>) -> Result<Self, GrpcError> {
        // Without one nobody has looked at the caller, and nothing is allowed.
        let grant = request.extensions().get::<Self>().ok_or_else(GrpcError::internal)?;
        match &grant.issued {
            Some(issued) if issued.ended().is_cancelled() => Err(ended()),
            _ => Ok(grant.clone()),
        }
    }

    /// The accounts that the call may be about.
    pub(in crate::grpc) fn accounts(&self) -> &Accounts {
        self.issued.as_ref().map_or(&Accounts::All, |issued| &issued.token.rights.accounts)
    }

    /// Counts that it names another account.
    pub(in crate::grpc) fn count_denied(&self) {
        self.metrics.call_denied(CallDenied::Account);
    }
}

/// The token has ended while the call was under way.
pub(super) fn ended() -> GrpcError {
    let message = "the access token has expired or was revoked since the call began";
    GrpcError::new(Code::Unauthenticated, "TOKEN_ENDED", message)
}
