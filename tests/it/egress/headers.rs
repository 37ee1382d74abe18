//! Headers that the operator denies to subscriptions.

use std::collections::BTreeMap;

use tidings::proto::v1::{self, delivery::State, delivery_attempt::Outcome};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    client::{attempts, id_of, subscription},
    events::message,
    process::Launcher,
    receiver::Receiver,
};

const ACCOUNT: i64 = 1;
const VALUE: &str = "value-of-the-subscription";

fn headers(names: &[&str]) -> BTreeMap<String, String> {
    names.iter().map(|name| ((*name).to_owned(), VALUE.to_owned())).collect()
}

#[tokio::test]
async fn denied_headers_are_refused_and_those_from_before_are_not_sent() {
    let receiver = Receiver::start().await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let asked = v1::Subscription {
        headers: headers(&["authorization", "x-forwarded-for"]),
        retry_policy: attempts(1),
        ..subscription(receiver.url("/"))
    };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    gateway.client.publish(ACCOUNT, message(ACCOUNT, 1, 1)).await;
    let seen = receiver.wait_for(1).await;
    assert_eq!((seen[0].header("authorization"), seen[0].header("x-forwarded-for")), (VALUE, VALUE));
    gateway.client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;

    let gateway = launcher.with("egress-headers-deny", "X-Forwarded-For,cookie").start().await;
    let client = &gateway.client;
    let asked = v1::Subscription {
        headers: headers(&["Cookie", "authorization", "x-forwarded-for"]),
        ..subscription(receiver.url("/other"))
    };
    let Err(refused) = client.try_subscribe(ACCOUNT, asked).await else { panic!("it was created") };
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let violations = refused.get_error_details().bad_request().unwrap().field_violations.clone();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["subscription.headers[\"cookie\"]", "subscription.headers[\"x-forwarded-for\"]"]);
    assert!(violations.iter().all(|violation| violation.description.contains("egress_headers_deny")));

    // The one from before says why it is not sent, and is as it was but for that.
    let change = |headers| v1::Subscription { name: subscribed.name.clone(), headers, ..Default::default() };
    let renamed = v1::Subscription { display_name: "renamed".into(), ..change(BTreeMap::new()) };
    client.try_update(renamed, &[]).await.unwrap();
    client.try_update(change(headers(&["cookie", "x-forwarded-for"])), &["headers"]).await.unwrap_err();
    const BLOCKED: &str = "the header x-forwarded-for is blocked: it is in egress_headers_deny";
    assert_eq!(client.test(&subscribed.name, v1::EventType::MessageCreated).await.error, BLOCKED);
    let published = client.publish(ACCOUNT, message(ACCOUNT, 1, 2)).await;
    let name = subscribed.delivery(id_of(&published.event));
    let delivery = client.delivery_in(&name, State::Failed).await;
    assert_eq!((delivery.attempts[0].outcome(), &*delivery.attempts[0].error), (Outcome::Blocked, BLOCKED));
    assert_eq!(receiver.seen().len(), 1);

    client.try_update(change(headers(&["authorization"])), &["headers"]).await.unwrap();
    client.retry(&name).await;
    client.delivery_in(&name, State::Succeeded).await;
    let seen = receiver.wait_for(2).await;
    assert_eq!((seen[1].header("authorization"), seen[1].headers.get("x-forwarded-for")), (VALUE, None));
    gateway.stop().await;
}
