//! A receiver drops repetitions by the delivery's id and the body's bytes: both are the same on every
//! attempt, after a crash, when a caller retries, and when an event is replayed, in every form.

use std::{collections::BTreeMap, time::Duration};

use tidings::proto::v1::{self, EventType, delivery::State, subscription::PayloadFormat};

use crate::{
    golden::{
        bodies::{golden, name_of},
        events::{ACCOUNT, full, kinds},
    },
    support::{
        client::{retry_policy, subscription},
        process::Launcher,
        receiver::{Receiver, Response},
    },
};

const FORMS: [(PayloadFormat, &str); 3] = [
    (PayloadFormat::Documented, "/documented"),
    (PayloadFormat::Sample, "/sample"),
    (PayloadFormat::Chatwoot, "/chatwoot"),
];

/// The golden body of an event, by the path of the receiver.
fn golden_at(path: &str, kind: EventType) -> String {
    let is_message = matches!(kind, EventType::MessageCreated | EventType::MessageUpdated);
    let form = if path == "/sample" && !is_message { "documented" } else { &path[1..] };
    golden(&format!("{form}/{}", name_of(kind)))
}

/// The types of events that are delivered in the form of this path.
fn kinds_at(path: &str) -> impl Iterator<Item = EventType> {
    kinds().filter(move |kind| *kind != EventType::Other || path == "/chatwoot")
}

#[tokio::test]
async fn a_delivery_is_the_same_on_every_attempt_in_every_form() {
    let receiver = Receiver::always(Response::status(500)).await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let mut subscribed = Vec::new();
    for (format, path) in FORMS {
        let retry_policy = retry_policy(2, Duration::from_millis(20), Duration::from_millis(40));
        let asked = v1::Subscription {
            payload_format: format.into(),
            retry_policy,
            ..subscription(receiver.url(path))
        };
        subscribed.push(gateway.client.subscribe(ACCOUNT, asked).await);
    }
    for kind in kinds() {
        gateway.client.publish_as(ACCOUNT, &name_of(kind), full(kind)).await;
    }
    let of_each = subscribed.iter().zip(FORMS);
    let deliveries: Vec<String> = of_each
        .clone()
        .flat_map(|(to, (_, path))| kinds_at(path).map(|kind| to.delivery(&name_of(kind))))
        .collect();
    for name in &deliveries {
        gateway.client.delivery_in(name, State::Failed).await;
    }
    gateway.kill().await;

    // The events are read from the disk now, and rendered again.
    let gateway = launcher.start().await;
    for name in &deliveries {
        gateway.client.retry(name).await;
        gateway
            .client
            .delivery_when(name, "a third attempt that failed", |delivery| {
                delivery.attempt_count() == 3 && delivery.state() == State::Failed
            })
            .await;
    }
    receiver.now(|_| Response::status(200));
    for (to, (_, path)) in of_each {
        let request = v1::ReplayDeliveriesRequest { parent: to.name.clone(), ..Default::default() };
        let replayed = gateway.client.replay(request).await.replayed_count();
        assert_eq!(usize::try_from(replayed).unwrap(), kinds_at(path).count(), "{path}");
    }
    for name in &deliveries {
        gateway.client.delivery_in(name, State::Succeeded).await;
    }

    let seen = receiver.wait_for(4 * deliveries.len()).await;
    let mut by_delivery: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for request in &seen {
        by_delivery.entry((request.path.as_str(), request.webhook_id())).or_default().push(&request.body);
    }
    assert_eq!(by_delivery.len(), deliveries.len(), "every delivery has an id of its own, and keeps it");
    for (_, path) in FORMS {
        let mut bodies: Vec<_> = kinds_at(path).map(|kind| golden_at(path, kind)).collect();
        for ((_, id), of_one) in by_delivery.iter().filter(|((at, _), _)| *at == path) {
            assert_eq!(of_one.len(), 4, "{path} {id}: once, again, after the crash, and replayed");
            assert!(of_one.iter().all(|body| *body == of_one[0]), "{path} {id}: one delivery, one body");
            let place = bodies.iter().position(|body| body == of_one[0]);
            bodies.remove(place.unwrap_or_else(|| panic!("{path} {id}: {} is no golden body", of_one[0])));
        }
        assert!(bodies.is_empty(), "{path}: these did not arrive: {bodies:?}");
    }
    gateway.stop().await;
}
