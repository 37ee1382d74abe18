//! `SubscriptionService`.

use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use crate::{
    domain::{
        ids::{AccountScope, SubscriptionName},
        secret::Secret,
        signature::{check_secret, for_libraries},
        subscription::{Mask, check_overlap, has_credentials},
    },
    gateway::{
        Applied, CreateSubscription, Creation, DeleteSubscription, Gateway, ListSubscriptions, RequestKey,
        UpdateSubscription,
    },
    grpc::{
        layers::auth::Grant,
        wire::{
            audited::AuditedCalls,
            deadline::within,
            pagination::{self, Cursor, PageKind, PageTokens},
            request_fields::Fields,
            status::GrpcError,
            to_proto,
        },
    },
    proto::v1::{self, EventType, subscription_service_server::SubscriptionService},
};

/// Handler of the calls about subscriptions.
pub(in crate::grpc) struct Subscriptions {
    pub(in crate::grpc) gateway: Gateway,
    pub(in crate::grpc) call_timeout: Duration,
    pub(in crate::grpc) audited: AuditedCalls,
}

#[tonic::async_trait]
impl SubscriptionService for Subscriptions {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        self.audited.run(request, parse_creation, create).await
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let name = name(&request, &request.get_ref().name)?;
        within(self.call_timeout, async {
            let found = self.gateway.get_subscription(&name)?;
            let subscription = v1::Subscription {
                oldest_owed_time: self.gateway.oldest_owed(&found).await?.map(Into::into),
                ..to_proto::subscription_with_health(&self.gateway, &found)
            };
            Ok(v1::GetSubscriptionResponse { subscription: Some(subscription) })
        })
        .await
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        within(self.call_timeout, self.list(request)).await
    }

    async fn list_accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> Result<Response<v1::ListAccountsResponse>, Status> {
        within(self.call_timeout, self.accounts(request)).await
    }

    async fn update_subscription(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::UpdateSubscriptionResponse>, Status> {
        self.audited.run(request, parse_update, update).await
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        self.audited.run(request, parse_deletion, delete).await
    }

    async fn pause_subscription(
        &self,
        request: Request<v1::PauseSubscriptionRequest>,
    ) -> Result<Response<v1::PauseSubscriptionResponse>, Status> {
        self.audited.run(request, |_, fields, request| named(fields, &request.name), pause).await
    }

    async fn resume_subscription(
        &self,
        request: Request<v1::ResumeSubscriptionRequest>,
    ) -> Result<Response<v1::ResumeSubscriptionResponse>, Status> {
        self.audited.run(request, |_, fields, request| named(fields, &request.name), resume).await
    }

    async fn rotate_signing_secret(
        &self,
        request: Request<v1::RotateSigningSecretRequest>,
    ) -> Result<Response<v1::RotateSigningSecretResponse>, Status> {
        self.audited.run(request, |_, fields, request| parse_rotation(fields, &request), rotate).await
    }

    async fn test_subscription(
        &self,
        request: Request<v1::TestSubscriptionRequest>,
    ) -> Result<Response<v1::TestSubscriptionResponse>, Status> {
        self.audited.run(request, |_, fields, request| parse_test(fields, &request), test).await
    }
}

