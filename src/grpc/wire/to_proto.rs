//! Converts the domain's types to the contract's messages.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::{
    domain::{
        delivery::{Attempt, DeliveryState, Outcome},
        ids::{DeliveryName, EventName},
        payload_format::PayloadFormat,
        rate_limit::RateLimit,
        secret::REDACTED,
        subscription::{
            EventTypes, RetryOverrides, Settings, SignatureScheme, State, Subscription, TlsOptions,
        },
        time::UnixMicros,
    },
    event::{dropped::DroppedFields, exchange::Exchange},
    gateway::{DeliveryRecord, Gateway, Published, SubscriptionHealth, Summary},
    metrics::{StatsPeriod, StatsReport},
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

/// A subscription without its secrets, and its health.
pub(in crate::grpc) fn subscription_with_health(
    gateway: &Gateway,
    stored: &Subscription,
) -> v1::Subscription {
    let SubscriptionHealth { owed, latest, rate_limited } = gateway.health(stored);
    v1::Subscription {
        rate_limited,
        owed_count: Some(i64::try_from(owed).unwrap_or(i64::MAX)),
        failing_since_time: latest.failing_since.map(Into::into),
        last_success_time: latest.last_success.map(Into::into),
        last_failure_time: latest.last_failure.map(Into::into),
        last_error: latest.last_error,
        ..subscription(stored)
    }
}

/// Attempts over time.
pub(in crate::grpc) fn delivery_stats(
    report: &StatsReport,
    since: UnixMicros,
    bucket: Duration,
) -> v1::GetDeliveryStatsResponse {
    let count = |count: u64| Some(i64::try_from(count).unwrap_or(i64::MAX));
    let starts = std::iter::successors(Some(report.start), |start| Some(start.plus(bucket)));
    let buckets = starts.zip(&report.buckets).map(|(start, counts)| v1::DeliveryStatsBucket {
        start_time: Some(start.into()),
        succeeded_count: count(counts.succeeded),
        failed_attempt_count: count(counts.failed),
        given_up_count: count(counts.given_up),
        latency_p50: counts.percentile(50).map(duration),
        latency_p95: counts.percentile(95).map(duration),
    });
    let total = report.total();
    v1::GetDeliveryStatsResponse {
        buckets: buckets.collect(),
        since_time: Some(since.into()),
        latency_p50: total.percentile(50).map(duration),
        latency_p95: total.percentile(95).map(duration),
    }
}

/// The fields of a subscription that its owner sets.
pub(in crate::grpc) fn settings(settings: &Settings) -> v1::Subscription {
    v1::Subscription {
        display_name: settings.display_name.clone(),
        url: settings.url.to_string(),
        event_types: settings.event_types.listed().iter().map(|kind| (*kind).into()).collect(),
        all_event_types: settings.event_types == EventTypes::All,
        inbox_ids: settings.inbox_ids.clone(),
        payload_format: settings.payload_format.to_wire().into(),
        headers: settings.headers.keys().map(|name| (name.clone(), REDACTED.to_owned())).collect(),
        retry_policy: retry_policy(settings.retry),
        timeout: settings.timeout.map(duration),
        max_in_flight: settings.max_in_flight.map_or(0, i32::from),
        rate_limit: settings.rate_limit.map(rate_limit),
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
        give_up_statuses: retry.give_up.texts(),
    };
    (retry != RetryOverrides::default()).then_some(policy)
}

