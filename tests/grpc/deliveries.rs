//! DeliveryService, where it does as asked.

use std::time::Duration;

use tidings::{
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        time::UnixMicros,
    },
    proto::v1::{self, delivery::State},
    store::Settlement,
};
use tonic::Code;

use crate::support::{client::all_pages, events, in_process::*};

impl TidingsInProcess {
    /// Writes down an attempt of the delivery of an event to `crm` in the first account.
    async fn settle(&self, event: &str, state: DeliveryState) {
        let id = event.parse().expect("an event id");
        let seq = self.store.event(account(), &id).expect("it can be read").expect("it is stored").seq;
        let name = "accounts/1/subscriptions/crm".parse().expect("a name");
        let subscription = self.store.registry().by_name(&name).expect("it is subscribed").key;
        let attempt = Attempt {
            start_time: UnixMicros(1_700_000_000_000_000),
            duration: Duration::from_millis(12),
            outcome: if state == DeliveryState::Succeeded { Outcome::Ok } else { Outcome::HttpStatus },
            http_status: if state == DeliveryState::Succeeded { 200 } else { 503 },
            error: String::new(),
            response_body: "said".into(),
            retry_after: None,
            resent: 0,
            url: "https://crm.example.com/".into(),
        };
        let settlement = Settlement { key: DeliveryKey { seq, subscription }, attempt, state };
        self.store.settle(vec![settlement]).await.expect("it can be settled");
    }
}

fn list(parent: &str) -> v1::ListDeliveriesRequest {
    v1::ListDeliveriesRequest { parent: parent.into(), ..Default::default() }
}

#[tokio::test]
async fn a_delivery_is_shown_with_its_attempts_numbered() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    server.publish("e1").await;
    let client = &server.client;
    let name = "accounts/1/subscriptions/crm/deliveries/e1";
    let pending = client.delivery(name).await;
    assert_eq!((pending.state(), pending.attempt_count(), pending.attempts.len()), (State::Pending, 0, 0));
    assert_eq!((pending.name.as_str(), pending.event.as_str()), (name, "accounts/1/events/e1"));

    let due = UnixMicros(1_800_000_000_000_000);
    server.settle("e1", DeliveryState::Retrying { due }).await;
    let retrying = client.delivery(name).await;
    assert_eq!((retrying.state(), retrying.next_attempt_time), (State::Retrying, Some(due.into())));
    server.settle("e1", DeliveryState::Succeeded).await;
    let done = client.delivery(name).await;
    assert_eq!((done.state(), done.next_attempt_time, done.attempt_count()), (State::Succeeded, None, 2));
    let attempts: Vec<_> = done.attempts.iter().map(|one| (one.number, one.http_status)).collect();
    assert_eq!(attempts, [(1, 503), (2, 200)]);

    // The list gives the last attempt only, under its own number.
    let listed = client.deliveries_in(1, &[]).await;
    let attempts: Vec<_> = listed[0].attempts.iter().map(|one| one.number).collect();
    assert_eq!(attempts, [2]);
    server.stop().await;
}

#[tokio::test]
async fn lists_filter_by_subscription_state_event_and_time() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    for id in ["e1", "e2", "e3"] {
        server.publish(id).await;
    }
    server.settle("e2", DeliveryState::Failed).await;
    server.subscribe("late").await;
    let last = server.publish("e4").await;

    let mut client = server.client.deliveries.clone();
    let mut listed = async |request: v1::ListDeliveriesRequest| {
        let listed = client.list_deliveries(request).await.unwrap().into_inner().deliveries;
        let short = |name: &str| name.replace("accounts/1/subscriptions/", "").replace("/deliveries/", " ");
        listed.iter().map(|delivery| short(&delivery.name)).collect::<Vec<_>>()
    };
    let all = "accounts/1/subscriptions/-";
    assert_eq!(listed(list(all)).await, ["crm e4", "late e4", "crm e3", "crm e2", "crm e1"]);
    assert_eq!(listed(list("accounts/1/subscriptions/late")).await, ["late e4"]);
    assert_eq!(listed(list("accounts/2/subscriptions/-")).await, Vec::<String>::new());
    let failed = v1::ListDeliveriesRequest { states: vec![State::Failed.into()], ..list(all) };
    assert_eq!(listed(failed).await, ["crm e2"]);
    let event = v1::ListDeliveriesRequest { event: "accounts/1/events/e4".into(), ..list(all) };
    assert_eq!(listed(event).await, ["crm e4", "late e4"]);
    let unknown = v1::ListDeliveriesRequest { event: "accounts/1/events/none".into(), ..list(all) };
    assert_eq!(listed(unknown).await, Vec::<String>::new());
    let until = v1::ListDeliveriesRequest { end_time: last.create_time, ..list(all) };
    assert!(!listed(until).await.contains(&"crm e4".into()));
    let from = v1::ListDeliveriesRequest { start_time: last.create_time, ..list(all) };
    assert!(listed(from).await.contains(&"crm e4".into()));
    server.stop().await;
}

