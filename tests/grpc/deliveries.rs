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

use crate::harness::*;

impl Server {
    /// Writes down an attempt of the only subscription's delivery of an event.
    async fn settle(&self, event: &str, state: DeliveryState) {
        let id = event.parse().expect("an event id");
        let seq = self.store.event(account(), &id).expect("it can be read").expect("it is stored").seq;
        let lane = self.store.registry().lanes()[0];
        let attempt = Attempt {
            start_time: UnixMicros(1_700_000_000_000_000),
            duration: Duration::from_millis(12),
            outcome: if state == DeliveryState::Succeeded { Outcome::Ok } else { Outcome::HttpStatus },
            http_status: if state == DeliveryState::Succeeded { 200 } else { 503 },
            error: String::new(),
            response_body: "said".into(),
            retry_after: None,
            url: "https://crm.example.com/".into(),
        };
        let settlement = Settlement { key: DeliveryKey { seq, lane }, attempt, state };
        self.store.settle(vec![settlement]).await.expect("it can be settled");
    }
}

fn list(parent: &str) -> v1::ListDeliveriesRequest {
    v1::ListDeliveriesRequest { parent: parent.into(), ..Default::default() }
}

#[tokio::test]
async fn a_delivery_is_shown_with_its_attempts_numbered() {
    let server = Server::start().await;
    server.subscribe("crm").await;
    server.publish("e1").await;
    let mut client = server.deliveries().await;
    let name = "accounts/1/subscriptions/crm/deliveries/e1";
    let get = v1::GetDeliveryRequest { name: name.into() };
    let pending = client.get_delivery(get.clone()).await.unwrap().into_inner().delivery.unwrap();
    assert_eq!((pending.state(), pending.attempt_count, pending.attempts.len()), (State::Pending, 0, 0));
    assert_eq!((pending.name.as_str(), pending.event.as_str()), (name, "accounts/1/events/e1"));

    let due = UnixMicros(1_800_000_000_000_000);
    server.settle("e1", DeliveryState::Retrying { due }).await;
    let retrying = client.get_delivery(get.clone()).await.unwrap().into_inner().delivery.unwrap();
    assert_eq!((retrying.state(), retrying.next_attempt_time), (State::Retrying, Some(due.into())));
    server.settle("e1", DeliveryState::Succeeded).await;
    let done = client.get_delivery(get).await.unwrap().into_inner().delivery.unwrap();
    assert_eq!((done.state(), done.next_attempt_time, done.attempt_count), (State::Succeeded, None, 2));
    let attempts: Vec<_> = done.attempts.iter().map(|one| (one.number, one.http_status)).collect();
    assert_eq!(attempts, [(1, 503), (2, 200)]);

    // The list gives the last attempt only, under its own number.
    let listed = client.list_deliveries(list("accounts/1/subscriptions/crm")).await.unwrap().into_inner();
    let attempts: Vec<_> = listed.deliveries[0].attempts.iter().map(|one| one.number).collect();
    assert_eq!(attempts, [2]);
    server.stop().await;
}

#[tokio::test]
async fn lists_filter_by_subscription_state_event_and_time() {
    let server = Server::start().await;
    server.subscribe("crm").await;
    for id in ["e1", "e2", "e3"] {
        server.publish(id).await;
    }
    server.settle("e2", DeliveryState::Failed).await;
    server.subscribe("late").await;
    let last = server.publish("e4").await;

    let mut client = server.deliveries().await;
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
async fn pages_of_deliveries_survive_new_ones_and_lose_none() {
    let server = Server::start().await;
    server.subscribe("a").await;
    server.subscribe("b").await;
    for number in 0..5 {
        server.publish(&format!("e{number}")).await;
    }
    let mut client = server.deliveries().await;
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
async fn what_comes_in_a_later_version_says_so() {
    let server = Server::start().await;
    let mut deliveries = server.deliveries().await;
    let mut subscriptions = server.subscriptions().await;
    let statuses = [
        subscriptions.rotate_signing_secret(v1::RotateSigningSecretRequest::default()).await.unwrap_err(),
        deliveries.watch_deliveries(v1::WatchDeliveriesRequest::default()).await.unwrap_err(),
        deliveries.retry_delivery(v1::RetryDeliveryRequest::default()).await.unwrap_err(),
        deliveries.cancel_delivery(v1::CancelDeliveryRequest::default()).await.unwrap_err(),
        deliveries.replay_deliveries(v1::ReplayDeliveriesRequest::default()).await.unwrap_err(),
        deliveries.summarize_deliveries(v1::SummarizeDeliveriesRequest::default()).await.unwrap_err(),
    ];
    for status in statuses {
        assert_eq!(told(&status), (Code::Unimplemented, "NOT_IMPLEMENTED".into(), vec![]));
        assert!(status.message().contains("not implemented in this version"), "{}", status.message());
    }
    server.stop().await;
}
