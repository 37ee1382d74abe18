//! What callers see of how deliveries fare: attempts as they were on the wire, the health of subscriptions, bodies in
//! any form.

use tidings::proto::v1::{self, delivery_attempt::Outcome, subscription::PayloadFormat};

use crate::support::{
    in_process::*,
    receiver::{Receiver, Response},
};

#[tokio::test]
async fn a_test_shows_headers_address_and_times() {
    let server = TidingsInProcess::start().await;
    let receiver = Receiver::start().await;
    receiver.now(|_| Response::with_header(201, "x-answer", "yes"));
    let mut create = v1::CreateSubscriptionRequest {
        parent: PARENT.into(),
        subscription_id: "crm".into(),
        subscription: Some(v1::Subscription {
            url: receiver.url("/"),
            event_types: vec![v1::EventType::MessageCreated.into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let subscription = create.subscription.as_mut().unwrap();
    subscription.headers = [("x-key".to_owned(), "hidden".to_owned())].into();
    server.client.subscriptions.clone().create_subscription(create).await.unwrap();
    for _ in 0..2 {
        let test = v1::TestSubscriptionRequest { name: CRM.into(), ..Default::default() };
        let tested = server.client.subscriptions.clone().test_subscription(test).await.unwrap().into_inner();
        let attempt = tested.attempt.unwrap();
        assert_eq!((attempt.outcome(), attempt.http_status), (Outcome::Ok, 201));
        let sent = |name: &str| {
            let found = attempt.request_headers.iter().find(|header| header.name == name);
            found.map(|header| header.value.clone())
        };
        assert_eq!(sent("x-key").as_deref(), Some("***"));
        assert!(sent("webhook-id").is_some() && sent("host").is_some() && sent("content-length").is_some());
        assert!(
            attempt
                .response_headers
                .iter()
                .any(|header| (header.name == "x-answer") && header.value == "yes")
        );
        assert_eq!(attempt.remote_address, receiver.address.to_string());
        assert!(attempt.first_byte_duration.is_some());
        assert!(attempt.connect_duration.is_some(), "each test opens a connection");
        assert!(attempt.tls_duration.is_none());
    }
    server.stop().await;
}

#[tokio::test]
async fn an_event_is_rendered_in_the_form_that_is_asked_for() {
    let server = TidingsInProcess::start().await;
    let event: v1::Event =
        tidings::event::samples::typical_message(tidings::domain::ids::AccountId::new(1).unwrap(), 3, 7);
    let mut bodies = Vec::new();
    for format in [
        PayloadFormat::Unspecified,
        PayloadFormat::Documented,
        PayloadFormat::Sample,
        PayloadFormat::Chatwoot,
    ] {
        let request = v1::RenderEventRequest {
            source: Some(v1::render_event_request::Source::Event(event.clone())),
            payload_format: format.into(),
            ..Default::default()
        };
        bodies.push(server.client.events.clone().render_event(request).await.unwrap().into_inner().body);
    }
    assert_eq!(bodies[0], bodies[1]);
    assert!(bodies[1] != bodies[2] && bodies[2] != bodies[3]);
    server.stop().await;
}

#[tokio::test]
async fn statistics_begin_at_zero_and_have_every_bucket() {
    let server = TidingsInProcess::start().await;
    for (period, buckets) in [(0, 60), (1, 60), (2, 168)] {
        let request = v1::GetDeliveryStatsRequest { parent: "accounts/1/subscriptions/-".into(), period };
        let stats = server.client.deliveries.clone().get_delivery_stats(request).await.unwrap().into_inner();
        assert_eq!(stats.buckets.len(), buckets);
        assert!(stats.since_time.is_some() && stats.latency_p50.is_none());
        let starts: Vec<_> = stats.buckets.iter().map(|bucket| bucket.start_time.unwrap().seconds).collect();
        assert!(starts.is_sorted());
    }
    server.stop().await;
}