#[tokio::test]
async fn pages_of_deliveries_lose_none_while_new_ones_come() {
    let server = TidingsInProcess::start().await;
    server.subscribe("a").await;
    server.subscribe("b").await;
    for number in 0..5 {
        server.publish(&format!("e{number}")).await;
    }
    let mut client = server.client.deliveries.clone();
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let all = list("accounts/1/subscriptions/-");
        let page =
            client.list_deliveries(v1::ListDeliveriesRequest { page_size: 3, page_token, ..all }).await;
        let page = page.unwrap().into_inner();
        assert!(page.deliveries.len() <= 3);
        seen.extend(page.deliveries.into_iter().map(|delivery| delivery.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        server.publish("").await;
    }
    let mut distinct = seen.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((seen.len(), distinct.len()), (10, 10), "{seen:?}");
    server.stop().await;
}

#[tokio::test]
async fn callers_retry_and_cancel_deliveries_and_the_counts_add_up() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    server.subscribe_in("accounts/2", "crm").await;
    let client = &server.client;
    for id in ["e1", "e2", "e3", "e4"] {
        server.publish(id).await;
    }
    let name = |id: &str| format!("accounts/1/subscriptions/crm/deliveries/{id}");
    server.settle("e1", DeliveryState::Failed).await;
    server.settle("e2", DeliveryState::Succeeded).await;

    let retried = client.retry(&name("e1")).await;
    assert_eq!((retried.state(), retried.attempt_count()), (State::Retrying, 1));
    assert!(retried.next_attempt_time.is_some());
    for _ in 0..2 {
        let cancelled = client.cancel(&name("e3")).await;
        assert_eq!((cancelled.state(), cancelled.next_attempt_time), (State::Cancelled, None));
    }
    let over = name("e2");
    for status in [client.try_retry(&over).await.unwrap_err(), client.try_cancel(&over).await.unwrap_err()] {
        assert_refused(&status, Code::FailedPrecondition, "DELIVERY_OVER", &[]);
    }
    let missing = client.try_retry(&name("none")).await.unwrap_err();
    assert_eq!(in_short(&missing).1, "DELIVERY_NOT_FOUND");
    let unnamed = client.try_cancel("e1").await.unwrap_err();
    assert_refused(&unnamed, Code::InvalidArgument, "FIELD_INVALID", &["name"]);

    for parent in ["accounts/1/subscriptions/crm", "accounts/1/subscriptions/-", "accounts/-/subscriptions/-"]
    {
        let request = v1::SummarizeDeliveriesRequest { parent: parent.into() };
        let summary = client.deliveries.clone().summarize_deliveries(request).await.unwrap().into_inner();
        let counts: Vec<_> = summary.counts.iter().map(|row| (row.state(), row.count())).collect();
        let expected = [
            (State::Pending, 1),
            (State::Retrying, 1),
            (State::Succeeded, 1),
            (State::Failed, 0),
            (State::Cancelled, 1),
        ];
        assert_eq!(counts, expected, "{parent}");
        assert_eq!(summary.oldest_owed_create_time, retried.create_time, "{parent}");
    }
    let request = v1::SummarizeDeliveriesRequest { parent: "accounts/2/subscriptions/crm".into() };
    let summary = client.deliveries.clone().summarize_deliveries(request).await.unwrap().into_inner();
    assert!(summary.counts.iter().all(|row| row.count() == 0) && summary.oldest_owed_create_time.is_none());
    for parent in ["accounts/-/subscriptions/crm", "accounts/1", ""] {
        let request = v1::SummarizeDeliveriesRequest { parent: parent.into() };
        let status = client.deliveries.clone().summarize_deliveries(request).await.unwrap_err();
        assert_eq!(
            (status.code(), in_short(&status).2),
            (Code::InvalidArgument, vec!["parent".into()]),
            "{parent}"
        );
    }
    server.stop().await;
}

