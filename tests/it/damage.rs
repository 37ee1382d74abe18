//! Bytes on the disk that change while the gateway runs.

use std::{fs, os::unix::fs::FileExt, path::Path};

use tidings::proto::v1::{self, Delivery, EventType, delivery::State, delivery_attempt::Outcome};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    client::{Client, Counts, all_pages, subscription},
    events::{message, message_of, publish_request},
    in_time,
    process::Launcher,
    receiver::Receiver,
    scrape::Scrape,
};

const ACCOUNT: i64 = 1;

/// The text of an event, which is in no other one.
fn text(number: i64) -> String {
    format!("<{number}>")
}

fn request(account: i64, number: i64, text: String) -> v1::PublishEventRequest {
    let mut event = message(account, 1, number);
    message_of(&mut event).content = Some(text);
    publish_request(account, &format!("e{number}"), event)
}

/// Changes one byte of an event with this text in the log, below the open files of the gateway.
fn damage(data_dir: &Path, text: &str) {
    for entry in fs::read_dir(data_dir.join("ledger")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"?", at as u64).unwrap();
            return;
        }
    }
    panic!("no log file has {text}");
}

fn last_outcome(delivery: &Delivery) -> Option<Outcome> {
    delivery.attempts.last().map(v1::DeliveryAttempt::outcome)
}

async fn failed_of(client: &Client, subscription: &str) -> Vec<Delivery> {
    let request = v1::ListDeliveriesRequest {
        parent: subscription.to_owned(),
        outcomes: vec![Outcome::Damaged.into()],
        ..Default::default()
    };
    client.deliveries.clone().list_deliveries(request).await.unwrap().into_inner().deliveries
}

