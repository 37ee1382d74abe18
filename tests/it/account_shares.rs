//! An account that takes all that it can get of the store: the others keep their share, also after a restart.

use std::{fs, path::Path};

use tidings::proto::v1::{self, EventType, delivery::State, delivery_attempt::Outcome};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    client::{Client, Subscribed, subscription},
    events::{long_message, message, publish_request},
    in_time,
    process::Launcher,
    scrape::Scrape,
    wrong_clock::WrongClock,
};

const GREEDY: i64 = 1;
const OTHER: i64 = 2;
const THIRD: i64 = 3;

/// A paused subscription to messages.
async fn paused(client: &Client, account: i64, path: &str) -> Subscribed {
    let kinds = vec![EventType::MessageCreated.into()];
    let url = format!("https://receiver.example.com/{path}");
    let subscribed =
        client.subscribe(account, v1::Subscription { event_types: kinds, ..subscription(url) }).await;
    client.pause(&subscribed.name).await;
    subscribed
}

fn reason(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    (status.code(), details.error_info().expect("an ErrorInfo").reason.clone())
}

#[tokio::test]
async fn many_paused_subscriptions_of_one_account_leave_the_others_their_share_of_the_backlog() {
    const SUBSCRIPTIONS: usize = 100;
    let launcher = Launcher::new()
        .with("backlog-max", "40000")
        .with("backlog-per-account-max", "20000")
        .with("backlog-per-subscription-max", "20000");
    let gateway = launcher.start().await;
    for number in 0..SUBSCRIPTIONS {
        paused(&gateway.client, GREEDY, &number.to_string()).await;
    }
    let tiny = |account| publish_request(account, "", message(account, 1, 7));
    let mut stored = 0;
    let refused = loop {
        match gateway.client.try_publish(tiny(GREEDY)).await {
            Ok(_) => stored += 1,
            Err(status) => break status,
        }
        assert!(stored < 1000, "nothing was refused");
    };
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "BACKLOG_FULL".to_owned()), "{refused:?}");
    assert_eq!(stored, 20_000 / SUBSCRIPTIONS);
    paused(&gateway.client, OTHER, "other").await;
    gateway.client.try_publish(tiny(OTHER)).await.expect("the other account has a share of its own");

    // Also after a restart, which counts again.
    gateway.kill().await;
    let gateway = launcher.start().await;
    gateway.client.try_publish(tiny(GREEDY)).await.unwrap_err();
    gateway.client.try_publish(tiny(OTHER)).await.expect("the other account has a share of its own");
    let ended = gateway.client.all_subscriptions("accounts/1").await;
    gateway.client.delete(&ended[0].name, true).await.unwrap();
    gateway.client.try_publish(tiny(GREEDY)).await.expect("there is room again");
    gateway.stop().await;
}

/// The bytes of a directory's files.
fn bytes_in(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata());
    files.flatten().filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_events_for_a_paused_subscription_leave_the_others_their_share_of_the_store() {
    const MIB: u64 = 1 << 20;
    const BYTES_MAX: u64 = 64 * MIB;
    /// Of the log, and the next one in preparation.
    const FILE: u64 = BYTES_MAX / 16;
    const EVENT: usize = 1_000_000;
    const PUBLISHERS: usize = 16;
    let large = |account, number| publish_request(account, "", long_message(account, 1, number, EVENT));
    let launcher = Launcher::new().with("retention-bytes-max", "64MiB");
    let gateway = launcher.start().await;
    paused(&gateway.client, GREEDY, "greedy").await;
    let publishers = (0..PUBLISHERS).map(|_| {
        let client = gateway.client.clone();
        tokio::spawn(async move {
            let (mut stored, mut refused) = (0, 0);
            while refused < 4 {
                match client.try_publish(large(GREEDY, 1)).await {
                    Ok(_) => stored += 1,
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        refused += 1;
                    }
                }
            }
            stored
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let mut stored = 0;
    for publisher in publishers {
        stored += in_time(publisher).await.unwrap();
    }
    let most = usize::try_from(BYTES_MAX).unwrap() / 2 / EVENT + PUBLISHERS;
    assert!(stored <= most, "{stored} large events are stored, and {most} are more than a share");

    // Others publish what nobody waits for, and retention makes room for it.
    for number in 0..2 * (BYTES_MAX / MIB) {
        gateway
            .client
            .publish(OTHER, long_message(OTHER, 1, i64::try_from(number).unwrap() + 1, EVENT))
            .await;
    }
    paused(&gateway.client, THIRD, "third").await;
    gateway.client.publish(THIRD, long_message(THIRD, 1, 1, EVENT)).await;
    let refused = gateway.client.try_publish(large(GREEDY, 1)).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "STORE_FULL".to_owned()), "{refused:?}");
    let scrape = Scrape::when(&gateway, "the log within its bound", |scrape| {
        scrape.value("tidings_store_disk_bytes") <= (BYTES_MAX + BYTES_MAX / 9 + 3 * FILE) as f64
    });
    let owed = scrape.await.value("tidings_store_owed_bytes");
    assert!(owed >= (stored * EVENT) as f64, "{owed} bytes are owed, of {stored} events");

    gateway.stop().await;
    assert!(bytes_in(&launcher.data_dir().join("ledger")) <= BYTES_MAX + BYTES_MAX / 9 + 3 * FILE);
    let gateway = launcher.start().await;
    gateway.client.try_publish(large(GREEDY, 1)).await.unwrap_err();
    gateway.client.publish(THIRD, long_message(THIRD, 1, 2, EVENT)).await;
    gateway.stop().await;
}

#[tokio::test]
async fn what_a_paused_subscription_is_owed_for_too_long_is_given_up_if_the_operator_says_so() {
    // An hour passes for the gateway while it is stopped.
    let launcher = Launcher::new().with("paused-backlog-age", "30m");
    let gateway = launcher.start().await;
    let kept = gateway.client.subscribe(GREEDY, subscription("https://receiver.example.com/kept")).await;
    gateway.client.pause(&kept.name).await;
    gateway.client.publish_as(GREEDY, "old", message(GREEDY, 1, 1)).await;
    gateway.stop().await;
    let clock = WrongClock::new();
    clock.is_ahead_by(3600);
    let gateway = clock.of(&launcher).start().await;
    gateway.client.publish_as(GREEDY, "new", message(GREEDY, 1, 2)).await;
    Scrape::reaches(&gateway, &[(r#"tidings_attempts_total{outcome="expired"}"#, 1.0)]).await;
    let old = gateway.client.delivery(&kept.delivery("old")).await;
    assert_eq!((old.state(), old.attempts[0].outcome()), (State::Failed, Outcome::Expired), "{old:?}");
    assert!(old.attempts[0].error.contains("paused_backlog_age"), "{old:?}");
    let new = gateway.client.delivery(&kept.delivery("new")).await;
    assert_eq!(new.state(), State::Pending, "{new:?}");
    gateway.stop().await;
}