fn watch(parent: &str, states: &[State]) -> v1::WatchDeliveriesRequest {
    let states = states.iter().map(|state| i32::from(*state)).collect();
    v1::WatchDeliveriesRequest { parent: parent.into(), states }
}

#[tokio::test]
async fn a_watch_shows_every_change_and_ends_with_the_server() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    server.subscribe_in("accounts/2", "crm").await;
    let mut client = server.client.deliveries.clone();
    let mut all =
        client.watch_deliveries(watch("accounts/1/subscriptions/-", &[])).await.unwrap().into_inner();
    let request = watch("accounts/1/subscriptions/crm", &[State::Succeeded]);
    let mut succeeded = client.watch_deliveries(request).await.unwrap().into_inner();
    let third = client.watch_deliveries(watch("accounts/1/subscriptions/-", &[])).await.unwrap_err();
    assert_eq!(in_short(&third).1, "OVERLOADED", "two are allowed here");

    server.publish("e1").await;
    server.settle("e1", DeliveryState::Retrying { due: UnixMicros(1_800_000_000_000_000) }).await;
    server.settle("e1", DeliveryState::Succeeded).await;
    for (state, attempts) in [(State::Pending, 0), (State::Retrying, 1), (State::Succeeded, 2)] {
        let change = in_time(all.message()).await.unwrap().unwrap();
        let delivery = change.delivery.unwrap();
        assert_eq!(delivery.name, "accounts/1/subscriptions/crm/deliveries/e1");
        assert_eq!((delivery.state(), delivery.attempt_count(), change.skipped_count), (state, attempts, 0));
        assert_eq!(delivery.attempts.len(), usize::try_from(attempts).unwrap());
    }
    let change = in_time(succeeded.message()).await.unwrap().unwrap();
    assert_eq!(change.delivery.unwrap().state(), State::Succeeded);

    server.shutdown.cancel();
    for mut stream in [all, succeeded] {
        let status = in_time(stream.message()).await.unwrap_err();
        assert_refused(&status, Code::Unavailable, "SHUTTING_DOWN", &[]);
    }
    server.stop().await;
}

/// Publishes as soon as the headers of a watch are here, and expects the event in it. The watch of the round before may still be there.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_has_begun_when_its_headers_arrive() {
    const ROUNDS: usize = 100;
    let mut setup = Setup::default();
    setup.gateway.watches_max = 4 * ROUNDS;
    let server = TidingsInProcess::start_with(setup).await;
    server.subscribe("crm").await;
    let mut client = server.client.deliveries.clone();
    for round in 0..ROUNDS {
        let request = watch("accounts/1/subscriptions/crm", &[State::Pending]);
        // Nothing changes, so the headers come before any message.
        let mut changes = in_time(client.watch_deliveries(request)).await.unwrap().into_inner();
        let id = format!("e{round}");
        server.publish(&id).await;
        let change = in_time(changes.message()).await.unwrap().unwrap();
        let expected = format!("accounts/1/subscriptions/crm/deliveries/{id}");
        assert_eq!((change.delivery.unwrap().name, change.skipped_count), (expected, 0));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_slow_watch_learns_how_much_it_missed_and_holds_up_nobody() {
    const COUNT: usize = 4000;
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    let mut client = server.client.deliveries.clone();
    let request = watch("accounts/1/subscriptions/crm", &[]);
    let mut changes = client.watch_deliveries(request).await.unwrap().into_inner();
    server.client.publish_all((0..COUNT).map(|number| publish(&format!("e{number}")))).await;
    let (mut published, mut seen, mut skipped) = (COUNT, 0, 0);
    while seen + skipped < published {
        match tokio::time::timeout(Duration::from_millis(300), changes.message()).await {
            Ok(change) => {
                seen += 1;
                skipped += usize::try_from(change.unwrap().unwrap().skipped_count).unwrap();
            }
            Err(_) => {
                // Everything that waited was taken: how much was left out comes with the next change.
                server.publish("").await;
                published += 1;
                assert!(published < COUNT + 50, "{seen} seen, {skipped} skipped of {published}");
            }
        }
    }
    assert!(skipped > 0, "nothing was skipped, so nothing was shown");
    server.shutdown.cancel();
    drop(changes);
    server.ended().await;
}

#[tokio::test]
async fn a_watch_of_a_subscription_ends_when_that_is_deleted() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    let name = "accounts/1/subscriptions/crm";
    let mut watch = server.client.watch(name).await.unwrap();
    let mut of_all = server.client.watch("accounts/1/subscriptions/-").await.unwrap();
    server.client.delete(name, true).await.unwrap();
    let ended = in_time(watch.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::NotFound, "{ended:?}");
    assert!(ended.message().contains(name), "{ended:?}");
    let waits = tokio::time::timeout(std::time::Duration::from_millis(50), of_all.message()).await;
    assert!(waits.is_err(), "the watch of the account goes on");
    server.stop().await;
}

