//! Counts appear in the text under their names.

use super::*;
use crate::{
    domain::ids::{AccountId, EventName, Seq},
    event::samples,
};

fn sample(text: &str, series: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().unwrap()
}

fn attempt(outcome: Outcome) -> Attempt {
    Attempt {
        start_time: UnixMicros(2_000_000),
        duration: Duration::from_millis(3),
        outcome,
        http_status: 0,
        error: String::new(),
        response_body: String::new(),
        retry_after: None,
        resent: 0,
        url: String::new(),
    }
}

fn event() -> StoredEvent {
    let account = AccountId::new(1).unwrap();
    let name = EventName { account, id: "e".parse().unwrap() };
    StoredEvent::new(Seq(1), name, UnixMicros(1_000_000), samples::typical_message(account, 1, 1))
}

#[test]
fn every_type_and_outcome_is_a_series_of_its_own_from_the_start() {
    let metrics = Metrics::new(UnixMicros(7_000_000));
    assert_eq!(metrics.events_accepted.len(), EventType::all().count());
    metrics.event_accepted(EventType::MessageCreated.into(), 3);
    for outcome in [Outcome::Blocked, Outcome::Blocked, Outcome::Io] {
        metrics.attempt_ended(&event(), &attempt(outcome), true);
    }
    let text = metrics.text();
    assert_eq!(sample(&text, r#"tidings_events_accepted_total{type="message_created"}"#), 1.0);
    assert_eq!(sample(&text, r#"tidings_events_accepted_total{type="inbox_updated"}"#), 0.0);
    assert_eq!(sample(&text, "tidings_deliveries_created_total"), 3.0);
    for (outcome, count) in OUTCOMES.into_iter().zip([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0]) {
        assert_eq!(sample(&text, &format!(r#"tidings_attempts_total{{outcome="{outcome}"}}"#)), count);
    }
    assert_eq!(sample(&text, "process_start_time_seconds"), 7.0);
}

#[test]
fn arrival_is_measured_from_the_events_time_and_of_first_attempts_that_succeed_only() {
    let metrics = Metrics::new(UnixMicros(0));
    metrics.attempt_ended(&event(), &attempt(Outcome::Ok), true);
    metrics.attempt_ended(&event(), &attempt(Outcome::Ok), false);
    metrics.attempt_ended(&event(), &attempt(Outcome::HttpStatus), true);
    let text = metrics.text();
    assert_eq!(sample(&text, "tidings_publish_to_arrival_seconds_count"), 1.0);
    assert_eq!(sample(&text, "tidings_publish_to_arrival_seconds_sum"), 1.003);
    assert_eq!(sample(&text, "tidings_attempt_duration_seconds_count"), 3.0);
}

#[test]
fn only_unfinished_deliveries_are_settled_and_only_finished_ones_reopened() {
    let metrics = Metrics::new(UnixMicros(0));
    let retrying = DeliveryState::Retrying { due: UnixMicros(1) };
    for (was_owed, state) in [
        (true, retrying),
        (true, DeliveryState::Failed),
        (false, retrying),
        (true, DeliveryState::Cancelled),
        (false, DeliveryState::Cancelled),
    ] {
        metrics.delivery_moved(was_owed, state);
    }
    let text = metrics.text();
    let settled =
        |state: &str| sample(&text, &format!(r#"tidings_deliveries_settled_total{{state="{state}"}}"#));
    assert_eq!([settled("succeeded"), settled("failed"), settled("cancelled")], [0.0, 1.0, 1.0]);
    assert_eq!(sample(&text, "tidings_deliveries_reopened_total"), 1.0);
}

#[test]
fn an_unknown_reason_makes_no_series() {
    let metrics = Metrics::new(UnixMicros(0));
    metrics.publish_refused("OVERLOADED");
    metrics.publish_refused("SOMETHING_NEW");
    let text = metrics.text();
    let refused =
        |reason: &str| sample(&text, &format!(r#"tidings_publishes_refused_total{{reason="{reason}"}}"#));
    assert_eq!([refused("OVERLOADED"), refused("OTHER")], [1.0, 1.0]);
    assert_eq!(text.matches("tidings_publishes_refused_total{").count(), REFUSAL_REASONS.len());
}

#[test]
fn the_store_is_asked_whenever_the_text_is_rendered() {
    let metrics = Metrics::new(UnixMicros(0));
    assert!(!metrics.text().contains("tidings_store"), "a store that is not open has no figures");
    let looks = std::sync::atomic::AtomicU64::new(0);
    metrics.watch_store(move |show| {
        let pending = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        show(&StoreReport {
            pending,
            oldest_retrying_age: Duration::from_millis(1500),
            ..Default::default()
        });
    });
    for look in [0.0, 1.0] {
        let text = metrics.text();
        assert_eq!(sample(&text, r#"tidings_deliveries_owed{state="pending"}"#), look);
        assert_eq!(sample(&text, r#"tidings_oldest_owed_age_seconds{state="retrying"}"#), 1.5);
    }
}

#[test]
fn a_connection_is_counted_until_its_guard_is_dropped() {
    let metrics = Metrics::new(UnixMicros(0));
    let (one, two) = (metrics.grpc_connections.track(), metrics.grpc_connections.track());
    drop(one);
    assert_eq!(sample(&metrics.text(), "tidings_grpc_connections"), 1.0);
    drop(two);
    assert_eq!(sample(&metrics.text(), "tidings_grpc_connections"), 0.0);
}
