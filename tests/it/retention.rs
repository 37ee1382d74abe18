//! Retention of settled events, and refusals when the store is full.

use tidings::proto::v1::{self, EventType, delivery::State};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    client::subscription,
    events::{long_message, publish_request},
    process::Launcher,
    receiver::Receiver,
};

/// The least that `retention_bytes_max` can be, and events of which a few are more.
const BYTES_MAX: usize = 16 << 20;
const EVENT_BYTES: usize = 1_000_000;

fn large(number: i64) -> v1::PublishEventRequest {
    publish_request(1, "", long_message(1, 1, number + 1, EVENT_BYTES))
}

fn launcher() -> Launcher {
    Launcher::new().with("retention-bytes-max", "16MiB")
}

#[tokio::test]
async fn a_store_full_of_owed_events_refuses_more_until_they_are_delivered() {
    let receiver = Receiver::start().await;
    let launcher = launcher();
    let gateway = launcher.start().await;
    let kinds = vec![EventType::MessageCreated.into()];
    let asked = v1::Subscription { event_types: kinds, ..subscription(receiver.url("/hook")) };
    let subscribed = gateway.client.subscribe(1, asked).await;
    gateway.client.pause(&subscribed.name).await;
    let (mut stored, mut refused) = (0, None);
    while refused.is_none() {
        match gateway.client.try_publish(large(stored)).await {
            Ok(_) => stored += 1,
            Err(status) => refused = Some(status),
        }
        assert!(stored < 500, "nothing was refused");
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("full of unfinished deliveries"), "{refused:?}");
    let details = refused.get_error_details();
    let quota = details.quota_failure().expect("a QuotaFailure");
    assert_eq!(quota.violations[0].subject, "accounts/1");
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!((&*metadata["limit"], &*metadata["share"]), ("retention_bytes_max", "8388608"));
    assert!(details.retry_info().is_some());
    assert!(
        usize::try_from(stored).unwrap() * EVENT_BYTES >= BYTES_MAX / 2 - 2 * EVENT_BYTES,
        "only {stored} were stored"
    );

    // After a restart it is still full, and all owed deliveries are there.
    gateway.stop().await;
    let gateway = launcher.start().await;
    gateway.client.resume(&subscribed.name).await;
    receiver.wait_for(usize::try_from(stored).unwrap()).await;
    gateway.client.nothing_owed(1).await;
    gateway.client.publish_when_there_is_room(large(stored)).await;
    gateway.stop().await;
}

#[tokio::test]
async fn settled_events_make_room_for_new_ones() {
    let launcher = launcher();
    let gateway = launcher.start().await;
    let count = i64::try_from(4 * BYTES_MAX / EVENT_BYTES).unwrap();
    for number in 0..count {
        gateway.client.try_publish(large(number)).await.unwrap();
    }
    gateway.stop().await;
    let gateway = launcher.start().await;
    let kept = gateway.client.stored_events(1).await.len();
    assert!(kept > 0, "the newest are there");
    assert!(kept * EVENT_BYTES <= 2 * BYTES_MAX, "{kept} of {count} are kept");
    assert!(gateway.client.deliveries_in(1, &[State::Pending]).await.is_empty());
    gateway.stop().await;
}
