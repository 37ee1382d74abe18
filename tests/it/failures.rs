//! Receivers that fail, each in its way: the state, the outcome and the attempts that callers see.

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{
    golden::events::{ACCOUNT, full},
    support::{
        client::{Client, Counts, Subscribed, as_stored, attempts, duration, id_of, subscription},
        closed_address,
        events::{message, publish_request},
        process::Launcher,
        receiver::{Receiver, Response},
    },
};
use tidings::{
    domain::ids::AccountId,
    event::{samples, webhook::webhook_id},
    proto::v1::{
        self, EventType,
        delivery::State,
        delivery_attempt::Outcome::{self, Connect, HttpStatus, Io, Ok, Timeout},
    },
};

const KIND: EventType = EventType::MessageCreated;

/// Publishes one event, and waits for the end of its only delivery.
async fn delivered(client: &Client, subscribed: &Subscribed, state: State) -> v1::Delivery {
    let published = client.publish(ACCOUNT, full(KIND)).await;
    assert_eq!(published.delivery_count(), 1);
    client.delivery_in(&subscribed.delivery(id_of(&published.event)), state).await
}

/// There are `count` attempts, numbered in turn, all of this outcome, status and error.
#[track_caller]
fn assert_attempts(delivery: &v1::Delivery, count: usize, outcome: Outcome, status: i32, error: &str) {
    assert_eq!(usize::try_from(delivery.attempt_count()), std::result::Result::Ok(count), "{delivery:#?}");
    assert_eq!(delivery.attempts.len(), count, "{delivery:#?}");
    for (attempt, number) in delivery.attempts.iter().zip(1..) {
        assert_eq!((attempt.number, attempt.outcome()), (number, outcome), "{delivery:#?}");
        assert_eq!(attempt.http_status, status, "{delivery:#?}");
        assert!(
            attempt.error.contains(error) && attempt.error.is_empty() == error.is_empty(),
            "{attempt:#?}"
        );
        assert!(attempt.start_time.is_some() && attempt.duration.is_some(), "{delivery:#?}");
    }
}

/// Makes two attempts at a receiver that does always this.
async fn fails(response: Response, outcome: Outcome, status: i32, error: &str) -> v1::Delivery {
    let receiver = Receiver::always(response).await;
    let gateway = Launcher::new().start().await;
    let asked = v1::Subscription {
        retry_policy: attempts(2),
        timeout: duration(Duration::from_secs(1)),
        ..subscription(receiver.url("/hook"))
    };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    let delivery = delivered(&gateway.client, &subscribed, State::Failed).await;
    assert_attempts(&delivery, 2, outcome, status, error);
    assert_eq!(delivery.next_attempt_time, None);
    assert!(delivery.attempts.iter().all(|attempt| attempt.url == receiver.url("/hook")));

    let listed = gateway.client.deliveries_in(ACCOUNT, &[State::Failed]).await;
    let last = v1::Delivery { attempts: as_stored(&delivery.attempts[1..]), ..delivery.clone() };
    assert_eq!(listed, [last], "a list shows the last attempt only");
    let seen = receiver.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].webhook_id(), &seen[0].body), (seen[1].webhook_id(), &seen[1].body));
    let numbers: Vec<_> = seen.iter().map(|request| request.header("webhook-attempt")).collect();
    assert_eq!(numbers, ["1", "2"]);
    gateway.stop().await;
    delivery
}

