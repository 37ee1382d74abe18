//! The accounts that an authorized call may name, for the service that handles it.

use std::sync::Arc;

use tonic::{Code, Request};

use super::scope_refusals::ScopeRefusal;
use crate::{
    domain::{
        access::{Accounts, ClientSubject, Rights, Scope},
        caller::Principal,
        ids::AccountScope,
    },
    gateway::Issued,
    grpc::wire::status::GrpcError,
    metrics::{CallDenied, Metrics},
};

/// The accounts that a call may name. The extensions of every request that reaches a service have one.
#[derive(Clone)]
pub(in crate::grpc) struct Grant {
    holder: Holder,
    metrics: Arc<Metrics>,
    /// The scope that the method requires and the caller has not got: it may ask about itself only.
    missing: Option<Arc<MissingScope>>,
}

/// What gives a caller its rights.
#[derive(Clone)]
pub(super) enum Holder {
    /// Nothing is asked for: everything is allowed.
    Unrestricted,
    /// Its access token.
    Token(Arc<Issued>),
    /// Its certificate, by an entry of the configuration.
    Certificate(Arc<ClientSubject>),
}

impl Holder {
    /// `None` if everything is allowed.
    pub(super) fn rights(&self) -> Option<&Rights> {
        match self {
            Self::Unrestricted => None,
            Self::Token(issued) => Some(&issued.token.rights),
            Self::Certificate(entry) => Some(&entry.rights),
        }
    }

    pub(super) fn token(&self) -> Option<&Arc<Issued>> {
        match self {
            Self::Token(issued) => Some(issued),
            Self::Unrestricted | Self::Certificate(_) => None,
        }
    }
}

/// A scope that a caller has not got.
pub(super) struct MissingScope {
    pub(super) scope: Scope,
    pub(super) message: String,
    pub(super) refusal: ScopeRefusal,
}

impl Grant {
    pub(super) fn new(holder: Holder, metrics: Arc<Metrics>, missing: Option<MissingScope>) -> Self {
        Self { holder, metrics, missing: missing.map(Arc::new) }
    }

    /// The grant of a request.
    ///
    /// # Errors
    ///
    /// The token has ended since the call was authorized: its message may take long to arrive.
    pub(in crate::grpc) fn of<T>(request: &Request<T>) -> Result<Self, GrpcError> {
        // Without a grant nobody has checked the caller, so nothing is allowed.
        let grant = request.extensions().get::<Self>().ok_or_else(GrpcError::internal)?;
        match grant.holder.token() {
            Some(issued) if issued.ended().is_cancelled() => Err(ended()),
            _ => Ok(grant.clone()),
        }
    }

    /// The token of the call itself.
    pub(in crate::grpc) fn own_token(&self) -> Option<&Arc<Issued>> {
        self.holder.token()
    }

    /// The name of what gives the caller its rights, other than of any other such thing; `None` if everything is
    /// allowed.
    pub(in crate::grpc) fn holder_name(&self) -> Option<String> {
        match &self.holder {
            Holder::Unrestricted => None,
            Holder::Token(issued) => Some(issued.token.id.name()),
            Holder::Certificate(entry) => Some(Principal::Certificate(entry.subject.clone()).to_string()),
        }
    }

    /// Checks the scope that the method requires.
    ///
    /// # Errors
    ///
    /// The caller has not got it.
    pub(in crate::grpc) fn check_scope(&self) -> Result<(), GrpcError> {
        let Some(missing) = &self.missing else { return Ok(()) };
        self.metrics.call_denied(CallDenied::Scope);
        missing.refusal.record();
        Err(GrpcError::new(Code::PermissionDenied, "SCOPE_DENIED", missing.message.as_str())
            .with_metadata("scope", missing.scope.word()))
    }

    /// Checks a scope that the call requires besides that of its method.
    ///
    /// # Errors
    ///
    /// The caller has not got it.
    pub(in crate::grpc) fn require(&self, scope: Scope, what: &str) -> Result<(), GrpcError> {
        if self.holder.rights().is_none_or(|rights| rights.allow(scope)) {
            return Ok(());
        }
        self.metrics.call_denied(CallDenied::Scope);
        let message = format!("{what} requires the scope {}, which the caller has not got", scope.word());
        Err(GrpcError::new(Code::PermissionDenied, "SCOPE_DENIED", message)
            .with_metadata("scope", scope.word()))
    }

    /// The accounts that the call may name.
    pub(in crate::grpc) fn accounts(&self) -> &Accounts {
        self.holder.rights().map_or(&Accounts::All, |rights| &rights.accounts)
    }

    /// Checks that the call may name every account, which `what` concerns.
    ///
    /// # Errors
    ///
    /// The caller may use some accounts only.
    pub(in crate::grpc) fn check_all_accounts(&self, what: &str) -> Result<(), GrpcError> {
        if self.accounts().cover(AccountScope::All) {
            return Ok(());
        }
        self.count_denied();
        let proof = if self.own_token().is_some() { "access token" } else { "client certificate" };
        let message = format!("{what} is of all accounts, and the {proof} is for some: use one for all");
        Err(GrpcError::new(Code::PermissionDenied, "ACCOUNT_DENIED", message))
    }

    /// Counts a call that names another account.
    pub(in crate::grpc) fn count_denied(&self) {
        self.metrics.call_denied(CallDenied::Account);
    }
}

/// The error of a call whose token ended while it ran.
pub(super) fn ended() -> GrpcError {
    let message = "the access token has expired or was revoked since the call began";
    GrpcError::new(Code::Unauthenticated, "TOKEN_ENDED", message)
}
