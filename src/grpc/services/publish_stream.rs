//! `StreamPublishEvents`: stores many events of one stream at once, in their order, and responds in that
//! order. An invalid event fails without the others, and so does a message that cannot be read.

use std::{
    future::{Future, ready},
    sync::Arc,
};

use futures_util::{FutureExt, Stream, StreamExt, future::Either, stream};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::publish::check_publish;
use crate::{
    domain::field_violation::FieldViolations,
    gateway::{Gateway, GatewayError, Published},
    grpc::{
        layers::auth::Grant,
        wire::{
            library_errors::explain,
            status::GrpcError,
            stream_codec::{StreamMessage, UnreadableMessage},
            to_proto,
        },
    },
    proto::v1::{self, stream_publish_events_response::Outcome},
};

/// Responds to `messages` in their order, with at most `in_flight_max` in flight. Flow control keeps the rest
/// in the client. Ends with `messages`; at the shutdown with UNAVAILABLE, after the responses to the messages
/// that were read.
pub(in crate::grpc) fn publish(
    gateway: Gateway,
    grant: Grant,
    messages: impl Stream<Item = Result<StreamMessage, Status>> + Send,
    in_flight_max: usize,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<v1::StreamPublishEventsResponse, Status>> + Send {
    let stopped = shutdown.clone();
    let last = stream::once(async move { stopped.is_cancelled() })
        .filter_map(|stopped| ready(stopped.then(|| Err(GrpcError::shutting_down().into()))));
    messages
        .take_until(shutdown.cancelled_owned())
        .enumerate()
        // Called in the order of the messages. The event is queued for the store when the call returns.
        .map(move |(index, message)| match message {
            Ok(message) => Either::Left(respond(&gateway, &grant, index, message)),
            Err(status) => Either::Right(ready(Err(of_message(index, status)))),
        })
        .buffered(in_flight_max)
        .chain(last)
}

/// The error that ends the stream at the message with this index.
fn of_message(index: usize, status: Status) -> Status {
    match explain(&status) {
        Some(error) => error.with_metadata("message_index", index.to_string()).into(),
        None => status,
    }
}

/// Begins to store the event of the message with this index. The future resolves to the response.
fn respond(
    gateway: &Gateway,
    grant: &Grant,
    index: usize,
    message: StreamMessage,
) -> impl Future<Output = Result<v1::StreamPublishEventsResponse, Status>> + Send + use<> {
    let metrics = Arc::clone(gateway.metrics());
    let (sequence, publishing) = match message {
        Ok(message) => (message.sequence, begin(gateway, grant, message.request).left_future()),
        Err(UnreadableMessage { sequence, why }) => (sequence, ready(Err(why.into())).right_future()),
    };
    publishing.map(move |outcome| {
        let outcome = match outcome {
            Ok(published) => Outcome::Result(to_proto::publish_result(published)),
            Err(error) => {
                metrics.publish_refused(error.reason());
                Outcome::Error(error.into_publish_error(index))
            }
        };
        Ok(v1::StreamPublishEventsResponse { sequence, outcome: Some(outcome) })
    })
}

/// Begins to publish. Paths of violations start at the request, as in PublishEvent.
fn begin(
    gateway: &Gateway,
    grant: &Grant,
    request: Option<v1::PublishEventRequest>,
) -> impl Future<Output = Result<Published, GrpcError>> + Send + use<> {
    let Some(request) = request else {
        let mut violations = FieldViolations::default();
        violations.required("request");
        return ready(Err(violations.into())).left_future();
    };
    let validate_only = request.validate_only;
    let event = match check_publish(gateway, grant, request, None, 0, "") {
        Ok(event) => event,
        Err(violations) => return ready(Err(violations.into())).left_future(),
    };
    let publishing = if validate_only {
        let gateway = gateway.clone();
        async move { gateway.check_publish(vec![event]).await }.left_future()
    } else {
        match gateway.publish(vec![event]) {
            // A task, so that the event leaves the limits even if the client does not read its responses.
            Ok(publishing) => tokio::spawn(publishing).map(joined).right_future(),
            Err(error) => return ready(Err(error.into())).left_future(),
        }
    };
    publishing.map(|published| Ok(one(published)?)).right_future()
}

fn joined(
    ended: Result<Result<Vec<Published>, GatewayError>, JoinError>,
) -> Result<Vec<Published>, GatewayError> {
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_cancelled) => Err(GatewayError::ShuttingDown),
    })
}

fn one(published: Result<Vec<Published>, GatewayError>) -> Result<Published, GatewayError> {
    Ok(published?.pop().expect("one event was published, so there is one result"))
}
