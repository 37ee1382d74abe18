//! Converts the domain's types to the contract's messages.

use std::time::Duration;

use crate::{
    domain::{
        delivery::{Attempt, DeliveryState, Outcome},
        ids::{DeliveryName, EventName},
        secret::REDACTED,
        subscription::{RetryOverrides, Settings, SignatureScheme, State, Subscription, TlsOptions},
    },
    gateway::{DeliveryRecord, Published, Summary},
    proto::v1,
};

/// A subscription without its secrets.
pub(in crate::grpc) fn subscription(subscription: &Subscription) -> v1::Subscription {
    v1::Subscription {
        name: subscription.name.to_string(),
        uid: subscription.uid.to_string(),
        state: state(subscription.state).into(),
        state_reason: subscription.state_reason.clone(),
        create_time: Some(subscription.create_time.into()),
        update_time: Some(subscription.update_time.into()),
        etag: subscription.etag(),
        public_key: subscription.public_key().unwrap_or_default(),
        ..settings(&subscription.settings)
    }
}

/// The fields of a subscription that its owner sets.
pub(in crate::grpc) fn settings(settings: &Settings) -> v1::Subscription {
    v1::Subscription {
        display_name: settings.display_name.clone(),
        url: settings.url.to_string(),
        event_types: settings.event_types.iter().map(|kind| (*kind).into()).collect(),
        inbox_ids: settings.inbox_ids.clone(),
        payload_format: settings.payload_format.to_wire().into(),
        headers: settings.headers.keys().map(|name| (name.clone(), REDACTED.to_owned())).collect(),
        retry_policy: retry_policy(settings.retry),
        timeout: settings.timeout.map(duration),
        max_in_flight: settings.max_in_flight.map_or(0, i32::from),
        ordered: settings.ordered,
        annotations: settings.annotations.clone(),
        tls: settings.tls.as_ref().map(|tls| tls_options(tls.options())),
        signature_scheme: signature_scheme(settings.signature_scheme).into(),
        ..Default::default()
    }
}

fn retry_policy(retry: RetryOverrides) -> Option<v1::RetryPolicy> {
    let policy = v1::RetryPolicy {
        max_attempts: retry.max_attempts.map_or(0, int32),
        min_backoff: retry.min_backoff.map(duration),
        max_backoff: retry.max_backoff.map(duration),
    };
    (retry != RetryOverrides::default()).then_some(policy)
}

fn tls_options(options: &TlsOptions) -> v1::TlsOptions {
    v1::TlsOptions {
        server_name: options.server_name.clone(),
        ca_certificates: options.ca_certificates.clone(),
        client_certificate: options.client_certificate.clone(),
        client_key: options.client_key.as_ref().map_or_else(String::new, |_| REDACTED.to_owned()),
    }
}

fn signature_scheme(scheme: SignatureScheme) -> v1::subscription::SignatureScheme {
    match scheme {
        SignatureScheme::HmacSha256 => v1::subscription::SignatureScheme::HmacSha256,
        SignatureScheme::Ed25519 => v1::subscription::SignatureScheme::Ed25519,
    }
}

fn state(state: State) -> v1::subscription::State {
    match state {
        State::Active => v1::subscription::State::Active,
        State::Paused => v1::subscription::State::Paused,
        State::Suspended => v1::subscription::State::Suspended,
    }
}

/// The event type of a filter.
pub(in crate::grpc) fn parse_event_type(event_type: v1::EventType) -> Option<v1::EventType> {
    (event_type != v1::EventType::Unspecified).then_some(event_type)
}

/// The subscription state of a filter.
pub(in crate::grpc) fn parse_state(state: v1::subscription::State) -> Option<State> {
    match state {
        v1::subscription::State::Unspecified => None,
        v1::subscription::State::Active => Some(State::Active),
        v1::subscription::State::Paused => Some(State::Paused),
        v1::subscription::State::Suspended => Some(State::Suspended),
    }
}

/// The result of publishing an event.
pub(in crate::grpc) fn publish_result(published: Published) -> v1::PublishResult {
    let Published { account, id, create_time, duplicate, delivery_count } = published;
    v1::PublishResult {
        event: id.map(|id| EventName { account, id }.to_text()).unwrap_or_default(),
        create_time: create_time.map(Into::into),
        duplicate,
        delivery_count: int32(delivery_count),
    }
}

