//! Everything that is refused, in one table: with its code, its reason and the fields at fault, each changing
//! nothing.

use tidings::proto::v1;
use tonic::Code::InvalidArgument;

use self::call::{Call, Line};
use crate::support::{client::Client, in_process::*};

mod call;
mod events;
mod lists;
mod subscriptions;
mod tls;

/// Everything that a caller can see.
async fn seen(client: &Client) -> (Vec<v1::Subscription>, Vec<v1::Event>, Vec<v1::Delivery>) {
    let subscriptions = client.all_subscriptions("accounts/-").await;
    (subscriptions, client.stored_events(1).await, client.deliveries_in(1, &[]).await)
}

#[tokio::test]
async fn every_refusal_has_a_code_a_reason_and_fields_and_changes_nothing() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    server.publish("taken").await;
    server.subscribe("other").await;
    let before = seen(&server.client).await;

    let table: Vec<Line> = [
        subscriptions::subscriptions(),
        subscriptions::changes(),
        tls::tls_options(),
        events::events(),
        lists::lists(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(table.len() >= 60, "{} refusals", table.len());
    let mut wrong = Vec::new();
    for (what, call, code, reason, fields) in table {
        let expected = (code, reason.to_owned(), fields);
        match in_time(call.make(&server.client)).await {
            Ok(()) => wrong.push(format!("{what}: was taken")),
            Err(status) if in_short(&status) != expected => {
                wrong.push(format!(
                    "{what}:\n  expected {expected:?}\n  got      {:?}: {status:?}",
                    in_short(&status)
                ));
            }
            Err(_) => {}
        }
        if seen(&server.client).await != before {
            wrong.push(format!("{what}: changed something"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    server.stop().await;
}

#[tokio::test]
async fn a_page_token_is_refused_by_another_list_and_by_other_parameters() {
    let server = TidingsInProcess::start().await;
    for id in ["a", "b"] {
        server.subscribe(id).await;
        server.publish(id).await;
    }
    let request = v1::ListEventsRequest { parent: PARENT.into(), page_size: 1, ..Default::default() };
    let mut events = server.client.events.clone();
    let page_token = events.list_events(request.clone()).await.unwrap().into_inner().next_page_token;
    assert!(!page_token.is_empty());
    let request = v1::ListEventsRequest { page_token: page_token.clone(), ..request };
    events
        .list_events(v1::ListEventsRequest { page_size: 7, ..request.clone() })
        .await
        .expect("a size may change");

    let others = v1::ListEventsRequest { types: vec![4], ..request.clone() };
    let elsewhere = v1::ListEventsRequest { parent: "accounts/2".into(), ..request };
    let parent = PARENT.into();
    let subscriptions =
        v1::ListSubscriptionsRequest { parent, page_token: page_token.clone(), ..Default::default() };
    let parent = "accounts/1/subscriptions/-".into();
    let deliveries = v1::ListDeliveriesRequest { parent, page_token, ..Default::default() };
    for call in [
        Call::ListEvents(others),
        Call::ListEvents(elsewhere),
        Call::ListSubscriptions(subscriptions),
        Call::ListDeliveries(deliveries),
    ] {
        let status = call.make(&server.client).await.unwrap_err();
        assert_refused(&status, InvalidArgument, "PAGE_TOKEN_INVALID", &["page_token"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_hundred_faults_fit_into_a_status_that_says_how_many_there_are() {
    let server = TidingsInProcess::start().await;
    let call = subscriptions::spoilt(|subscription| subscription.event_types = vec![99; 100]);
    let status = call.make(&server.client).await.unwrap_err();
    let details = details(&status);
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 20);
    assert_eq!(details.error_info().unwrap().metadata["violations_omitted"], "80");
    assert!(status.message().ends_with("and 97 more"), "{}", status.message());

    // As long as paths can be, with characters that take three bytes each in a header.
    let call = subscriptions::spoilt(|subscription| {
        subscription.headers = (0..100).map(|n| (format!("{n} {}", "ä".repeat(1000)), "v".into())).collect();
    });
    let status = call.make(&server.client).await.unwrap_err();
    assert_eq!(in_short(&status).0, InvalidArgument);
    server.stop().await;
}
