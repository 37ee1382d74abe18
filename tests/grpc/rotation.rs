//! RotateSigningSecret: what it answers, what it changes, and what is never shown.

use std::time::{Duration, SystemTime};

use tidings::{
    domain::{
        secret::Secret,
        signature,
        subscription::{OLDER_SECRETS_MAX, OVERLAP_DEFAULT, OVERLAP_MAX},
    },
    proto::v1::{self, subscription_service_client::SubscriptionServiceClient},
};
use tonic::{Code, Status, transport::Channel};

use crate::harness::*;

const DAY: Duration = Duration::from_hours(24);

type Client = SubscriptionServiceClient<Channel>;

async fn try_rotate(
    client: &mut Client,
    name: &str,
    overlap: Option<Duration>,
) -> Result<v1::RotateSigningSecretResponse, Status> {
    let overlap = overlap.map(|overlap| overlap.try_into().expect("it is short"));
    let request = v1::RotateSigningSecretRequest { name: name.into(), overlap };
    in_time(client.rotate_signing_secret(request)).await.map(tonic::Response::into_inner)
}

async fn rotate(
    client: &mut Client,
    name: &str,
    overlap: Option<Duration>,
) -> v1::RotateSigningSecretResponse {
    try_rotate(client, name, overlap).await.expect("it can be rotated")
}

async fn get(client: &mut Client, name: &str) -> v1::Subscription {
    let request = v1::GetSubscriptionRequest { name: name.into() };
    let response = client.get_subscription(request).await.expect("it is there");
    response.into_inner().subscription.expect("it is shown")
}

fn time(time: Option<prost_types::Timestamp>) -> SystemTime {
    time.expect("it is set").try_into().expect("it is in range")
}

#[tokio::test]
async fn a_rotation_answers_the_new_secret_and_when_the_old_one_ends() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let mut current = server.subscribe("crm").await;
    let mut secrets = Vec::new();
    let asked =
        [(None, OVERLAP_DEFAULT), (Some(OVERLAP_MAX), OVERLAP_MAX), (Some(Duration::ZERO), Duration::ZERO)];
    for (overlap, expected) in asked {
        let rotated = rotate(&mut client, &current.name, overlap).await;
        assert!(rotated.signing_secret.starts_with("whsec_"));
        assert!(!secrets.contains(&rotated.signing_secret), "a secret that was there before");
        secrets.push(rotated.signing_secret);

        let after = get(&mut client, &current.name).await;
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
async fn secrets_are_shown_by_no_other_answer() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let created =
        client.create_subscription(create("crm", "https://crm.example.com/")).await.expect("it can");
    let created = created.into_inner();
    let name = created.subscription.expect("it is shown").name;
    let rotated = rotate(&mut client, &name, Some(DAY)).await;

    let got = get(&mut client, &name).await;
    let list = v1::ListSubscriptionsRequest { parent: PARENT.into(), ..Default::default() };
    let listed = client.list_subscriptions(list).await.expect("it can be listed").into_inner();
    let change = v1::Subscription { name: name.clone(), display_name: "CRM".into(), ..Default::default() };
    let update = v1::UpdateSubscriptionRequest { subscription: Some(change), ..Default::default() };
    let updated = client.update_subscription(update).await.expect("it can be changed").into_inner();
    let pause = v1::PauseSubscriptionRequest { name: name.clone() };
    let paused = client.pause_subscription(pause).await.expect("it can be paused").into_inner();
    let stored = server.store.registry().by_name(&name.parse().expect("a name"));
    let shown = format!("{got:?} {listed:?} {updated:?} {paused:?} {stored:?}");
    assert!(shown.contains("CRM"));
    for secret in [created.signing_secret, rotated.signing_secret] {
        let key = secret.strip_prefix("whsec_").expect("the server made it");
        assert!(!shown.contains(key), "{shown}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_rotation_made_again_leaves_receivers_what_they_know() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let (url, mut got) = receiver().await;
    let created =
        client.create_subscription(create("crm", &url)).await.expect("it can be created").into_inner();
    let name = created.subscription.expect("it is shown").name;
    let _lost = rotate(&mut client, &name, Some(DAY)).await;
    let again = rotate(&mut client, &name, Some(DAY)).await;

    let test = v1::TestSubscriptionRequest { name, ..Default::default() };
    client.test_subscription(test).await.expect("it can be tested");
    let post = in_time(got.recv()).await.expect("the receiver runs");
    let header = |name: &str| post.headers[name].to_str().expect("it is ASCII");
    let signatures: Vec<_> = header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), 3);
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let (id, timestamp) = (id.parse().expect("a UUID"), timestamp.parse().expect("seconds"));
    for secret in [again.signing_secret, created.signing_secret] {
        let signature = signature::standard(&[Secret::new(secret).into()], id, timestamp, &post.body);
        assert!(signatures.contains(&signature.as_str()), "{signature} is not one of {signatures:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn so_many_secrets_may_sign_beside_the_newest_and_no_more() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let name = server.subscribe("crm").await.name;
    for _ in 0..OLDER_SECRETS_MAX {
        rotate(&mut client, &name, Some(DAY)).await;
    }
    let before = get(&mut client, &name).await;
    let status = try_rotate(&mut client, &name, Some(DAY)).await.expect_err("one more than may be");
    assert_eq!(told(&status), (Code::FailedPrecondition, "ROTATIONS_OVERLAP".into(), vec![]));
    let details = details(&status);
    assert_eq!(details.precondition_failure().expect("it says whose").violations[0].subject, name);
    assert_eq!(
        details.error_info().expect("it says how many").metadata["max"],
        OLDER_SECRETS_MAX.to_string()
    );
    assert_eq!(get(&mut client, &name).await, before, "a refusal changes nothing");

    // What a leak asks for is never refused, and makes room.
    rotate(&mut client, &name, Some(Duration::ZERO)).await;
    rotate(&mut client, &name, Some(DAY)).await;
    server.stop().await;
}
