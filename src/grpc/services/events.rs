//! `EventService`.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, TryStreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    publish::{check_batch, check_publish},
    publish_stream,
};
use crate::{
    domain::{
        event_routing::EventAddress,
        field_violation::ViolationKind,
        ids::{AccountScope, EventName, Seq, SubscriptionName},
    },
    event::{account_in_payload, dropped::DROPPED_FIELDS_DEFAULT},
    gateway::{EventQuery, Gateway, GatewayError, RenderSource},
    grpc::{
        layers::auth::Grant,
        wire::{
            deadline::{in_time, within},
            pagination::{self, Cursor, PageKind, PageTokens},
            request_fields::Fields,
            status::GrpcError,
            stream_codec::StreamMessage,
            to_proto,
        },
    },
    proto::v1::{self, event_service_server::EventService},
};

/// The responses of a stream.
type PublishResponses = Pin<Box<dyn Stream<Item = Result<v1::StreamPublishEventsResponse, Status>> + Send>>;

/// Handler of the calls about events.
pub(in crate::grpc) struct Events {
    pub(in crate::grpc) gateway: Gateway,
    pub(in crate::grpc) call_timeout: Duration,
    pub(in crate::grpc) stream_events_in_flight_max: usize,
    pub(in crate::grpc) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl EventService for Events {
    async fn publish_event(
        &self,
        request: Request<v1::PublishEventRequest>,
    ) -> Result<Response<v1::PublishEventResponse>, Status> {
        self.count_error(self.publish(request)).await
    }

    async fn batch_publish_events(
        &self,
        request: Request<v1::BatchPublishEventsRequest>,
    ) -> Result<Response<v1::BatchPublishEventsResponse>, Status> {
        self.count_error(self.publish_batch(request)).await
    }

    type StreamPublishEventsStream = PublishResponses;

    async fn stream_publish_events(
        &self,
        request: Request<Streaming<v1::StreamPublishEventsRequest>>,
    ) -> Result<Response<Self::StreamPublishEventsStream>, Status> {
        // The generated server's way here, where an unreadable message ends the stream. `EventServer` takes the other.
        let grant = Grant::of(&request)?;
        Ok(self.publish_messages(grant, request.into_inner().map_ok(Ok)))
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
    /// Publishes the messages of a stream, whether they can be read or not.
    pub(in crate::grpc) fn publish_stream(
        &self,
        request: Request<Streaming<StreamMessage>>,
    ) -> Result<Response<PublishResponses>, Status> {
        let grant = Grant::of(&request)?;
        Ok(self.publish_messages(grant, request.into_inner()))
    }

    fn publish_messages(
        &self,
        grant: Grant,
        messages: impl Stream<Item = Result<StreamMessage, Status>> + Send + 'static,
    ) -> Response<PublishResponses> {
        let responses = publish_stream::publish(
            self.gateway.clone(),
            grant,
            messages,
            self.stream_events_in_flight_max,
            self.shutdown.clone(),
        );
        Response::new(Box::pin(responses))
    }

    /// Applies the deadline to a call that publishes, and counts its error.
    async fn count_error<T>(
        &self,
        call: impl Future<Output = Result<T, GrpcError>>,
    ) -> Result<Response<T>, Status> {
        let response = in_time(self.call_timeout, call).await;
        let counted = response.inspect_err(|error| self.gateway.metrics().publish_refused(error.reason()));
        Ok(counted.map(Response::new)?)
    }

    async fn publish(
        &self,
        request: Request<v1::PublishEventRequest>,
    ) -> Result<v1::PublishEventResponse, GrpcError> {
        let grant = Grant::of(&request)?;
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let event = check_publish(&self.gateway, &grant, request, None, DROPPED_FIELDS_DEFAULT, "")?;
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
        let scope = fields.required::<AccountScope>("parent", &request.parent);
        let types = fields.choices("types", &request.types, to_proto::parse_event_type);
        let time = fields.time_range(request.start_time, request.end_time);
        let scope = fields.finish(scope)?;

        let tokens = PageTokens::of(PageKind::Events, &request);
        let before = tokens.read(&token)?.map(|cursor| Seq(cursor.seq));
        let read = |before, limit| {
            self.gateway.list_events(EventQuery { scope, types: types.clone(), time, before, limit })
        };
        let (events, next) =
            pagination::fill(size, before, read, |event| (event.seq, event.to_proto())).await?;
        // A stored event has a payload.
        let (events, damaged) = events.into_iter().partition(|event: &v1::Event| event.payload.is_some());
        let damaged: Vec<v1::Event> = damaged;
        let damaged_events = damaged.into_iter().map(|event| event.name).collect();
        let next = next.map(|seq| Cursor { seq: seq.0, ..Default::default() });
        Ok(v1::ListEventsResponse { events, next_page_token: tokens.write(next), damaged_events })
    }

    async fn render(
        &self,
        request: Request<v1::RenderEventRequest>,
    ) -> Result<v1::RenderEventResponse, GrpcError> {
        let mut fields = Fields::of(&request)?;
        let request = request.into_inner();
        let subscription: Option<SubscriptionName> = fields.optional("subscription", &request.subscription);
        let expected = subscription.as_ref().map(|name| name.account);
        let source = match request.source {
            None => {
                fields.violations.required("source");
                None
            }
            Some(v1::render_event_request::Source::Name(text)) => {
                let name: Option<EventName> = fields.required("name", &text);
                if name.as_ref().zip(expected).is_some_and(|(name, expected)| name.account != expected) {
                    fields.violations.push(
                        ViolationKind::AccountMismatch,
                        "subscription",
                        "must be of the event's account",
                    );
                }
                name.map(RenderSource::Stored)
            }
            Some(v1::render_event_request::Source::Event(event)) => {
                // The account comes from the subscription, or else from the payload.
                let account = expected.or_else(|| account_in_payload(&event));
                let account = account.filter(|account| fields.permit("event", AccountScope::One(*account)));
                if account.is_none() && fields.violations.is_empty() {
                    fields.violations.push(
                        ViolationKind::Required,
                        "subscription",
                        "is required where the payload does not name its account",
                    );
                }
                account
                    .and_then(|account| {
                        let address = EventAddress { account, id: None };
                        let checked = self.gateway.check_event(address, event.into(), "event");
                        checked.map_err(|violations| fields.violations.extend(violations)).ok()
                    })
                    .map(|checked| RenderSource::New(Box::new(checked)))
            }
        };
        let format = match request.payload_format {
            0 => None,
            number => fields.choices("payload_format", &[number], to_proto::parse_payload_format).pop(),
        };
        let source = fields.finish(source)?;
        let rendered = self.gateway.render(source, subscription.as_ref(), format).await?;
        Ok(v1::RenderEventResponse {
            body: String::from_utf8_lossy(&rendered.body).into_owned(),
            headers: rendered.headers,
        })
    }
}
