//! Publishes an event to Tidings over TLS and watches its delivery: `cargo run` with the variables of examples/README.md.
use std::{
    env,
    error::Error,
    time::{SystemTime, UNIX_EPOCH},
};

use client::{PARENT, connect, create_request, publish, publish_request, v1::*};
use delivery_service_client::DeliveryServiceClient;
use event_service_client::EventServiceClient;
use subscription_service_client::SubscriptionServiceClient;
use tonic::Code;
use tonic_types::StatusExt;

mod client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let channel = connect().await?;
    let (mut events, mut subscriptions, mut deliveries) = (
        EventServiceClient::new(channel.clone()),
        SubscriptionServiceClient::new(channel.clone()),
        DeliveryServiceClient::new(channel),
    );
    subscriptions
        .create_subscription(create_request("example-rust", env::var("WEBHOOK_URL")?))
        .await
        .map(drop)
        .or_else(|status| if status.code() == Code::AlreadyExists { Ok(()) } else { Err(status) })?;
    let watch = WatchDeliveriesRequest {
        parent: format!("{PARENT}/subscriptions/example-rust"),
        ..Default::default()
    };
    let mut changes = deliveries.watch_deliveries(watch).await?.into_inner(); // Resolves with the headers: from now on no change is missed.
    println!("watch begun");
    let event_id = format!("rust-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos());
    let request = publish_request(42, &event_id); // Only the same event may be repeated with its id.
    for _ in 0..2 {
        println!("published, duplicate: {}", publish(&mut events, &request).await?.duplicate);
    }
    let refused = publish(&mut events, &publish_request(0, "")).await.expect_err("0 is no id");
    refused
        .get_details_bad_request()
        .iter()
        .flat_map(|bad| &bad.field_violations)
        .for_each(|one| println!("refused: {} {}", one.field, one.description));
    while let Some(change) = changes.message().await? {
        let delivery = change.delivery.unwrap_or_default();
        if delivery.name.ends_with(&event_id) && delivery.state() == delivery::State::Succeeded {
            println!("delivered");
            break;
        }
    }
    Ok(())
}