#[tokio::test]
async fn a_status_that_is_no_success_is_tried_again_until_the_attempts_are_used_up() {
    let response = Response::with_body(500, "out of order");
    let delivery = fails(response, HttpStatus, 500, "answered 500").await;
    assert!(delivery.attempts.iter().all(|attempt| attempt.response_body == "out of order"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::start().await;
    let response = Response::with_header(307, "location", elsewhere.url("/elsewhere"));
    fails(response, HttpStatus, 307, "redirects are not followed").await;
    assert_eq!(elsewhere.seen().len(), 0);
}

#[tokio::test]
async fn a_receiver_that_never_responds_is_given_up_in_time() {
    let delivery = fails(Response::nothing(), Timeout, 0, "no complete response within 1s").await;
    for attempt in &delivery.attempts {
        let took: Duration = attempt.duration.unwrap().try_into().unwrap();
        assert!((1..30).contains(&took.as_secs()), "{took:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_without_a_response_is_broken() {
    fails(Response::close(), Io, 0, "closed before the response was complete").await;
}

#[tokio::test]
async fn a_response_that_breaks_in_its_head_is_broken() {
    fails(Response::half_head(), Io, 0, "closed before the response was complete").await;
}

#[tokio::test]
async fn a_2xx_is_settled_at_its_status_line() {
    let broken = Response::half_body();
    for (response, body) in [(Response::stalled_body(), "half"), (broken, "half")] {
        let receiver = Receiver::always(response).await;
        let gateway = Launcher::new().start().await;
        // One conversation: the second event goes once the first one is settled, while its body still hangs.
        let asked = v1::Subscription {
            ordered: true,
            timeout: duration(Duration::from_secs(30)),
            ..subscription(receiver.url("/"))
        };
        let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
        for number in 1..=2 {
            let delivery = delivered(&gateway.client, &subscribed, State::Succeeded).await;
            assert_attempts(&delivery, 1, Ok, 200, "");
            assert_eq!(delivery.attempts[0].response_body, body);
            assert_eq!(receiver.seen().len(), number);
        }
        // Settled attempts are not waited for.
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_body_without_end_costs_its_place_and_no_more() {
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = Arc::clone(&hangs);
    let receiver = Receiver::with(move |_| {
        if hanging.load(Ordering::Relaxed) { Response::stalled_body() } else { Response::status(200) }
    });
    let (receiver, gateway) = (receiver.await, Launcher::new().start().await);
    let asked = v1::Subscription {
        max_in_flight: 2,
        timeout: duration(Duration::from_secs(5)),
        ..subscription(receiver.url("/"))
    };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    for number in 1..=3 {
        gateway.client.publish(ACCOUNT, message(ACCOUNT, 1, number)).await;
    }
    let settled = |counts: Counts| counts.succeeded == 2;
    gateway.client.counts_when(&subscribed.name, "two are settled", settled).await;
    // The receiver is still at work on two POSTs, as far as anybody knows: it gets no third one.
    hangs.store(false, Ordering::Relaxed);
    assert_eq!(receiver.seen().len(), 2);
    gateway.client.nothing_owed(ACCOUNT).await;
    let seen = receiver.seen();
    assert_eq!(seen.len(), 3, "nothing was sent twice");
    assert!(seen[2].at - seen[0].at > Duration::from_secs(4), "it came before a place was free");
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_that_ends_late_is_read_and_its_connection_used_again() {
    let (may_end, waits) = watch::channel(false);
    let receiver = Receiver::on_connections(move |mut connection| {
        let mut waits = waits.clone();
        async move {
            while connection.request().await.is_some() {
                connection.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
                waits.wait_for(|may_end| *may_end).await.unwrap();
                connection.send("-empty").await;
            }
        }
    });
    let (receiver, gateway) = (receiver.await, Launcher::new().start().await);
    let asked = v1::Subscription {
        max_in_flight: 1,
        timeout: duration(Duration::from_secs(30)),
        ..subscription(receiver.url("/"))
    };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    let first = delivered(&gateway.client, &subscribed, State::Succeeded).await;
    may_end.send(true).unwrap();
    let second = delivered(&gateway.client, &subscribed, State::Succeeded).await;
    let bodies = [&first, &second].map(|delivery| &*delivery.attempts[0].response_body);
    assert_eq!(bodies, ["half", "half-empty"], "what had come when it was settled");
    let connections: Vec<_> = receiver.seen().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_response_that_is_not_http_is_broken() {
    fails(Response::garbage(), Io, 0, "not http").await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_for_good_keeps_its_debts_and_is_not_tried_again_for_a_while() {
    let receiver = Receiver::always(Response::status(410)).await;
    let gateway = Launcher::new().start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    let delivery = delivered(&gateway.client, &subscribed, State::Retrying).await;
    let suspended = v1::subscription::State::Suspended;
    gateway.client.subscription_in(&subscribed.name, suspended).await;
    assert_attempts(&delivery, 1, HttpStatus, 410, "answered 410 Gone");
    assert_eq!(receiver.seen().len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn statuses_are_retried_unless_the_subscription_gives_up_on_them() {
    let gateway = Launcher::new().start().await;
    for (status, gives_up) in
        [(404, true), (422, true), (503, true), (429, false), (408, false), (500, false)]
    {
        let receiver = Receiver::first([Response::status(status)]).await;
        let retry_policy = v1::RetryPolicy {
            give_up_statuses: ["4xx", "503"].map(str::to_owned).into(),
            ..attempts(5).unwrap()
        };
        let asked =
            v1::Subscription { retry_policy: Some(retry_policy.clone()), ..subscription(receiver.url("/")) };
        let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
        let shown = gateway.client.subscription(&subscribed.name).await.retry_policy.unwrap();
        assert_eq!(shown.give_up_statuses, ["503", "4xx"]);
        let published = gateway.client.publish(ACCOUNT, full(KIND)).await;
        let name = subscribed.delivery(id_of(&published.event));
        let state = if gives_up { State::Failed } else { State::Succeeded };
        let delivery = gateway.client.delivery_in(&name, state).await;
        assert_eq!(delivery.attempt_count(), if gives_up { 1 } else { 2 }, "{status}: {delivery:#?}");
        assert_eq!(delivery.attempts[0].http_status, i32::from(status));
        assert_eq!(receiver.seen().len(), if gives_up { 1 } else { 2 }, "{status}");
        gateway.client.delete(&subscribed.name, false).await.unwrap();
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_refused_is_tried_again() {
    let address = closed_address();
    let gateway = Launcher::new().start().await;
    let asked = v1::Subscription { retry_policy: attempts(3), ..subscription(format!("http://{address}/")) };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    let delivery = delivered(&gateway.client, &subscribed, State::Failed).await;
    assert_attempts(&delivery, 3, Connect, 0, "connection refused");
    gateway.stop().await;
}

#[tokio::test]
async fn an_endless_body_is_not_read_to_its_end_and_its_status_decides() {
    let receiver = Receiver::always(Response::endless_body()).await;
    let gateway = Launcher::new().start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    let delivery = delivered(&gateway.client, &subscribed, State::Succeeded).await;
    assert_attempts(&delivery, 1, Ok, 200, "");
    let kept = &delivery.attempts[0].response_body;
    assert!(kept.starts_with("no end in sight!") && kept.len() == 4096, "{} bytes", kept.len());
    gateway.stop().await;
}

#[tokio::test]
async fn a_delivery_succeeds_once_the_receiver_does_and_shows_how_it_came_there() {
    let receiver = Receiver::first([500, 302, 404].map(Response::status)).await;
    let gateway = Launcher::new().start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    let delivery = delivered(&gateway.client, &subscribed, State::Succeeded).await;
    let statuses: Vec<_> = delivery.attempts.iter().map(|attempt| attempt.http_status).collect();
    assert_eq!((delivery.attempt_count(), &*statuses), (4, &[500, 302, 404, 200][..]));
    assert_eq!(delivery.event_type(), KIND);
    assert_eq!(receiver.seen().len(), 4);
    gateway.stop().await;
}

/// The receiver asks to wait with this; the second attempt comes after `least`, and within `most`.
async fn waits(launcher: Launcher, status: u16, retry_after: impl Display, least: Duration, most: Duration) {
    let receiver = Receiver::first([Response::with_header(status, "retry-after", retry_after)]).await;
    let gateway = launcher.start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    let delivery = delivered(&gateway.client, &subscribed, State::Retrying).await;
    assert_attempts(&delivery, 1, HttpStatus, status.into(), "answered");
    let due: SystemTime = delivery.next_attempt_time.unwrap().try_into().unwrap();
    let began: SystemTime = delivery.attempts[0].start_time.unwrap().try_into().unwrap();
    let took: Duration = delivery.attempts[0].duration.unwrap().try_into().unwrap();
    let wait = due.duration_since(began + took).unwrap_or_default();
    assert!((least..=most).contains(&wait), "it is to wait for {wait:?}");

    let seen = receiver.wait_for(2).await;
    let waited = seen[1].at - seen[0].at;
    assert!(waited >= least, "it came after {waited:?} already");
    let delivery = gateway.client.delivery_in(&delivery.name, State::Succeeded).await;
    assert_eq!((delivery.attempt_count(), delivery.next_attempt_time), (2, None));
    gateway.stop().await;
}

/// Two seconds, with tolerance for two clocks and a busy machine.
const NEARLY_2S: Duration = Duration::from_millis(1_950);
const WELL_2S: Duration = Duration::from_millis(3_000);

#[tokio::test]
async fn a_receiver_may_ask_to_wait_for_some_seconds() {
    for status in [429, 503] {
        waits(Launcher::new(), status, 2, NEARLY_2S, WELL_2S).await;
    }
}

#[tokio::test]
async fn a_receiver_may_ask_to_wait_until_a_date() {
    #[expect(clippy::disallowed_methods, reason = "the receiver has a clock of its own")]
    let date = SystemTime::now() + Duration::from_secs(4);
    let date = httpdate::fmt_http_date(date);
    // Without the fraction of the second, and the time until the request comes.
    waits(Launcher::new(), 503, date, Duration::from_millis(500), Duration::from_secs(4)).await;
}

#[tokio::test]
async fn no_receiver_may_ask_to_wait_for_longer_than_the_operator_lets_it() {
    let launcher = Launcher::new().with("retry-after-max", "2s");
    waits(launcher, 503, 1_000_000, NEARLY_2S, WELL_2S).await;
}

/// The result of a test is the result that an attempt would have had.
#[tokio::test]
async fn a_test_posts_at_once_and_returns_its_result() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let asked = v1::Subscription {
        event_types: vec![EventType::ConversationCreated.into()],
        timeout: duration(Duration::from_secs(1)),
        ..subscription(receiver.url("/"))
    };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    let cases = [
        // On a connection of its own: on one that was kept it would be sent a second time.
        (Response::close(), 0, "", "closed before the response was complete"),
        (Response::with_body(201, "thanks"), 201, "thanks", ""),
        (Response::with_body(500, "no"), 500, "no", "answered 500"),
        (Response::nothing(), 0, "", "no complete response within 1s"),
    ];
    for (count, (response, status, body, error)) in cases.into_iter().enumerate() {
        receiver.now(move |_| response.clone());
        let tested = gateway.client.test(&subscribed.name, EventType::Unspecified).await;
        assert_eq!((tested.http_status, &*tested.response_body), (status, body));
        assert!(tested.error.contains(error) && tested.error.is_empty() == error.is_empty(), "{tested:?}");
        let seen = receiver.seen();
        assert_eq!(seen.len(), count + 1);
        assert_eq!(seen[count].body, tested.request_body);
        assert!(tested.request_body.starts_with(r#"{"event":"conversation_created","#), "{tested:?}");
        assert!(tested.duration.is_some());
    }
    // A kind that the subscription does not take can be tried as well, and nothing is kept of any of it.
    receiver.now(|_| Response::status(200));
    let tested = gateway.client.test(&subscribed.name, EventType::WebwidgetTriggered).await;
    assert!(tested.request_body.contains(r#""event":"webwidget_triggered""#), "{tested:?}");
    assert_eq!(gateway.client.stored_events(ACCOUNT).await, []);
    assert_eq!(gateway.client.deliveries_in(ACCOUNT, &[]).await, []);
    gateway.stop().await;
}

#[tokio::test]
async fn among_many_failures_every_attempt_is_counted_and_nothing_is_sent_after_it_arrived() {
    const COUNT: i64 = 400;
    const FAILS_MOST: usize = 3;
    let mut count = 0_usize;
    let receiver = Receiver::with(move |_| {
        count += 1;
        Response::status(if count.is_multiple_of(FAILS_MOST) { 200 } else { 500 })
    });
    let (receiver, gateway) = (receiver.await, Launcher::new().start().await);
    let asked =
        v1::Subscription { retry_policy: attempts(50), max_in_flight: 64, ..subscription(receiver.url("/")) };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    let account = AccountId::new(ACCOUNT).unwrap();
    let event = |number| samples::typical_message(account, 1, number);
    let requests =
        (1..=COUNT).map(|number| publish_request(ACCOUNT, &format!("e{number}"), event(number))).collect();
    let batch = v1::BatchPublishEventsRequest { requests, ..Default::default() };
    gateway.client.events.clone().batch_publish_events(batch).await.unwrap();
    gateway.client.nothing_owed(ACCOUNT).await;

    let uid = gateway.client.subscription(&subscribed.name).await.uid.parse().unwrap();
    let (deliveries, seen) = (gateway.client.deliveries_in(ACCOUNT, &[]).await, receiver.seen());
    for delivery in deliveries {
        let id = webhook_id(uid, &delivery.event).to_string();
        let requests: Vec<_> = seen.iter().filter(|request| request.webhook_id() == id).collect();
        assert_eq!(usize::try_from(delivery.attempt_count()), std::result::Result::Ok(requests.len()));
        if delivery.state() == State::Succeeded {
            let (last, earlier) = requests.split_last().unwrap();
            assert!(last.taken && earlier.iter().all(|request| !request.taken), "{}", delivery.name);
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn one_line_of_the_log_says_that_a_subscription_begins_to_fail_and_one_that_it_works_again() {
    let receiver = Receiver::first([500; 4].map(Response::status)).await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    let asked = v1::Subscription { display_name: "CRM of support".into(), ..subscription(receiver.url("/")) };
    let subscribed = client.subscribe(ACCOUNT, asked).await;
    for _ in 0..3 {
        client.publish(ACCOUNT, full(KIND)).await;
    }
    client.nothing_owed(ACCOUNT).await;
    let log = gateway.stop().await;
    for text in ["subscription begins to fail", "subscription works again"] {
        let lines: Vec<_> = log.iter().filter(|line| line.contains(text)).collect();
        assert_eq!(lines.len(), 1, "{text}: {log:#?}");
        assert!(lines[0].contains(&subscribed.name) && lines[0].contains("CRM of support"), "{}", lines[0]);
    }
}
