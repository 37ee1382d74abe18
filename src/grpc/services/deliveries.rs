//! `DeliveryService`.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    domain::{
        delivery::DeliveryKey,
        field_violation::ViolationKind,
        ids::{
            AccountScope, DeliveryName, EventName, IdError, Seq, SubscriptionId, SubscriptionKey,
            SubscriptionName,
        },
        time::UnixMicros,
    },
    gateway::{
        Applied, AttemptResult, Gateway, GatewayError, ListDeliveries, ReplayCursor, ReplayDeliveries,
        WatchDeliveries,
    },
    grpc::wire::{
        audited::AuditedCalls,
        deadline::within,
        pagination::{self, Cursor, PageKind, PageTokens},
        request_fields::{Fields, Name},
        status::GrpcError,
        to_proto,
    },
    proto::v1::{self, delivery_service_server::DeliveryService},
};

/// Handler of the calls about deliveries.
pub(in crate::grpc) struct Deliveries {
    pub(in crate::grpc) gateway: Gateway,
    pub(in crate::grpc) call_timeout: Duration,
    pub(in crate::grpc) audited: AuditedCalls,
    pub(in crate::grpc) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl DeliveryService for Deliveries {
    async fn get_delivery(
        &self,
        request: Request<v1::GetDeliveryRequest>,
    ) -> Result<Response<v1::GetDeliveryResponse>, Status> {
        let mut fields = Fields::of(&request)?;
        let name = fields.required("name", &request.get_ref().name);
        let name: DeliveryName = fields.finish(name)?;
        within(self.call_timeout, async {
            let (subscription, record) = self.gateway.get_delivery(&name).await?;
            let delivery = to_proto::delivery_with_exchanges(&self.gateway, &subscription, &record);
            Ok(v1::GetDeliveryResponse { delivery: Some(delivery) })
        })
        .await
    }

    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        within(self.call_timeout, self.list(request)).await
    }

    type WatchDeliveriesStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchDeliveriesResponse, Status>> + Send>>;

    async fn watch_deliveries(
        &self,
        request: Request<v1::WatchDeliveriesRequest>,
    ) -> Result<Response<Self::WatchDeliveriesStream>, Status> {
        let mut fields = Fields::of(&request)?;
        let request = request.get_ref();
        let parent = fields.required::<Parent>("parent", &request.parent);
        let states = fields.choices("states", &request.states, to_proto::parse_delivery_state);
        let Parent { scope, subscription } = fields.finish(parent)?;
        let name = match (scope, subscription.clone()) {
            (AccountScope::One(account), Some(id)) => Some(SubscriptionName { account, id }),
            _ => None,
        };
        let watch = WatchDeliveries { scope, subscription, states };
        let changes = self.gateway.watch_deliveries(watch).map_err(GrpcError::from)?;
        let responses = changes.map(|watched| {
            Ok(v1::WatchDeliveriesResponse {
                delivery: Some(to_proto::delivery(&watched.subscription, &watched.delivery)),
                skipped_count: i32::try_from(watched.skipped).unwrap_or(i32::MAX),
            })
        });
        // The stream ends only when the server shuts down, or with the subscription.
        let shutdown = self.shutdown.clone();
        let last = stream::once(async move {
            let error = match name {
                Some(name) if !shutdown.is_cancelled() => GatewayError::no_subscription(&name).into(),
                _ => GrpcError::shutting_down(),
            };
            Err(error.into())
        });
        let responses = responses.take_until(self.shutdown.clone().cancelled_owned()).chain(last);
        Ok(Response::new(Box::pin(responses)))
    }

    async fn retry_delivery(
        &self,
        request: Request<v1::RetryDeliveryRequest>,
    ) -> Result<Response<v1::RetryDeliveryResponse>, Status> {
        self.audited.run(request, |_, fields, request| parse_delivery(fields, &request.name), retry).await
    }

    async fn cancel_delivery(
        &self,
        request: Request<v1::CancelDeliveryRequest>,
    ) -> Result<Response<v1::CancelDeliveryResponse>, Status> {
        self.audited.run(request, |_, fields, request| parse_delivery(fields, &request.name), cancel).await
    }

    async fn replay_deliveries(
        &self,
        request: Request<v1::ReplayDeliveriesRequest>,
    ) -> Result<Response<v1::ReplayDeliveriesResponse>, Status> {
        self.audited.run(request, parse_replay, replay).await
    }

