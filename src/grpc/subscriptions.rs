//! `SubscriptionService`.

use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::{
    convert,
    fields::Fields,
    page::{self, Cursor, List, Tokens},
    server::within,
    status::Refusal,
};
use crate::{
    domain::{
        ids::{AccountScope, SubscriptionName},
        secret::Secret,
        signature::check_secret,
        subscription::{Mask, check_overlap},
    },
    gateway::{
        CreateSubscription, Creation, DeleteSubscription, Gateway, ListSubscriptions, RequestKey,
        UpdateSubscription,
    },
    proto::v1::{self, subscription_service_server::SubscriptionService},
};

/// Answers the calls about subscriptions.
pub(super) struct Subscriptions {
    pub(super) gateway: Gateway,
    pub(super) call_timeout: Duration,
}

#[tonic::async_trait]
impl SubscriptionService for Subscriptions {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        within(self.call_timeout, self.create(request)).await
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let found = self.gateway.get_subscription(&name(&request, &request.get_ref().name)?)?;
        let subscription = Some(convert::subscription(&found));
        Ok(Response::new(v1::GetSubscriptionResponse { subscription }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        within(self.call_timeout, self.list(request)).await
    }

    async fn update_subscription(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::UpdateSubscriptionResponse>, Status> {
        within(self.call_timeout, self.update(request)).await
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        let name = name(&request, &request.get_ref().name)?;
        let v1::DeleteSubscriptionRequest { etag, force, .. } = request.into_inner();
        let delete = DeleteSubscription { name, etag: etag_asked(etag), force };
        within(self.call_timeout, async {
            self.gateway.delete_subscription(delete).await?;
            Ok(v1::DeleteSubscriptionResponse {})
        })
        .await
    }

    async fn pause_subscription(
        &self,
        request: Request<v1::PauseSubscriptionRequest>,
    ) -> Result<Response<v1::PauseSubscriptionResponse>, Status> {
        let name = name(&request, &request.get_ref().name)?;
        within(self.call_timeout, async {
            let paused = self.gateway.pause_subscription(&name).await?;
            Ok(v1::PauseSubscriptionResponse { subscription: Some(convert::subscription(&paused)) })
        })
        .await
    }

    async fn resume_subscription(
        &self,
        request: Request<v1::ResumeSubscriptionRequest>,
    ) -> Result<Response<v1::ResumeSubscriptionResponse>, Status> {
        let name = name(&request, &request.get_ref().name)?;
        within(self.call_timeout, async {
            let resumed = self.gateway.resume_subscription(&name).await?;
            Ok(v1::ResumeSubscriptionResponse { subscription: Some(convert::subscription(&resumed)) })
        })
        .await
    }

    async fn rotate_signing_secret(
        &self,
        request: Request<v1::RotateSigningSecretRequest>,
    ) -> Result<Response<v1::RotateSigningSecretResponse>, Status> {
        within(self.call_timeout, self.rotate(request)).await
    }

    async fn test_subscription(
        &self,
        request: Request<v1::TestSubscriptionRequest>,
    ) -> Result<Response<v1::TestSubscriptionResponse>, Status> {
        let mut fields = Fields::of(&request)?;
        let request = request.into_inner();
        let name: Option<SubscriptionName> = fields.required("name", &request.name);
        let event_type = fields.event_type("event_type", request.event_type);
        let name = fields.finish(name)?;
        // No limit of ours: the POST has the subscription's own.
        let tested = self.gateway.test_subscription(&name, event_type).await?;
        Ok(Response::new(v1::TestSubscriptionResponse {
            request_body: String::from_utf8_lossy(&tested.body).into_owned(),
            http_status: tested.attempt.http_status.into(),
            response_body: tested.attempt.response_body,
            error: tested.attempt.error,
            duration: Some(convert::duration(tested.attempt.duration)),
        }))
    }
}

impl Subscriptions {
    async fn create(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<v1::CreateSubscriptionResponse, Refusal> {
        let mut fields = Fields::of(&request)?;
        let request = request.into_inner();
        let account = fields.account("parent", &request.parent);
        let settings = match &request.subscription {
            Some(subscription) => self.gateway.check_subscription(subscription, "subscription"),
            None => {
                fields.faults.required("subscription");
                Err(Default::default())
            }
        };
        let settings = settings.map_err(|faults| fields.faults.extend(faults)).ok();
        let id = fields.optional("subscription_id", &request.subscription_id);
        let request_id = fields.uuid("request_id", &request.request_id);
        let signing_secret = (!request.signing_secret.is_empty()).then_some(&request.signing_secret);
        if let Some(Err(rule)) = signing_secret.map(|secret| check_secret(secret)) {
            fields.faults.invalid("signing_secret", rule);
        }
        let signing_secret = signing_secret.map(|secret| Secret::new(secret.as_str()));
        let (account, settings) = fields.finish(account.zip(settings))?;

        let validate_only = request.validate_only;
        let request = request_id.map(|id| RequestKey { id, fingerprint: fingerprint(request) });
        let create = CreateSubscription { account, id, settings, signing_secret, request, validate_only };
        Ok(match self.gateway.create_subscription(create).await? {
            Creation::Stored(stored) => v1::CreateSubscriptionResponse {
                subscription: Some(convert::subscription(&stored)),
                signing_secret: stored.signing_secrets.newest.secret.expose().to_owned(),
            },
            Creation::Checked { name, settings } => {
                let name = name.map(|name| name.to_string()).unwrap_or_default();
                let subscription = v1::Subscription { name, ..convert::settings(&settings) };
                v1::CreateSubscriptionResponse { subscription: Some(subscription), ..Default::default() }
            }
        })
    }

    async fn rotate(
        &self,
        request: Request<v1::RotateSigningSecretRequest>,
    ) -> Result<v1::RotateSigningSecretResponse, Refusal> {
        let mut fields = Fields::of(&request)?;
        let request = request.into_inner();
        let name: Option<SubscriptionName> = fields.required("name", &request.name);
        let overlap = check_overlap(request.overlap);
        let overlap = overlap.map_err(|rule| fields.faults.invalid("overlap", rule)).ok();
        let (name, overlap) = fields.finish(name.zip(overlap))?;
        let rotated = self.gateway.rotate_signing_secret(&name, overlap).await?;
        Ok(v1::RotateSigningSecretResponse {
            signing_secret: rotated.signing_secret.expose().to_owned(),
            old_secret_expire_time: Some(rotated.old_until.into()),
            public_key: rotated.public_key.unwrap_or_default(),
        })
    }

    async fn list(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<v1::ListSubscriptionsResponse, Refusal> {
        let mut fields = Fields::of(&request)?;
        let mut request = request.into_inner();
        let size = page::size(&mut fields, std::mem::take(&mut request.page_size));
        let token = std::mem::take(&mut request.page_token);
        let scope = fields.required::<AccountScope>("parent", &request.parent);
        let event_type = fields.event_type("event_type", request.event_type);
        let states = fields.choices("states", &request.states, convert::state_asked);
        let scope = fields.finish(scope)?;

        let tokens = Tokens::of(List::Subscriptions, &request);
        let after = match tokens.read(&token)? {
            Some(cursor) => Some(cursor.name.parse().map_err(|_| Refusal::page_token())?),
            None => None,
        };
        let read = |after: Option<SubscriptionName>, limit| {
            let list = ListSubscriptions { scope, event_type, states: states.clone(), after, limit };
            std::future::ready(Ok(self.gateway.list_subscriptions(&list)))
        };
        let (subscriptions, next) =
            page::fill(size, after, read, |row| (row.name.clone(), convert::subscription(row))).await?;
        let next = next.map(|name| Cursor { name: name.to_string(), ..Default::default() });
        Ok(v1::ListSubscriptionsResponse { subscriptions, next_page_token: tokens.write(next) })
    }

    async fn update(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<v1::UpdateSubscriptionResponse, Refusal> {
        let mut fields = Fields::of(&request)?;
        let v1::UpdateSubscriptionRequest { subscription, update_mask, validate_only } = request.into_inner();
        let Some(mut message) = subscription else {
            fields.faults.required("subscription");
            return Err(fields.faults.into());
        };
        let name = fields.required("subscription.name", &message.name);
        let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let mask = Mask::parse(&paths, "update_mask").map_err(|faults| fields.faults.extend(faults)).ok();
        let (name, mask) = fields.finish(name.zip(mask))?;
        let etag = etag_asked(std::mem::take(&mut message.etag));
        let update = UpdateSubscription { name, message, mask, path: "subscription", etag, validate_only };
        let updated = self.gateway.update_subscription(update).await?;
        Ok(v1::UpdateSubscriptionResponse { subscription: Some(convert::subscription(&updated)) })
    }
}

fn name<T>(request: &Request<T>, text: &str) -> Result<SubscriptionName, Refusal> {
    let mut fields = Fields::of(request)?;
    let name = fields.required("name", text);
    fields.finish(name)
}

fn etag_asked(etag: String) -> Option<String> {
    (!etag.is_empty()).then_some(etag)
}

/// Tells a repeated request from another one: a digest of all that it asks for, and of nothing that is ignored.
fn fingerprint(mut request: v1::CreateSubscriptionRequest) -> [u8; 32] {
    request.request_id = String::new();
    if let Some(subscription) = &mut request.subscription {
        subscription.name = String::new();
        subscription.uid = String::new();
        subscription.state = 0;
        subscription.state_reason = String::new();
        subscription.create_time = None;
        subscription.update_time = None;
        subscription.etag = String::new();
        subscription.public_key = String::new();
    }
    Sha256::digest(request.encode_to_vec()).into()
}