/// More than a lane keeps in memory, and one of them in the middle is damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_damaged_event_fails_its_own_deliveries_and_everything_else_arrives_in_order() {
    const EVENTS: i64 = 1_500;
    const DAMAGED: i64 = 700;
    let receiver = Receiver::start().await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let client = &gateway.client;
    let ordered = v1::Subscription { ordered: true, ..subscription(receiver.url("/ordered")) };
    let ordered = client.subscribe(ACCOUNT, ordered).await;
    let any = client.subscribe(ACCOUNT, subscription(receiver.url("/any"))).await;
    let paused = client.subscribe(ACCOUNT, subscription(receiver.url("/paused"))).await;
    for subscribed in [&ordered, &any, &paused] {
        client.pause(&subscribed.name).await;
    }
    for number in 1..=EVENTS {
        client.try_publish(request(ACCOUNT, number, text(number))).await.unwrap();
    }
    damage(&launcher.data_dir(), &text(DAMAGED));
    let event_id = format!("e{DAMAGED}");
    let cancelled = client.cancel(&paused.delivery(&event_id)).await;
    assert_eq!(cancelled.state(), State::Cancelled, "a delivery of a damaged event can be cancelled");
    let mut watch = client.watch(&ordered.name).await.unwrap();
    client.resume(&ordered.name).await;
    client.resume(&any.name).await;

    let whole = usize::try_from(EVENTS - 1).unwrap();
    for subscribed in [&ordered, &any] {
        let counts = client.counts_when(&subscribed.name, "nothing owed", |counts| counts.owed() == 0).await;
        assert_eq!(counts, Counts { succeeded: whole, failed: 1, ..Counts::default() });
        let shown = client.delivery(&subscribed.delivery(&event_id)).await;
        assert_eq!((shown.state(), last_outcome(&shown)), (State::Failed, Some(Outcome::Damaged)));
        assert!(shown.attempts[0].error.contains("damaged"), "{shown:?}");
        let listed = failed_of(client, &subscribed.name).await;
        assert_eq!(listed.iter().map(|one| &*one.name).collect::<Vec<_>>(), [&*shown.name]);
        assert_eq!(client.subscription(&subscribed.name).await.state(), v1::subscription::State::Active);
    }
    let seen = receiver.seen();
    let arrived = seen.iter().filter(|request| request.path == "/ordered");
    let expected = (1..=EVENTS).filter(|number| *number != DAMAGED).map(text);
    assert!(
        arrived.zip(expected).all(|(request, text)| request.body.contains(&text)),
        "the order is kept around the damaged event"
    );
    loop {
        let change = in_time(watch.next()).await.unwrap().unwrap().delivery.unwrap();
        if change.state() == State::Failed {
            assert_eq!(
                (change.event.ends_with(&event_id), last_outcome(&change)),
                (true, Some(Outcome::Damaged))
            );
            break;
        }
    }

    // Lists step over it and say so; reading it is an error of its own.
    let mut damaged = Vec::new();
    let events = all_pages(async |page_token| {
        let parent = format!("accounts/{ACCOUNT}");
        let request = v1::ListEventsRequest { parent, page_size: 100, page_token, ..Default::default() };
        let page = client.events.clone().list_events(request).await.unwrap().into_inner();
        damaged.extend(page.damaged_events);
        (page.events, page.next_page_token)
    })
    .await;
    let name = format!("accounts/{ACCOUNT}/events/{event_id}");
    assert_eq!((events.len(), damaged), (whole, vec![name.clone()]));
    let lost = client.events.clone().get_event(v1::GetEventRequest { name: name.clone() }).await.unwrap_err();
    let reason = lost.get_error_details().error_info().unwrap().reason.clone();
    assert_eq!((lost.code(), &*reason), (Code::DataLoss, "RECORD_DAMAGED"), "{lost:?}");

    // Another attempt ends the same way, and a replay does.
    client.retry(&any.delivery(&event_id)).await;
    let again =
        client.delivery_when(&any.delivery(&event_id), "tried again", |one| one.attempt_count() == 2).await;
    assert_eq!((again.state(), last_outcome(&again)), (State::Failed, Some(Outcome::Damaged)));
    client.resume(&paused.name).await;
    client.replay(v1::ReplayDeliveriesRequest { parent: paused.name.clone(), ..Default::default() }).await;
    let counts = client.counts_when(&paused.name, "nothing owed", |counts| counts.owed() == 0).await;
    assert_eq!(counts, Counts { succeeded: whole, failed: 1, ..Counts::default() });
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(scrape.value("tidings_records_damaged_total"), 1.0, "counted once, however often it is read");
    assert_eq!(scrape.value(r#"tidings_attempts_total{outcome="damaged"}"#), 4.0);
    gateway.terminate();
    let log = gateway.wait().await.log();
    let lines: Vec<&String> = log.iter().filter(|line| line.contains("a stored event is damaged")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for part in [&*name, &*ordered.name, &*any.name, &*paused.name, "ledger/0000000001.log"] {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
}

#[tokio::test]
async fn retention_drops_a_damaged_event_and_the_store_works_on() {
    const FILLER: i64 = 2;
    let receiver = Receiver::start().await;
    let launcher = Launcher::new().with("retention-bytes-max", "16MiB");
    let gateway = launcher.start().await;
    let client = &gateway.client;
    let kinds = vec![EventType::MessageCreated.into()];
    let asked = v1::Subscription { event_types: kinds, ..subscription(receiver.url("/")) };
    let paused = client.subscribe(ACCOUNT, asked).await;
    client.pause(&paused.name).await;
    for number in [1, 2] {
        client.try_publish(request(ACCOUNT, number, text(number))).await.unwrap();
    }
    // Nobody waits for these, so that retention may remove the file that they begin in.
    let filler = |number| request(FILLER, number, "x".repeat(100_000));
    client.try_publish(filler(3)).await.unwrap();
    for number in 4..10 {
        client.try_publish(request(FILLER, number, text(number))).await.unwrap();
    }
    damage(&launcher.data_dir(), &text(1));
    for number in 10..400 {
        client.publish_when_there_is_room(filler(number)).await;
    }
    let scrape = Scrape::reaches(&gateway, &[("tidings_records_damaged_total", 1.0)]).await;
    assert_eq!(scrape.value(r#"tidings_deliveries_settled_total{state="failed"}"#), 1.0);
    assert_eq!(gateway.readiness().await, (200, "ready\n".to_owned()));
    let counts = client.counts(&paused.name).await;
    assert_eq!((counts.pending, counts.retrying), (1, 0), "what is whole is kept");
    client.resume(&paused.name).await;
    let seen = receiver.wait_for(1).await;
    assert!(seen[0].body.contains(&text(2)), "{}", seen[0].body);
    gateway.terminate();
    let log = gateway.wait().await.log();
    assert_eq!(log.iter().filter(|line| line.contains("a stored event is damaged")).count(), 1);
    launcher.start().await.stop().await;
}