    async fn summarize_deliveries(
        &self,
        request: Request<v1::SummarizeDeliveriesRequest>,
    ) -> Result<Response<v1::SummarizeDeliveriesResponse>, Status> {
        let mut fields = Fields::of(&request)?;
        let parent = fields.required::<Parent>("parent", &request.get_ref().parent);
        let Parent { scope, subscription } = fields.finish(parent)?;
        within(self.call_timeout, async {
            Ok(to_proto::summary(&self.gateway.summarize_deliveries(scope, subscription).await?))
        })
        .await
    }

    async fn get_delivery_stats(
        &self,
        request: Request<v1::GetDeliveryStatsRequest>,
    ) -> Result<Response<v1::GetDeliveryStatsResponse>, Status> {
        let mut fields = Fields::of(&request)?;
        let request = request.get_ref();
        let parent = fields.required::<Parent>("parent", &request.parent);
        let period = fields.choices("period", &[request.period], to_proto::parse_period).pop();
        let (Parent { scope, subscription }, period) = fields.finish(parent.zip(period))?;
        let stats = self.gateway.delivery_stats(scope, subscription, period);
        let (report, since) = stats.map_err(GrpcError::from)?;
        Ok(Response::new(to_proto::delivery_stats(&report, since, period.bucket())))
    }
}

