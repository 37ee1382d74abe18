//! Every kind of event arrives in every form: the bytes of RenderEvent and of the golden files, with the
//! headers that are documented, and signatures that a receiver can verify.

use tidings::proto::v1::{self, EventType, subscription::PayloadFormat};

use crate::{
    golden::{
        bodies::{golden, name_of},
        events::{ACCOUNT, empty, full, kinds, unset},
    },
    it::signing::{assert_signed, assert_standard_signed},
    support::{
        client::{Client, subscription},
        process::Launcher,
        receiver::{Receiver, Request},
    },
};

/// Every header of a POST but the subscription's own, in alphabetical order.
const HEADERS: [&str; 14] = [
    "accept",
    "cdn-loop",
    "content-length",
    "content-type",
    "host",
    "user-agent",
    "webhook-attempt",
    "webhook-event-type",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-chatwoot-delivery",
    "x-chatwoot-signature",
    "x-chatwoot-timestamp",
];

/// The events of a kind that have golden files, with the ending of the file's name.
fn variants(kind: EventType) -> Vec<(v1::Event, &'static str)> {
    let empty = empty(kind).map(|event| (event, ".empty"));
    [(full(kind), ""), (unset(kind), ".unset")].into_iter().chain(empty).collect()
}

/// The body in the golden file of this form, if there is one.
fn golden_of(kind: EventType, variant: &str, format: PayloadFormat) -> String {
    let is_message = matches!(kind, EventType::MessageCreated | EventType::MessageUpdated);
    let form = match format {
        PayloadFormat::Sample if is_message => "sample",
        PayloadFormat::Chatwoot => "chatwoot",
        _ => "documented",
    };
    golden(&format!("{form}/{}{variant}", name_of(kind)))
}

#[tokio::test]
async fn every_kind_of_event_arrives_in_every_form_byte_for_byte() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    let forms = [
        (PayloadFormat::Documented, "/documented"),
        (PayloadFormat::Sample, "/sample"),
        (PayloadFormat::Chatwoot, "/chatwoot"),
        (PayloadFormat::Unspecified, "/unset"),
    ];
    let mut subscribed = Vec::new();
    for (format, path) in forms {
        let subscription =
            v1::Subscription { payload_format: format.into(), ..subscription(receiver.url(path)) };
        subscribed.push(client.subscribe(ACCOUNT, subscription).await);
    }

    let mut arrived = 0;
    // Of what has no type of its own there is one form: `ingest::kept` has its tests.
    for kind in kinds().filter(|kind| *kind != EventType::Other) {
        for (event, variant) in variants(kind) {
            let published = client.publish(ACCOUNT, event).await;
            assert_eq!(published.delivery_count(), 4);
            let seen = receiver.wait_for(arrived + forms.len()).await;
            for ((format, path), subscribed) in forms.iter().zip(&subscribed) {
                let request = seen[arrived..].iter().find(|request| request.path == *path);
                let request = request.unwrap_or_else(|| panic!("{kind:?} did not arrive at {path}"));
                assert_eq!(request.body, golden_of(kind, variant, *format), "{kind:?}{variant} {format:?}");
                assert_as_rendered(client, &published.event, &subscribed.name, request).await;
                assert_signed(request, &[&subscribed.secret]);
            }
            arrived += forms.len();
        }
    }
    client.nothing_owed(ACCOUNT).await;
    assert_eq!(receiver.seen().len(), arrived, "nothing arrives twice");
    gateway.stop().await;
}

/// The request equals the one of RenderEvent, except for the time and the signatures.
async fn assert_as_rendered(client: &Client, event: &str, subscription: &str, request: &Request) {
    let rendered = client.render(event, subscription).await;
    assert_eq!(request.body, rendered.body);
    for (name, value) in &rendered.headers {
        let of_the_moment = name.contains("signature") || name.contains("timestamp");
        if !of_the_moment {
            assert_eq!(request.header(name), value, "{name}");
        }
    }
    let mut names: Vec<_> = rendered.headers.keys().map(String::as_str).collect();
    names.extend(["host", "content-length"]);
    names.sort_unstable();
    assert_eq!(names, HEADERS);
    assert_headers(request, &HEADERS);
}

#[track_caller]
fn assert_headers(request: &Request, names: &[&str]) {
    let mut found: Vec<_> = request.headers.keys().map(http::HeaderName::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, names);
    assert_eq!(request.method, "POST");
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("accept"), "application/json");
    assert_eq!(request.header("cdn-loop"), "tidings; hops=1");
    assert_eq!(request.header("webhook-attempt"), "1");
    assert_eq!(request.header("webhook-event-type"), request.json()["event"]);
    assert_eq!(request.header("user-agent"), concat!("tidings/", env!("CARGO_PKG_VERSION")));
    assert_eq!(request.header("content-length"), request.body.len().to_string());
    assert_eq!(request.webhook_id(), request.header("x-chatwoot-delivery"));
    assert!(uuid::Uuid::parse_str(request.webhook_id()).is_ok(), "{}", request.webhook_id());
    assert_eq!(request.header("webhook-timestamp"), request.header("x-chatwoot-timestamp"));
}

#[tokio::test]
async fn a_subscriptions_own_headers_and_secret_are_used() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    let secrets = ["whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "a secret of their own"];
    // As the libraries of Standard Webhooks take it: they decode base64.
    let shown = [secrets[0], "whsec_YSBzZWNyZXQgb2YgdGhlaXIgb3du"];
    for ((path, secret), shown) in ["/0", "/1"].into_iter().zip(secrets).zip(shown) {
        let headers = [("Authorization", "Bearer of-good-news"), ("x-tenant", "7")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let request = v1::CreateSubscriptionRequest {
            parent: format!("accounts/{ACCOUNT}"),
            subscription: Some(v1::Subscription { headers, ..subscription(receiver.url(path)) }),
            signing_secret: secret.into(),
            ..Default::default()
        };
        assert_eq!(client.create(request).await.unwrap().secret, shown);
    }
    client.publish(ACCOUNT, full(EventType::MessageCreated)).await;
    let seen = receiver.wait_for(2).await;
    for ((path, secret), shown) in ["/0", "/1"].into_iter().zip(secrets).zip(shown) {
        let request = seen.iter().find(|request| request.path == path).unwrap();
        assert_eq!(request.header("authorization"), "Bearer of-good-news");
        assert_eq!(request.header("x-tenant"), "7");
        assert_signed(request, &[secret]);
        assert_standard_signed(request, &[shown]);
    }
    assert_ne!(seen[0].webhook_id(), seen[1].webhook_id(), "every subscription has its own delivery");
    client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}
