//! Calls to our own gRPC services, made in this process on behalf of a browser.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http::{Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body, metadata::MetadataValue};
use tower::util::BoxCloneSyncService;

use crate::{
    domain::{
        caller::{Peer, Via},
        secret::Secret,
    },
    proto::v1::{
        self, access_token_service_client::AccessTokenServiceClient,
        audit_service_client::AuditServiceClient, delivery_service_client::DeliveryServiceClient,
        event_service_client::EventServiceClient, subscription_service_client::SubscriptionServiceClient,
    },
};

/// The services behind everything that guards them, as one tower service: the same that the gRPC listener
/// serves.
pub type Calls = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The result of a call.
pub(super) type Called<T> = Result<T, Status>;

/// The longest wait for a response. The services have shorter limits of their own.
const CALL_TIMEOUT: Duration = Duration::from_secs(45);
/// Callers that ask about themselves name this token.
const OWN_TOKEN: &str = "accessTokens/self";

/// Makes calls with the token and the address of one browser.
#[derive(Clone)]
pub(super) struct Api {
    calls: Calls,
    token: Option<Secret>,
    peer: SocketAddr,
}

impl Api {
    pub(super) fn new(calls: Calls, token: Option<Secret>, peer: SocketAddr) -> Self {
        Self { calls, token, peer }
    }

    /// The token that the calls carry, as its owner sees it.
    pub(super) async fn own_token(&self) -> Called<v1::AccessToken> {
        let request = v1::GetAccessTokenRequest { name: OWN_TOKEN.to_owned() };
        let response = self.tokens().get_access_token(self.request(request)).await?;
        Ok(response.into_inner().access_token.unwrap_or_default())
    }

    /// A request with everything that the services need to know of the caller.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(CALL_TIMEOUT);
        self.identify(&mut request);
        request
    }

    /// A request whose response is a stream without an end.
    pub(super) fn stream_request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        self.identify(&mut request);
        request
    }

    fn identify<T>(&self, request: &mut tonic::Request<T>) {
        let token =
            self.token.as_ref().map(|token| MetadataValue::try_from(format!("Bearer {}", token.expose())));
        if let Some(Ok(mut value)) = token {
            value.set_sensitive(true);
            request.metadata_mut().insert(AUTHORIZATION.as_str(), value);
        }
        request.extensions_mut().insert(Peer { address: Some(self.peer), certificate: None });
        request.extensions_mut().insert(Via("console"));
    }

    pub(super) fn subscriptions(&self) -> SubscriptionServiceClient<Calls> {
        SubscriptionServiceClient::new(self.calls.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn deliveries(&self) -> DeliveryServiceClient<Calls> {
        DeliveryServiceClient::new(self.calls.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn events(&self) -> EventServiceClient<Calls> {
        EventServiceClient::new(self.calls.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn tokens(&self) -> AccessTokenServiceClient<Calls> {
        AccessTokenServiceClient::new(self.calls.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn audit(&self) -> AuditServiceClient<Calls> {
        AuditServiceClient::new(self.calls.clone()).max_decoding_message_size(usize::MAX)
    }
}

/// Whether a call with this token could be made at all: a text with other characters is no token.
pub(super) fn is_sendable(token: &str) -> bool {
    MetadataValue::try_from(format!("Bearer {token}")).is_ok_and(|value: MetadataValue<_>| !value.is_empty())
}