impl Deliveries {
    async fn list(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<v1::ListDeliveriesResponse, GrpcError> {
        let mut fields = Fields::of(&request)?;
        let mut request = request.into_inner();
        let size = pagination::size(&mut fields, std::mem::take(&mut request.page_size));
        let token = std::mem::take(&mut request.page_token);
        let parent = fields.required::<Parent>("parent", &request.parent);
        let states = fields.choices("states", &request.states, to_proto::parse_delivery_state);
        let event = parse_event(&mut fields, parent.as_ref(), &request.event);
        let time = fields.time_range(request.start_time, request.end_time);
        let event_types = fields.choices("event_types", &request.event_types, to_proto::parse_event_type);
        let results = parse_results(&mut fields, &request);
        let Parent { scope, subscription } = fields.finish(parent)?;

        let tokens = PageTokens::of(PageKind::Deliveries, &request);
        let after = tokens.read(&token)?.map(|cursor| DeliveryKey {
            seq: Seq(cursor.seq),
            subscription: SubscriptionKey(cursor.subscription),
        });
        let read = |after, limit| {
            let (subscription, states, event) = (subscription.clone(), states.clone(), event.clone());
            let (event_types, results) = (event_types.clone(), results.clone());
            self.gateway.list_deliveries(ListDeliveries {
                scope,
                subscription,
                states,
                event,
                event_types,
                results,
                time,
                after,
                limit,
            })
        };
        let (deliveries, next) = pagination::fill(size, after, read, |(subscription, record)| {
            (record.key, to_proto::delivery(subscription, record))
        })
        .await?;
        let next =
            next.map(|key| Cursor { seq: key.seq.0, subscription: key.subscription.0, ..Default::default() });
        Ok(v1::ListDeliveriesResponse { deliveries, next_page_token: tokens.write(next) })
    }
}

/// The ways in which the last attempt may have ended.
fn parse_results(fields: &mut Fields, request: &v1::ListDeliveriesRequest) -> Vec<AttemptResult> {
    let outcomes = fields.choices("outcomes", &request.outcomes, to_proto::parse_outcome);
    let mut results: Vec<_> = outcomes.into_iter().map(AttemptResult::Outcome).collect();
    for (index, class) in request.http_status_classes.iter().enumerate() {
        match u16::try_from(*class) {
            Ok(class @ 1..=5) => results.push(AttemptResult::StatusClass(class)),
            _ => fields.violations.invalid(format!("http_status_classes[{index}]"), "must be from 1 to 5"),
        }
    }
    results
}

fn parse_delivery(mut fields: Fields, name: &str) -> Result<DeliveryName, GrpcError> {
    let name = fields.required("name", name);
    fields.finish(name)
}

async fn retry(
    gateway: Gateway,
    name: DeliveryName,
) -> Result<Applied<v1::RetryDeliveryResponse>, GrpcError> {
    let retried = gateway.retry_delivery(&name).await?;
    Ok(retried.map(|(subscription, record)| v1::RetryDeliveryResponse {
        delivery: Some(to_proto::delivery(&subscription, &record)),
    }))
}

async fn cancel(
    gateway: Gateway,
    name: DeliveryName,
) -> Result<Applied<v1::CancelDeliveryResponse>, GrpcError> {
    let cancelled = gateway.cancel_delivery(&name).await?;
    Ok(cancelled.map(|(subscription, record)| v1::CancelDeliveryResponse {
        delivery: Some(to_proto::delivery(&subscription, &record)),
    }))
}

fn parse_replay(
    _gateway: &Gateway,
    mut fields: Fields,
    mut request: v1::ReplayDeliveriesRequest,
) -> Result<(ReplayDeliveries, PageTokens), GrpcError> {
    let limit = match std::mem::take(&mut request.page_size) {
        0 => REPLAY_SIZE_DEFAULT,
        size => usize::try_from(size).unwrap_or(usize::MAX),
    };
    if limit > REPLAY_SIZE_MAX {
        fields.violations.invalid("page_size", format!("must be from 0 to {REPLAY_SIZE_MAX}"));
    }
    let token = std::mem::take(&mut request.page_token);
    let subscription = fields.required("parent", &request.parent);
    let types = fields.choices("event_types", &request.event_types, to_proto::parse_event_type);
    let states = fields.choices("states", &request.states, to_proto::parse_delivery_state);
    for (index, _) in states.iter().enumerate().filter(|(_, state)| state.is_owed()) {
        fields.violations.invalid(
            format!("states[{index}]"),
            "must be SUCCEEDED, FAILED or CANCELLED: deliveries in other states are queued already",
        );
    }
    let time = fields.time_range(request.start_time, request.end_time);
    let subscription = fields.finish(subscription)?;

    let validate_only = std::mem::take(&mut request.validate_only);
    let tokens = PageTokens::of(PageKind::Replay, &request);
    let cursor = tokens.read(&token)?.map(|cursor| ReplayCursor {
        after: Seq(cursor.seq),
        until: Seq(cursor.until),
        began: UnixMicros(cursor.time),
    });
    Ok((ReplayDeliveries { subscription, time, types, states, cursor, limit, validate_only }, tokens))
}

async fn replay(
    gateway: Gateway,
    (replay, tokens): (ReplayDeliveries, PageTokens),
) -> Result<Applied<v1::ReplayDeliveriesResponse>, GrpcError> {
    let replayed = gateway.replay_deliveries(replay).await?;
    let next = replayed.next.map(|next| Cursor {
        seq: next.after.0,
        until: next.until.0,
        time: next.began.0,
        ..Cursor::default()
    });
    let result = v1::ReplayDeliveriesResponse {
        replayed_count: Some(i32::try_from(replayed.count).unwrap_or(i32::MAX)),
        next_page_token: tokens.write(next),
    };
    Ok(Applied { result, changed: replayed.count > 0 })
}

/// Events that one call of ReplayDeliveries queues by default.
const REPLAY_SIZE_DEFAULT: usize = 1000;
/// Most events that one call of ReplayDeliveries queues.
const REPLAY_SIZE_MAX: usize = 10_000;

/// `accounts/{account}/subscriptions/{subscription}`, where `-` means all subscriptions of the account, and
/// `accounts/-/subscriptions/-` those of all accounts. Or the name of a sink of notices.
struct Parent {
    scope: AccountScope,
    subscription: Option<SubscriptionId>,
}

impl std::str::FromStr for Parent {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if let Some(scope) = text.strip_suffix("/subscriptions/-") {
            return Ok(Self { scope: scope.parse()?, subscription: None });
        }
        let SubscriptionName { account, id } = SubscriptionName::parse_any(text)?;
        Ok(Self { scope: AccountScope::One(account), subscription: Some(id) })
    }
}

impl Name for Parent {
    fn accounts(&self) -> Option<AccountScope> {
        Some(match self.scope {
            AccountScope::One(account) => account.scope(),
            AccountScope::All => AccountScope::All,
        })
    }
}

/// The event of the filter. It must be of the parent's account.
fn parse_event(fields: &mut Fields, parent: Option<&Parent>, text: &str) -> Option<EventName> {
    let event: EventName = fields.optional("event", text)?;
    if parent.is_some_and(|parent| !parent.scope.contains(event.account)) {
        fields.violations.push(ViolationKind::AccountMismatch, "event", "must be of the account of parent");
    }
    Some(event)
}