fn rate_limit(limit: RateLimit) -> v1::RateLimit {
    v1::RateLimit {
        events: int32(limit.events),
        interval: Some(duration(limit.interval)),
        burst: int32(limit.burst),
    }
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

/// The form of a body that a call asks for.
pub(in crate::grpc) fn parse_payload_format(
    format: v1::subscription::PayloadFormat,
) -> Option<PayloadFormat> {
    match format {
        v1::subscription::PayloadFormat::Unspecified => None,
        v1::subscription::PayloadFormat::Documented => Some(PayloadFormat::Documented),
        v1::subscription::PayloadFormat::Sample => Some(PayloadFormat::Sample),
        v1::subscription::PayloadFormat::Chatwoot => Some(PayloadFormat::Chatwoot),
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
    let Published { account, id, create_time, duplicate, delivery_count, dropped } = published;
    v1::PublishResult {
        event: id.map(|id| EventName { account, id }.to_text()).unwrap_or_default(),
        create_time: create_time.map(Into::into),
        duplicate,
        delivery_count: Some(int32(delivery_count)),
        warnings: dropped.into_iter().map(warning).collect(),
    }
}

fn warning(dropped: DroppedFields) -> v1::PublishWarning {
    let format = dropped.format.to_wire();
    let more = if dropped.has_more { ", and there are more" } else { "" };
    v1::PublishWarning {
        fields: dropped.paths,
        description: format!("not in {}{more}", format.as_str_name()),
        payload_format: format.into(),
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
        attempt_count: Some(int32(record.attempt_count)),
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
        count: Some(i64::try_from(count).unwrap_or(i64::MAX)),
    };
    v1::SummarizeDeliveriesResponse {
        counts: rows.map(row).to_vec(),
        oldest_owed_create_time: summary.oldest_owed.map(Into::into),
    }
}

/// One attempt.
pub(in crate::grpc) fn attempt(number: u32, attempt: &Attempt) -> v1::DeliveryAttempt {
    use v1::delivery_attempt::Outcome as Wire;
    let outcome = match attempt.outcome {
        Outcome::Ok => Wire::Ok,
        Outcome::HttpStatus => Wire::HttpStatus,
        Outcome::Timeout => Wire::Timeout,
        Outcome::Connect => Wire::Connect,
        Outcome::Io => Wire::Io,
        Outcome::Blocked => Wire::Blocked,
        Outcome::Damaged => Wire::Damaged,
        Outcome::Expired => Wire::Expired,
    };
    v1::DeliveryAttempt {
        number: int32(number),
        // Of an attempt whose record is damaged neither is known.
        start_time: (attempt.start_time != UnixMicros(0)).then(|| attempt.start_time.into()),
        duration: Some(duration(attempt.duration)),
        outcome: outcome.into(),
        http_status: attempt.http_status.into(),
        error: attempt.error.clone(),
        response_body: attempt.response_body.clone(),
        url: attempt.url.clone(),
        resent: int32(attempt.resent),
        ..Default::default()
    }
}

/// The outcome of a filter.
pub(in crate::grpc) fn parse_outcome(outcome: v1::delivery_attempt::Outcome) -> Option<Outcome> {
    use v1::delivery_attempt::Outcome as Wire;
    match outcome {
        Wire::Unspecified => None,
        Wire::Ok => Some(Outcome::Ok),
        Wire::HttpStatus => Some(Outcome::HttpStatus),
        Wire::Timeout => Some(Outcome::Timeout),
        Wire::Connect => Some(Outcome::Connect),
        Wire::Io => Some(Outcome::Io),
        Wire::Blocked => Some(Outcome::Blocked),
        Wire::Damaged => Some(Outcome::Damaged),
        Wire::Expired => Some(Outcome::Expired),
    }
}

/// The period of statistics.
pub(in crate::grpc) fn parse_period(period: v1::get_delivery_stats_request::Period) -> Option<StatsPeriod> {
    use v1::get_delivery_stats_request::Period;
    match period {
        Period::Unspecified | Period::Hour => Some(StatsPeriod::Hour),
        Period::Week => Some(StatsPeriod::Week),
    }
}

/// Adds what went over the wire to an attempt.
pub(in crate::grpc) fn add_exchange(attempt: &mut v1::DeliveryAttempt, exchange: &Exchange) {
    let header = |(name, value): (&HeaderName, &HeaderValue)| v1::HttpHeader {
        name: name.to_string(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    attempt.request_headers =
        exchange.request_headers.iter().map(|(name, value)| header((name, value))).collect();
    attempt.response_headers = exchange.response_headers.iter().map(header).collect();
    let address = exchange.shown_address(&attempt.url);
    attempt.remote_address = address.map(|address| address.to_string()).unwrap_or_default();
    attempt.dns_duration = exchange.dns.map(duration);
    attempt.connect_duration = exchange.connect.map(duration);
    attempt.tls_duration = exchange.tls.map(duration);
    attempt.first_byte_duration = exchange.first_byte.map(duration);
}

/// A delivery to `subscription`, with what went over the wire in those attempts where that is kept.
pub(in crate::grpc) fn delivery_with_exchanges(
    gateway: &Gateway,
    subscription: &Subscription,
    record: &DeliveryRecord,
) -> v1::Delivery {
    let mut shown = delivery(subscription, record);
    for (shown, attempt) in shown.attempts.iter_mut().zip(&record.attempts) {
        if let Some(exchange) = gateway.exchange(record.key, attempt.start_time) {
            add_exchange(shown, &exchange);
        }
    }
    shown
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