#[tokio::test]
async fn lists_and_watches_of_all_accounts_have_those_of_every_account() {
    let server = TidingsInProcess::start().await;
    let (client, all) = (&server.client, "accounts/-/subscriptions/-");
    server.subscribe("crm").await;
    server.subscribe_in("accounts/2", "crm").await;
    let mut watch = client.watch(all).await.unwrap();
    let events = [1, 2, 1, 2, 1].map(|account| (account, events::message(account, 1, 1)));
    let mut published = Vec::new();
    for (account, event) in events {
        published.push(client.publish(account, event).await.event);
    }
    for event in &published {
        let change = in_time(watch.message()).await.unwrap().unwrap();
        assert_eq!(&change.delivery.unwrap().event, event);
    }
    published.reverse();
    // In pages, so that a page goes on where the one before ended.
    let listed = all_pages(async |page_token| {
        let request =
            v1::ListDeliveriesRequest { parent: all.into(), page_size: 2, page_token, ..Default::default() };
        let page = client.deliveries.clone().list_deliveries(request).await.unwrap().into_inner();
        (page.deliveries, page.next_page_token)
    });
    assert_eq!(listed.await.into_iter().map(|delivery| delivery.event).collect::<Vec<_>>(), published);
    let stored = all_pages(async |page_token| {
        let request = v1::ListEventsRequest {
            parent: "accounts/-".into(),
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = client.events.clone().list_events(request).await.unwrap().into_inner();
        (page.events, page.next_page_token)
    });
    assert_eq!(stored.await.into_iter().map(|event| event.name).collect::<Vec<_>>(), published);
    let of_event =
        v1::ListDeliveriesRequest { parent: all.into(), event: published[1].clone(), ..Default::default() };
    let found = client.deliveries.clone().list_deliveries(of_event).await.unwrap().into_inner().deliveries;
    assert_eq!(found.len(), 1);
    client.delete("accounts/2/subscriptions/crm", true).await.unwrap();
    let request = v1::ListDeliveriesRequest { parent: all.into(), ..Default::default() };
    let left = client.deliveries.clone().list_deliveries(request).await.unwrap().into_inner().deliveries;
    assert_eq!(left.len(), 3, "those of a deleted subscription are gone");
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_says_since_when_something_is_owed_to_it() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    assert_eq!(server.client.subscription(CRM).await.oldest_owed_time, None);
    for id in ["a", "b"] {
        server.publish(id).await;
    }
    let first = server.client.delivery(&format!("{CRM}/deliveries/a")).await;
    let subscription = server.client.subscription(CRM).await;
    assert_eq!((subscription.owed_count(), subscription.oldest_owed_time), (2, first.create_time));
    server.client.cancel(&first.name).await;
    let second = server.client.delivery(&format!("{CRM}/deliveries/b")).await;
    assert_eq!(server.client.subscription(CRM).await.oldest_owed_time, second.create_time);
    server.stop().await;
}
