//! Headers that the operator denies to subscriptions, and the one that credentials in a URL become.

use std::{collections::BTreeMap, fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
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

#[tokio::test]
async fn credentials_in_a_url_become_a_sealed_header_and_leave_the_url() {
    const SECRET: &str = "password-0123456789";
    let receiver = Receiver::start().await;
    let launcher = Launcher::new().with("retention-bytes-max", "16MiB");
    let gateway = launcher.start().await;
    let with_user = |user: &str, path: &str| receiver.url(path).replace("://", &format!("://{user}@"));
    let request = v1::CreateSubscriptionRequest {
        parent: format!("accounts/{ACCOUNT}"),
        subscription: Some(subscription(with_user(&format!("user:{SECRET}"), "/hook"))),
        ..Default::default()
    };
    let dry = v1::CreateSubscriptionRequest { validate_only: true, ..request.clone() };
    let subscriptions = &mut gateway.client.subscriptions.clone();
    let mut name = String::new();
    for request in [dry, request] {
        let created = subscriptions.create_subscription(request).await.unwrap().into_inner();
        let shown = created.subscription.unwrap();
        assert_eq!(shown.url, receiver.url("/hook"));
        name = shown.name;
        assert_eq!(shown.headers, [("authorization".to_owned(), "***".to_owned())].into());
        assert_eq!(created.notes.len(), 1, "the response says it: {:?}", created.notes);
        assert!(created.notes[0].contains("authorization") && !created.notes[0].contains(SECRET));
    }
    let basic = |credentials: String| format!("Basic {}", STANDARD.encode(credentials));
    gateway.client.publish(ACCOUNT, message(ACCOUNT, 1, 1)).await;
    let first = receiver.wait_for(1).await.remove(0);
    assert_eq!((&*first.path, first.header("authorization")), ("/hook", &*basic(format!("user:{SECRET}"))));

    // Another URL with others replaces them; one without leaves them.
    for (url, credentials) in [
        (with_user("us%40er:p%3A", "/second"), "us@er:p:"),
        (receiver.url("/third"), "us@er:p:"),
        (with_user("token", "/fourth"), "token:"),
    ] {
        let change = v1::Subscription { name: name.clone(), url: url.clone(), ..Default::default() };
        let request = v1::UpdateSubscriptionRequest { subscription: Some(change), ..Default::default() };
        let updated = subscriptions.update_subscription(request).await.unwrap().into_inner();
        assert_eq!(updated.notes.is_empty(), !url.contains('@'), "{:?}", updated.notes);
        let tested = gateway.client.test(&name, v1::EventType::MessageCreated).await;
        assert_eq!(tested.http_status, 200, "{tested:?}");
        let last = receiver.seen().pop().unwrap();
        assert_eq!(last.header("authorization"), basic(credentials.to_owned()));
    }
    let log = gateway.stop().await;
    assert!(!log.iter().any(|line| line.contains(SECRET)));
    let stored = files_of(&launcher.data_dir());
    let secrets = [SECRET.to_owned(), STANDARD.encode(format!("user:{SECRET}"))];
    assert!(!secrets.iter().any(|secret| has(&stored, secret.as_bytes())), "it is sealed");
    assert!(has(&stored, b"subscriptions/"), "the files were read");

    // The operator's rule is about the header, however it comes.
    let gateway = launcher.with("egress-headers-deny", "authorization").start().await;
    let asked = subscription(with_user("user", "/fifth"));
    let Err(refused) = gateway.client.try_subscribe(ACCOUNT, asked).await else { panic!("it was created") };
    let violations = refused.get_error_details().bad_request().unwrap().field_violations.clone();
    assert_eq!(violations[0].field, "subscription.headers[\"authorization\"]");
    gateway.stop().await;
}

/// All bytes of all files of a directory.
fn files_of(dir: &Path) -> Vec<u8> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_of(&path) } else { fs::read(path).unwrap() }).collect()
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