impl Subscriptions {
    async fn list(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<v1::ListSubscriptionsResponse, GrpcError> {
        let mut fields = Fields::of(&request)?;
        let mut request = request.into_inner();
        let size = pagination::size(&mut fields, std::mem::take(&mut request.page_size));
        let token = std::mem::take(&mut request.page_token);
        let scope = fields.required::<AccountScope>("parent", &request.parent);
        let event_type = fields.event_type("event_type", request.event_type);
        let states = fields.choices("states", &request.states, to_proto::parse_state);
        let failing = request.failing;
        let scope = fields.finish(scope)?;

        let tokens = PageTokens::of(PageKind::Subscriptions, &request);
        let after = match tokens.read(&token)? {
            Some(cursor) => Some(cursor.name.parse().map_err(|_| GrpcError::page_token())?),
            None => None,
        };
        let read = |after: Option<SubscriptionName>, limit| {
            let list = ListSubscriptions { scope, event_type, states: states.clone(), failing, after, limit };
            std::future::ready(Ok(self.gateway.list_subscriptions(&list)))
        };
        let (subscriptions, next) = pagination::fill(size, after, read, |row| {
            (row.name.clone(), to_proto::subscription_with_health(&self.gateway, row))
        })
        .await?;
        let next = next.map(|name| Cursor { name: name.to_string(), ..Default::default() });
        Ok(v1::ListSubscriptionsResponse { subscriptions, next_page_token: tokens.write(next) })
    }
}

impl Subscriptions {
    async fn accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> Result<v1::ListAccountsResponse, GrpcError> {
        let grant = Grant::of(&request)?;
        let mut fields = Fields::by(grant.clone());
        let mut request = request.into_inner();
        let size = pagination::size(&mut fields, std::mem::take(&mut request.page_size));
        let token = std::mem::take(&mut request.page_token);
        fields.finish(Some(()))?;

        let tokens = PageTokens::of(PageKind::Accounts, &request);
        let after = tokens.read(&token)?.map(|cursor| cursor.seq);
        let all = self.gateway.list_accounts(grant.accounts()).await?;
        let numbers = all.iter().map(|account| account.get().unsigned_abs());
        let mut rest = numbers.skip_while(|account| Some(*account) <= after);
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let next = rest.next().and(page.last()).map(|seq| Cursor { seq: *seq, ..Default::default() });
        let accounts = page.iter().map(|account| format!("accounts/{account}")).collect();
        Ok(v1::ListAccountsResponse { accounts, next_page_token: tokens.write(next) })
    }
}

fn parse_creation(
    gateway: &Gateway,
    mut fields: Fields,
    request: v1::CreateSubscriptionRequest,
) -> Result<(CreateSubscription, Notes), GrpcError> {
    let account = fields.account("parent", &request.parent);
    let notes = notes(request.subscription.as_ref().map_or("", |subscription| subscription.url.as_str()));
    let settings = match &request.subscription {
        Some(subscription) => gateway.check_subscription(subscription, "subscription"),
        None => {
            fields.violations.required("subscription");
            Err(Default::default())
        }
    };
    let settings = settings.map_err(|violations| fields.violations.extend(violations)).ok();
    let id = fields.optional("subscription_id", &request.subscription_id);
    let request_id = fields.uuid("request_id", &request.request_id);
    let signing_secret = (!request.signing_secret.is_empty()).then_some(&request.signing_secret);
    if let Some(Err(rule)) = signing_secret.map(|secret| check_secret(secret)) {
        fields.violations.invalid("signing_secret", rule);
    }
    let signing_secret = signing_secret.map(|secret| Secret::new(secret.as_str()));
    let (account, settings) = fields.finish(account.zip(settings))?;

    let validate_only = request.validate_only;
    let request = request_id.map(|id| RequestKey { id, fingerprint: fingerprint(request) });
    let create = CreateSubscription { account, id, settings, signing_secret, request, validate_only };
    Ok((create, notes))
}

/// What the server made of a request, for its caller.
type Notes = Vec<String>;

/// Says where the credentials of a URL have gone.
fn notes(url: &str) -> Notes {
    const MOVED: &str = "the credentials in the url have become the header authorization (Basic), which is stored \
                         sealed; the url no longer has them";
    has_credentials(url).then(|| MOVED.to_owned()).into_iter().collect()
}

async fn create(
    gateway: Gateway,
    (create, notes): (CreateSubscription, Notes),
) -> Result<Applied<v1::CreateSubscriptionResponse>, GrpcError> {
    Ok(match gateway.create_subscription(create).await? {
        Creation::Stored { subscription, repeated } => {
            let secret = Some(&subscription.signing_secrets.newest.secret).filter(|_| !repeated);
            let result = v1::CreateSubscriptionResponse {
                subscription: Some(to_proto::subscription_with_health(&gateway, &subscription)),
                signing_secret: secret.map(for_libraries).as_ref().map_or("", Secret::expose).to_owned(),
                secret_already_shown: repeated,
                notes,
            };
            Applied { result, changed: !repeated }
        }
        Creation::Checked { name, settings } => {
            let name = name.map(|name| name.to_string()).unwrap_or_default();
            let subscription = v1::Subscription { name, ..to_proto::settings(&settings) };
            let subscription = Some(subscription);
            v1::CreateSubscriptionResponse { subscription, notes, ..Default::default() }.into()
        }
    })
}

fn parse_update(
    _gateway: &Gateway,
    mut fields: Fields,
    request: v1::UpdateSubscriptionRequest,
) -> Result<(UpdateSubscription, Notes), GrpcError> {
    let v1::UpdateSubscriptionRequest { subscription, update_mask, validate_only } = request;
    let Some(mut message) = subscription else {
        fields.violations.required("subscription");
        return Err(fields.violations.into());
    };
    let name = fields.required("subscription.name", &message.name);
    let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
    let mask =
        Mask::parse(&paths, "update_mask").map_err(|violations| fields.violations.extend(violations)).ok();
    let (name, mask) = fields.finish(name.zip(mask))?;
    let etag = parse_etag(std::mem::take(&mut message.etag));
    let changes_url = mask.fields(&message).iter().any(|field| field.path() == "url");
    let notes = notes(if changes_url { message.url.as_str() } else { "" });
    Ok((UpdateSubscription { name, message, mask, path: "subscription", etag, validate_only }, notes))
}

async fn update(
    gateway: Gateway,
    (update, notes): (UpdateSubscription, Notes),
) -> Result<Applied<v1::UpdateSubscriptionResponse>, GrpcError> {
    let updated = gateway.update_subscription(update).await?;
    Ok(updated.map(|updated| v1::UpdateSubscriptionResponse {
        subscription: Some(to_proto::subscription_with_health(&gateway, &updated)),
        notes,
    }))
}

fn parse_deletion(
    _gateway: &Gateway,
    fields: Fields,
    request: v1::DeleteSubscriptionRequest,
) -> Result<DeleteSubscription, GrpcError> {
    let v1::DeleteSubscriptionRequest { name: text, etag, force } = request;
    Ok(DeleteSubscription { name: named(fields, &text)?, etag: parse_etag(etag), force })
}

async fn delete(
    gateway: Gateway,
    delete: DeleteSubscription,
) -> Result<v1::DeleteSubscriptionResponse, GrpcError> {
    let dropped = gateway.delete_subscription(delete).await?;
    Ok(v1::DeleteSubscriptionResponse { dropped_count: Some(i32::try_from(dropped).unwrap_or(i32::MAX)) })
}

async fn pause(
    gateway: Gateway,
    name: SubscriptionName,
) -> Result<Applied<v1::PauseSubscriptionResponse>, GrpcError> {
    let paused = gateway.pause_subscription(&name).await?;
    Ok(paused.map(|paused| v1::PauseSubscriptionResponse {
        subscription: Some(to_proto::subscription_with_health(&gateway, &paused)),
    }))
}

async fn resume(
    gateway: Gateway,
    name: SubscriptionName,
) -> Result<Applied<v1::ResumeSubscriptionResponse>, GrpcError> {
    let resumed = gateway.resume_subscription(&name).await?;
    Ok(resumed.map(|resumed| v1::ResumeSubscriptionResponse {
        subscription: Some(to_proto::subscription_with_health(&gateway, &resumed)),
    }))
}

fn parse_rotation(
    mut fields: Fields,
    request: &v1::RotateSigningSecretRequest,
) -> Result<(SubscriptionName, Duration, Option<RequestKey>), GrpcError> {
    let name: Option<SubscriptionName> = fields.required("name", &request.name);
    let overlap = check_overlap(request.overlap);
    let overlap = overlap.map_err(|rule| fields.violations.invalid("overlap", rule)).ok();
    let request_id = fields.uuid("request_id", &request.request_id);
    let (name, overlap) = fields.finish(name.zip(overlap))?;
    let request = request_id.map(|id| {
        // An id that created a subscription is not one that rotates its secret.
        let digest = Sha256::new_with_prefix("RotateSigningSecret");
        let digest = digest.chain_update(name.to_string()).chain_update(overlap.as_micros().to_be_bytes());
        RequestKey { id, fingerprint: digest.finalize().into() }
    });
    Ok((name, overlap, request))
}

async fn rotate(
    gateway: Gateway,
    (name, overlap, request): (SubscriptionName, Duration, Option<RequestKey>),
) -> Result<Applied<v1::RotateSigningSecretResponse>, GrpcError> {
    let rotated = gateway.rotate_signing_secret(&name, overlap, request).await?;
    let changed = rotated.signing_secret.is_some();
    let result = v1::RotateSigningSecretResponse {
        signing_secret: rotated.signing_secret.as_ref().map_or("", Secret::expose).to_owned(),
        secret_already_shown: !changed,
        old_secret_expire_time: Some(rotated.old_until.into()),
        public_key: rotated.public_key.unwrap_or_default(),
    };
    Ok(Applied { result, changed })
}

fn parse_test(
    mut fields: Fields,
    request: &v1::TestSubscriptionRequest,
) -> Result<(SubscriptionName, Option<EventType>), GrpcError> {
    let name = fields.required("name", &request.name);
    let event_type = fields.event_type("event_type", request.event_type);
    Ok((fields.finish(name)?, event_type))
}

async fn test(
    gateway: Gateway,
    (name, event_type): (SubscriptionName, Option<EventType>),
) -> Result<v1::TestSubscriptionResponse, GrpcError> {
    let tested = gateway.test_subscription(&name, event_type).await?;
    let mut attempt = to_proto::attempt(1, &tested.attempt);
    to_proto::add_exchange(&mut attempt, &tested.exchange);
    Ok(v1::TestSubscriptionResponse {
        request_body: String::from_utf8_lossy(&tested.body).into_owned(),
        http_status: tested.attempt.http_status.into(),
        response_body: tested.attempt.response_body,
        error: tested.attempt.error,
        duration: Some(to_proto::duration(tested.attempt.duration)),
        attempt: Some(attempt),
    })
}

fn name<T>(request: &Request<T>, text: &str) -> Result<SubscriptionName, GrpcError> {
    named(Fields::of(request)?, text)
}

fn named(mut fields: Fields, text: &str) -> Result<SubscriptionName, GrpcError> {
    let name = fields.required("name", text);
    fields.finish(name)
}

fn parse_etag(etag: String) -> Option<String> {
    (!etag.is_empty()).then_some(etag)
}

/// Digest of a request, without its ignored fields. A request with the same id but another digest is not a
/// repetition.
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
        subscription.owed_count = None;
        subscription.failing_since_time = None;
        subscription.last_success_time = None;
        subscription.last_failure_time = None;
        subscription.last_error = String::new();
    }
    Sha256::digest(request.encode_to_vec()).into()
}
