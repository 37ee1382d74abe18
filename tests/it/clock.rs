//! A wall clock that is set while the gateway runs: waits and ages count the time that passes, and records show
//! the time of the clock.

use std::time::Duration;

use tidings::{
    clock::{Clock, SystemClock},
    proto::v1::{self, delivery, subscription::State},
};

use crate::support::{
    client::{Subscribed, retry_policy, subscription},
    events::{contact, long_message, publish_request},
    process::{Launcher, TidingsProcess},
    receiver::{Receiver, Response},
    scrape::Scrape,
    wrong_clock::WrongClock,
};

const ACCOUNT: i64 = 1;
const HOUR: i64 = 3600;
const TEN_YEARS: i64 = 10 * 365 * 24 * HOUR;
/// Longest wait of a retry: long enough that the clock is set while one waits.
const BACKOFF: Duration = Duration::from_secs(3);
/// Bytes of an event of which twenty fill a file of the log.
const EVENT_BYTES: usize = 50_000;

/// This machine's time, in seconds.
fn seconds() -> i64 {
    SystemClock::default().now().seconds()
}

/// Subscribes to contacts.
async fn subscribe(gateway: &TidingsProcess, url: String, backoff: Duration) -> Subscribed {
    let asked = v1::Subscription {
        retry_policy: retry_policy(50, backoff, backoff),
        event_types: vec![v1::EventType::ContactCreated.into()],
        ..subscription(url)
    };
    gateway.client.subscribe(ACCOUNT, asked).await
}

async fn publish(gateway: &TidingsProcess, id: &str) {
    gateway.client.try_publish(publish_request(ACCOUNT, id, contact(ACCOUNT))).await.unwrap();
}

/// Waits until a delivery waits for a retry, after so many attempts.
async fn waits(gateway: &TidingsProcess, name: &str, attempts: i32) -> v1::Delivery {
    let is_waiting = |delivery: &v1::Delivery| {
        delivery.attempt_count() >= attempts && delivery.state() == delivery::State::Retrying
    };
    gateway.client.delivery_when(name, "waiting", is_waiting).await
}

async fn steps(gateway: &TidingsProcess, direction: &str, count: f64) {
    let series = format!(r#"tidings_clock_steps_total{{direction="{direction}"}}"#);
    Scrape::reaches(gateway, &[(&series, count)]).await;
}

#[tokio::test]
async fn a_clock_set_back_delays_no_retry_by_more_than_its_backoff_nor_does_a_restart_after_it() {
    let receiver = Receiver::always(Response::status(500)).await;
    let (clock, launcher) = (WrongClock::new(), Launcher::new());
    let launcher = clock.of(&launcher);
    let gateway = launcher.start().await;
    let subscribed = subscribe(&gateway, receiver.url("/"), BACKOFF).await;
    publish(&gateway, "before").await;
    let name = subscribed.delivery("before");
    let (mut attempts, mut noticed) = (waits(&gateway, &name, 1).await.attempt_count(), 0.0);
    for wrong in [-HOUR, -TEN_YEARS] {
        clock.is_ahead_by(wrong);
        noticed += 1.0;
        steps(&gateway, "back", noticed).await;
        attempts = waits(&gateway, &name, attempts).await.attempt_count();
        let delivery = waits(&gateway, &name, attempts + 2).await;
        attempts = delivery.attempt_count();
        // People see when it is, by the clock that they see.
        let next = delivery.next_attempt_time.unwrap().seconds;
        let now = seconds() + wrong;
        let latest = now + i64::try_from(BACKOFF.as_secs()).unwrap() + 1;
        assert!((now - 60..=latest).contains(&next), "{next} at {now}");
        let last = delivery.attempts.last().unwrap().start_time.unwrap().seconds;
        assert!((now - 60..=now).contains(&last), "{last} at {now}");
    }
    let log = gateway.stop().await;
    assert_eq!(log.iter().filter(|line| line.contains("the wall clock was set back")).count(), 2, "{log:#?}");

    // While it is down.
    clock.is_ahead_by(-TEN_YEARS - HOUR);
    let gateway = launcher.start().await;
    let delivery = waits(&gateway, &name, attempts + 2).await;
    receiver.now(|_| Response::status(200));
    gateway.client.delivery_in(&delivery.name, delivery::State::Succeeded).await;
    steps(&gateway, "back", 0.0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_clock_set_ahead_neither_removes_what_was_just_stored_nor_suspends_nor_attempts_early() {
    /// As long as a test never takes.
    const BACKOFF: Duration = Duration::from_hours(10);
    /// Attempts of a streak that suspends, if it is long enough.
    const STREAK: i32 = 20;
    let (works, fails) = (Receiver::start().await, Receiver::always(Response::status(500)).await);
    let (clock, launcher) = (WrongClock::new(), Launcher::new());
    let launcher = launcher.with("retention-bytes-max", "16MiB").with("suspend-after", "1h");
    let gateway = clock.of(&launcher).start().await;
    let large = async |number: i64| {
        let event = long_message(ACCOUNT, 1, number + 1, EVENT_BYTES);
        let request = publish_request(ACCOUNT, &format!("e{number}"), event);
        gateway.client.try_publish(request).await.unwrap().create_time.unwrap().seconds
    };
    gateway.client.subscribe(ACCOUNT, subscription(works.url("/"))).await;
    for number in 0..100 {
        large(number).await;
    }
    gateway.client.nothing_owed(ACCOUNT).await;
    let slow = subscribe(&gateway, fails.url("/slow"), BACKOFF).await;
    let fast = subscribe(&gateway, fails.url("/fast"), Duration::from_millis(20)).await;
    publish(&gateway, "failing").await;
    let slow = slow.delivery("failing");
    waits(&gateway, &slow, 1).await;
    let streak = fast.delivery("failing");
    gateway.client.delivery_when(&streak, "attempted", |delivery| delivery.attempt_count() > STREAK).await;

    clock.is_ahead_by(TEN_YEARS);
    steps(&gateway, "ahead", 1.0).await;
    publish(&gateway, "later").await;
    let later = fast.delivery("later");
    gateway.client.delivery_when(&later, "attempted", |delivery| delivery.attempt_count() >= 3).await;
    assert_eq!(gateway.client.subscription(&fast.name).await.state(), State::Active);
    // Retention is seen to run: more is stored than may be. Events of the last hour would all be gone.
    let mut number = 100;
    let first = v1::GetEventRequest { name: format!("accounts/{ACCOUNT}/events/e0") };
    let mut events = gateway.client.events.clone();
    while events.get_event(first.clone()).await.is_ok() {
        let created = large(number).await;
        assert!((created - seconds() - TEN_YEARS).abs() < 60, "events have the clock's time: {created}");
        number += 1;
        assert!(number < 2000, "nothing is removed");
    }
    let kept = gateway.client.stored_events(ACCOUNT).await.len();
    assert!(kept * EVENT_BYTES > 8 << 20, "{kept} of {number} are kept");
    let delivery = gateway.client.delivery(&slow).await;
    assert_eq!((delivery.state(), delivery.attempt_count()), (delivery::State::Retrying, 1), "not early");
    gateway.stop().await;
}
