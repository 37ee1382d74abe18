//! RotateSigningSecret: its response, its effect, and secrets that are never shown.

use std::time::{Duration, SystemTime};

use tidings::{
    domain::{
        secret::Secret,
        signature,
        subscription::{OLDER_SECRETS_MAX, OVERLAP_DEFAULT, OVERLAP_MAX},
    },
    proto::v1::{self, EventType},
};
use tonic::Code;

use crate::support::{in_process::*, receiver::Receiver};

const DAY: Duration = Duration::from_hours(24);

fn time(time: Option<prost_types::Timestamp>) -> SystemTime {
    time.expect("it is set").try_into().expect("it is in range")
}

#[tokio::test]
async fn a_rotation_returns_the_new_secret_and_when_the_old_one_ends() {
    let server = TidingsInProcess::start().await;
    let client = &server.client;
    let mut current = server.subscribe("crm").await;
    let mut secrets = Vec::new();
    let asked =
        [(None, OVERLAP_DEFAULT), (Some(OVERLAP_MAX), OVERLAP_MAX), (Some(Duration::ZERO), Duration::ZERO)];
    for (overlap, expected) in asked {
        let rotated = client.try_rotate(&current.name, overlap).await.unwrap();
        assert!(rotated.signing_secret.starts_with("whsec_"));
        assert!(!secrets.contains(&rotated.signing_secret), "a secret that was there before");
        secrets.push(rotated.signing_secret);

        let after = client.subscription(&current.name).await;
        assert_eq!(time(rotated.old_secret_expire_time), time(after.update_time) + expected);
        assert_ne!(after.etag, current.etag, "the subscription has changed");
        assert!(time(after.update_time) >= time(current.update_time));
        let nothing_else =
            v1::Subscription { etag: after.etag.clone(), update_time: after.update_time, ..current.clone() };
        assert_eq!(after, nothing_else);
        current = after;
    }
    server.stop().await;
}

#[tokio::test]
async fn secrets_are_shown_by_no_other_response() {
    let server = TidingsInProcess::start().await;
    let client = &server.client;
    let created = client.create(create("crm", "https://crm.example.com/")).await.unwrap();
    let name = created.name;
    let rotated = client.rotate(&name, DAY).await;

    let (got, listed) = (client.subscription(&name).await, client.all_subscriptions(PARENT).await);
    let change = v1::Subscription { name: name.clone(), display_name: "CRM".into(), ..Default::default() };
    let (updated, paused) = (client.update(change).await, client.pause(&name).await);
    let stored = server.store.registry().by_name(&name.parse().expect("a name"));
    let shown = format!("{got:?} {listed:?} {updated:?} {paused:?} {stored:?}");
    assert!(shown.contains("CRM"));
    for secret in [created.secret, rotated.signing_secret] {
        let key = secret.strip_prefix("whsec_").expect("the server made it");
        assert!(!shown.contains(key), "{shown}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_rotation_keeps_the_secrets_that_receivers_know() {
    let server = TidingsInProcess::start().await;
    let client = &server.client;
    let mut receiver = Receiver::start().await;
    let created = client.create(create("crm", &receiver.url("/hook"))).await.unwrap();
    let _lost = client.rotate(&created.name, DAY).await;
    let again = client.rotate(&created.name, DAY).await;

    client.test(&created.name, EventType::Unspecified).await;
    let post = receiver.next().await;
    let signatures: Vec<_> = post.header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), 3);
    let (id, timestamp) =
        (post.webhook_id().parse().unwrap(), post.header("webhook-timestamp").parse().unwrap());
    for secret in [again.signing_secret, created.secret] {
        let signature =
            signature::standard(&[Secret::new(secret).into()], id, timestamp, post.body.as_bytes());
        assert!(signatures.contains(&signature.as_str()), "{signature} is not one of {signatures:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_id_makes_a_rotation_safe_to_repeat() {
    let server = TidingsInProcess::start().await;
    let name = server.subscribe("crm").await.name;
    let mut client = server.client.subscriptions.clone();
    let request = v1::RotateSigningSecretRequest {
        name: name.clone(),
        request_id: uuid::Uuid::from_u128(7).to_string(),
        overlap: None,
    };
    let first = client.rotate_signing_secret(request.clone()).await.unwrap().into_inner();
    let rotated = server.client.subscription(&name).await;
    let second = client.rotate_signing_secret(request.clone()).await.unwrap().into_inner();
    let without = v1::RotateSigningSecretResponse {
        signing_secret: String::new(),
        secret_already_shown: true,
        ..first
    };
    assert_eq!(second, without, "the secret is shown once");
    assert_eq!(server.client.subscription(&name).await, rotated, "the second changed nothing");

    let overlap = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let other = v1::RotateSigningSecretRequest { overlap, ..request.clone() };
    let status = client.rotate_signing_secret(other).await.unwrap_err();
    assert_refused(&status, Code::AlreadyExists, "REQUEST_ID_REUSED", &["request_id"]);
    let creation = v1::CreateSubscriptionRequest {
        request_id: request.request_id.clone(),
        ..create("other", "https://other.example.com/")
    };
    let status = client.create_subscription(creation).await.unwrap_err();
    assert_refused(&status, Code::AlreadyExists, "REQUEST_ID_REUSED", &["request_id"]);
    let invalid = v1::RotateSigningSecretRequest { request_id: "once".into(), ..request };
    let status = client.rotate_signing_secret(invalid).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "FIELD_INVALID", &["request_id"]);
    server.stop().await;
}

#[tokio::test]
async fn a_limited_number_of_older_secrets_sign_with_the_newest() {
    let server = TidingsInProcess::start().await;
    let client = &server.client;
    let name = server.subscribe("crm").await.name;
    for _ in 0..OLDER_SECRETS_MAX {
        client.rotate(&name, DAY).await;
    }
    let before = client.subscription(&name).await;
    let status = client.try_rotate(&name, Some(DAY)).await.expect_err("one more than may be");
    assert_refused(&status, Code::FailedPrecondition, "ROTATIONS_OVERLAP", &[]);
    let details = details(&status);
    assert_eq!(details.precondition_failure().expect("it says whose").violations[0].subject, name);
    assert_eq!(
        details.error_info().expect("it says how many").metadata["max"],
        OLDER_SECRETS_MAX.to_string()
    );
    assert_eq!(client.subscription(&name).await, before, "a refusal changes nothing");

    // A rotation after a leak is never refused, and makes room.
    client.rotate(&name, Duration::ZERO).await;
    client.rotate(&name, DAY).await;
    server.stop().await;
}