/// A delivery to `subscription`.
pub(in crate::grpc) fn delivery(subscription: &Subscription, record: &DeliveryRecord) -> v1::Delivery {
    let event = &record.event;
    let name = DeliveryName { subscription: subscription.name.clone(), event: event.name.id.clone() };
    // The record has the latest attempts. The number of the last one is the count of all.
    let before =
        record.attempt_count.saturating_sub(u32::try_from(record.attempts.len()).unwrap_or(u32::MAX));
    v1::Delivery {
        name: name.to_string(),
        event: event.name.to_string(),
        event_type: event.event_type().into(),
        state: delivery_state(record.state).into(),
        attempt_count: int32(record.attempt_count),
        next_attempt_time: match record.state {
            DeliveryState::Retrying { due } => Some(due.into()),
            _ => None,
        },
        attempts: (before + 1..).zip(&record.attempts).map(|(number, one)| attempt(number, one)).collect(),
        create_time: Some(record.create_time.into()),
        update_time: Some(record.update_time.into()),
    }
}

/// A row for each state, including those without deliveries.
pub(in crate::grpc) fn summary(summary: &Summary) -> v1::SummarizeDeliveriesResponse {
    use v1::delivery::State;
    let counts = &summary.counts;
    let rows = [
        (State::Pending, counts.pending),
        (State::Retrying, counts.retrying),
        (State::Succeeded, counts.succeeded),
        (State::Failed, counts.failed),
        (State::Cancelled, counts.cancelled),
    ];
    let row = |(state, count): (State, u64)| v1::DeliveryCount {
        state: state.into(),
        count: i64::try_from(count).unwrap_or(i64::MAX),
    };
    v1::SummarizeDeliveriesResponse {
        counts: rows.map(row).to_vec(),
        oldest_owed_create_time: summary.oldest_owed.map(Into::into),
    }
}

fn attempt(number: u32, attempt: &Attempt) -> v1::DeliveryAttempt {
    use v1::delivery_attempt::Outcome as Wire;
    let outcome = match attempt.outcome {
        Outcome::Ok => Wire::Ok,
        Outcome::HttpStatus => Wire::HttpStatus,
        Outcome::Timeout => Wire::Timeout,
        Outcome::Connect => Wire::Connect,
        Outcome::Io => Wire::Io,
        Outcome::Blocked => Wire::Blocked,
    };
    v1::DeliveryAttempt {
        number: int32(number),
        start_time: Some(attempt.start_time.into()),
        duration: Some(duration(attempt.duration)),
        outcome: outcome.into(),
        http_status: attempt.http_status.into(),
        error: attempt.error.clone(),
        response_body: attempt.response_body.clone(),
        url: attempt.url.clone(),
    }
}

fn delivery_state(state: DeliveryState) -> v1::delivery::State {
    match state {
        DeliveryState::Pending => v1::delivery::State::Pending,
        DeliveryState::Retrying { .. } => v1::delivery::State::Retrying,
        DeliveryState::Succeeded => v1::delivery::State::Succeeded,
        DeliveryState::Failed => v1::delivery::State::Failed,
        DeliveryState::Cancelled => v1::delivery::State::Cancelled,
    }
}

/// The delivery state of a filter. The time of a retry does not matter.
pub(in crate::grpc) fn parse_delivery_state(state: v1::delivery::State) -> Option<DeliveryState> {
    match state {
        v1::delivery::State::Unspecified => None,
        v1::delivery::State::Pending => Some(DeliveryState::Pending),
        v1::delivery::State::Retrying => Some(DeliveryState::Retrying { due: Default::default() }),
        v1::delivery::State::Succeeded => Some(DeliveryState::Succeeded),
        v1::delivery::State::Failed => Some(DeliveryState::Failed),
        v1::delivery::State::Cancelled => Some(DeliveryState::Cancelled),
    }
}

/// A duration of at most some days.
pub(in crate::grpc) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("less than 1,000,000,000"),
    }
}

fn int32(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
