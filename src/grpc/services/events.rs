//! `EventService`.

use std::{borrow::Cow, collections::HashMap, pin::Pin, time::Duration};

use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::publish_stream;
use crate::{
    domain::{
        event_routing::EventAddress,
        field_violation::{FieldViolations, ViolationKind},
        ids::{AccountId, AccountScope, EventName, Seq, SubscriptionName},
    },
    event::FIELD_VIOLATIONS_MAX,
    gateway::{CheckedEvent, EventQuery, Gateway, GatewayError, RenderSource},
    grpc::{
        layers::auth::Grant,
        server::serve::{in_time, within},
        wire::{
            pagination::{self, Cursor, List, Tokens},
            request_fields::Fields,
            status::GrpcError,
            to_proto,
        },
    },
    proto::v1::{self, event_service_server::EventService},
};

/// Most requests of one batch, from the contract (`BatchPublishEventsRequest.requests`).
const BATCH_REQUESTS_MAX: usize = 1000;

/// Answers the calls about events.
pub(crate) struct Events {
    pub(crate) gateway: Gateway,
    pub(crate) call_timeout: Duration,
    pub(crate) stream_events_in_flight_max: usize,
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl EventService for Events {
    async fn publish_event(
        &self,
        request: Request<v1::PublishEventRequest>,
    ) -> Result<Response<v1::PublishEventResponse>, Status> {
        self.count_refusal(self.publish(request)).await
    }

    async fn batch_publish_events(
        &self,
        request: Request<v1::BatchPublishEventsRequest>,
    ) -> Result<Response<v1::BatchPublishEventsResponse>, Status> {
        self.count_refusal(self.publish_batch(request)).await
    }

    type StreamPublishEventsStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamPublishEventsResponse, Status>> + Send>>;

    async fn stream_publish_events(
        &self,
        request: Request<Streaming<v1::StreamPublishEventsRequest>>,
    ) -> Result<Response<Self::StreamPublishEventsStream>, Status> {
        let answers = publish_stream::publish(
            self.gateway.clone(),
            Grant::of(&request)?,
            request.into_inner(),
            self.stream_events_in_flight_max,
            self.shutdown.clone(),
        );
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_event(
        &self,
        request: Request<v1::GetEventRequest>,
    ) -> Result<Response<v1::GetEventResponse>, Status> {
        let mut fields = Fields::of(&request)?;
        let name = fields.required("name", &request.get_ref().name);
        let name: EventName = fields.finish(name)?;
        within(self.call_timeout, async {
            let event = self.gateway.get_event(&name).await?;
            Ok(v1::GetEventResponse { event: Some(event.to_proto()) })
        })
        .await
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        within(self.call_timeout, self.list(request)).await
    }

    async fn render_event(
        &self,
        request: Request<v1::RenderEventRequest>,
    ) -> Result<Response<v1::RenderEventResponse>, Status> {
        within(self.call_timeout, self.render(request)).await
    }
}

impl Events {
    /// Answers a call that publishes.
    async fn count_refusal<T>(
        &self,
        call: impl Future<Output = Result<T, GrpcError>>,
    ) -> Result<Response<T>, Status> {
        let answer = in_time(self.call_timeout, call).await;
        let counted = answer.inspect_err(|refusal| self.gateway.metrics().publish_refused(refusal.reason()));
        Ok(counted.map(Response::new)?)
    }

    async fn publish(
        &self,
        request: Request<v1::PublishEventRequest>,
    ) -> Result<v1::PublishEventResponse, GrpcError> {
        let grant = Grant::of(&request)?;
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let event = check_publish(&self.gateway, &grant, request, None, "")?;
        let published = match validate_only {
            true => self.gateway.check_publish(vec![event]).await?,
            false => self.gateway.publish(vec![event])?.await?,
        };
        let result = published.into_iter().next().map(to_proto::publish_result);
        Ok(v1::PublishEventResponse { result })
    }

    async fn publish_batch(
        &self,
        request: Request<v1::BatchPublishEventsRequest>,
    ) -> Result<v1::BatchPublishEventsResponse, GrpcError> {
        let grant = Grant::of(&request)?;
        let (events, validate_only) = check_batch(&self.gateway, &grant, request.into_inner())?;
        let published = match validate_only {
            true => self.gateway.check_publish(events).await,
            false => match self.gateway.publish(events) {
                Ok(publishing) => publishing.await,
                Err(error) => Err(error),
            },
        };
        let published = published.map_err(|error| match error {
            GatewayError::EventExists { index, .. } => GrpcError::from(error).of_request(index),
            other => other.into(),
        })?;
        let results = published.into_iter().map(to_proto::publish_result).collect();
        Ok(v1::BatchPublishEventsResponse { results })
    }

    async fn list(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<v1::ListEventsResponse, GrpcError> {
        let mut fields = Fields::of(&request)?;
        let mut request = request.into_inner();
        let size = pagination::size(&mut fields, std::mem::take(&mut request.page_size));
        let token = std::mem::take(&mut request.page_token);
        let account = fields.account("parent", &request.parent);
        let types = fields.choices("types", &request.types, to_proto::event_type_asked);
        let time = fields.time_range(request.start_time, request.end_time);
        let account = fields.finish(account)?;

        let tokens = Tokens::of(List::Events, &request);
        let before = tokens.read(&token)?.map(|cursor| Seq(cursor.seq));
        let read = |before, limit| {
            self.gateway.list_events(EventQuery { account, types: types.clone(), time, before, limit })
        };
        let (events, next) =
            pagination::fill(size, before, read, |event| (event.seq, event.to_proto())).await?;
        let next = next.map(|seq| Cursor { seq: seq.0, ..Default::default() });
        Ok(v1::ListEventsResponse { events, next_page_token: tokens.write(next) })
    }

    async fn render(
        &self,
        request: Request<v1::RenderEventRequest>,
    ) -> Result<v1::RenderEventResponse, GrpcError> {
        let mut fields = Fields::of(&request)?;
        let request = request.into_inner();
        let subscription: Option<SubscriptionName> = fields.optional("subscription", &request.subscription);
        let asked = subscription.as_ref().map(|name| name.account);
        let source = match request.source {
            None => {
                fields.faults.required("source");
                None
            }
            Some(v1::render_event_request::Source::Name(text)) => {
                let name: Option<EventName> = fields.required("name", &text);
                if name.as_ref().zip(asked).is_some_and(|(name, asked)| name.account != asked) {
                    fields.faults.push(
                        ViolationKind::AccountMismatch,
                        "subscription",
                        "must be of the event's account",
                    );
                }
                name.map(RenderSource::Stored)
            }
            Some(v1::render_event_request::Source::Event(event)) => {
                // Nothing else says whose event it is: the subscription's account, or the one that the payload names.
                let account = asked.or_else(|| account_named_in(&event));
                let account = account.filter(|account| fields.permit("event", AccountScope::One(*account)));
                if account.is_none() && fields.faults.is_empty() {
                    fields.faults.push(
                        ViolationKind::Required,
                        "subscription",
                        "is required where the payload does not name its account",
                    );
                }
                account
                    .and_then(|account| {
                        let address = EventAddress { account, id: None };
                        let checked = self.gateway.check_event(address, event.into(), "event");
                        checked.map_err(|faults| fields.faults.extend(faults)).ok()
                    })
                    .map(|checked| RenderSource::New(Box::new(checked)))
            }
        };
        let source = fields.finish(source)?;
        let rendered = self.gateway.render(source, subscription.as_ref()).await?;
        Ok(v1::RenderEventResponse {
            body: String::from_utf8_lossy(&rendered.body).into_owned(),
            headers: rendered.headers,
        })
    }
}

/// Checks one request to publish, found at `prefix` in the call; `batch` is the batch's own parent, if it has one.
pub(crate) fn check_publish(
    gateway: &Gateway,
    grant: &Grant,
    request: v1::PublishEventRequest,
    batch: Option<AccountId>,
    prefix: &str,
) -> Result<CheckedEvent, FieldViolations> {
    let mut fields = Fields::by(grant.clone());
    // Most calls publish one event, whose paths have no prefix.
    let path = |field: &'static str| match prefix {
        "" => Cow::Borrowed(field),
        prefix => Cow::Owned(format!("{prefix}{field}")),
    };
    let parent = path("parent");
    let account = match batch {
        Some(batch) if request.parent.is_empty() => Some(batch),
        _ => fields.account(&parent, &request.parent),
    };
    if let (Some(account), Some(batch)) = (account, batch)
        && account != batch
    {
        fields.faults.push(ViolationKind::AccountMismatch, parent, "must be equal to the batch's parent");
    }
    let id = fields.optional(&path("event_id"), &request.event_id);
    let event_path = path("event");
    let checked = match (account, request.event) {
        (_, None) => {
            fields.faults.required(event_path);
            None
        }
        (Some(account), Some(event)) => gateway
            .check_event(EventAddress { account, id }, event, &event_path)
            .map_err(|faults| fields.faults.extend(faults))
            .ok(),
        (None, Some(event)) => {
            // Held against any account, so that all other faults are told at once with that of the parent.
            let account = AccountId::new(1).expect("one is positive");
            let address = EventAddress { account, id: None };
            if let Err(faults) = gateway.check_event(address, event, &event_path) {
                let others = faults.iter().filter(|fault| fault.kind != ViolationKind::AccountMismatch);
                others.for_each(|fault| fields.faults.push(fault.kind, &fault.field, &fault.description));
            }
            None
        }
    };
    match checked {
        Some(checked) if fields.faults.is_empty() => Ok(checked),
        _ => Err(fields.faults),
    }
}

/// Checks a whole batch. Also says whether it is to be checked only.
fn check_batch(
    gateway: &Gateway,
    grant: &Grant,
    request: v1::BatchPublishEventsRequest,
) -> Result<(Vec<CheckedEvent>, bool), FieldViolations> {
    let mut fields = Fields::by(grant.clone());
    let batch = match request.parent.as_str() {
        "" => None,
        parent => fields.account("parent", parent),
    };
    let count = request.requests.len();
    if count == 0 {
        fields.faults.required("requests");
    } else if count > BATCH_REQUESTS_MAX {
        fields.faults.invalid("requests", format_args!("must be at most {BATCH_REQUESTS_MAX}"));
    }
    let mut faults = fields.faults;
    if !faults.is_empty() {
        return Err(faults);
    }
    let validate_only = request.requests[0].validate_only;
    let mut events: Vec<CheckedEvent> = Vec::with_capacity(count);
    let mut first_with = HashMap::new();
    for (index, request) in request.requests.into_iter().enumerate() {
        let prefix = format!("requests[{index}].");
        if request.validate_only != validate_only {
            faults.invalid(format!("{prefix}validate_only"), "must be the same in all requests of a batch");
        }
        let event = match check_publish(gateway, grant, request, batch, &prefix) {
            Ok(event) => event,
            Err(found) => {
                faults.extend(found);
                if faults.iter().len() >= FIELD_VIOLATIONS_MAX {
                    break;
                }
                continue;
            }
        };
        let EventAddress { account, id } = event.address().clone();
        if faults.is_empty() && id.is_some() {
            // While nothing is at fault, an event's place in `events` is its index.
            let first = *first_with.entry((account, id)).or_insert(index);
            if first != index && !events[first].is_same_event(&event) {
                let rule = format_args!("is that of another event, requests[{first}]");
                faults.invalid(format!("{prefix}event_id"), rule);
            }
        }
        events.push(event);
    }
    faults.into_result((events, validate_only))
}

/// The first account that a payload names.
fn account_named_in(event: &v1::Event) -> Option<AccountId> {
    use v1::event::Payload;
    let account = |account: &Option<v1::Account>| account.as_ref().map(|account| account.id);
    let conversation = |conversation: Option<&v1::Conversation>| {
        let conversation = conversation?;
        Some(conversation.account_id).filter(|id| *id != 0).or_else(|| account(&conversation.account))
    };
    let message = |message: &Option<v1::Message>| {
        let message = message.as_ref()?;
        account(&message.account).or_else(|| conversation(message.conversation.as_ref()))
    };
    let contact = |contact: &Option<v1::Contact>| account(&contact.as_ref()?.account);
    let number = match event.payload.as_ref()? {
        Payload::ConversationCreated(payload) => conversation(payload.conversation.as_ref()),
        Payload::ConversationUpdated(payload) => conversation(payload.conversation.as_ref()),
        Payload::ConversationStatusChanged(payload) => conversation(payload.conversation.as_ref()),
        Payload::ConversationTypingOn(payload) => conversation(payload.conversation.as_ref()),
        Payload::ConversationTypingOff(payload) => conversation(payload.conversation.as_ref()),
        Payload::MessageCreated(payload) => message(&payload.message),
        Payload::MessageUpdated(payload) => message(&payload.message),
        Payload::WebwidgetTriggered(payload) => account(&payload.account),
        Payload::ContactCreated(payload) => contact(&payload.contact),
        Payload::ContactUpdated(payload) => contact(&payload.contact),
        Payload::InboxCreated(_) | Payload::InboxUpdated(_) => None,
    };
    AccountId::new(number?).ok()
}
