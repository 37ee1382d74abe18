//! Audit records over kills and restarts of the real binary.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tidings::proto::v1::{
    self,
    audit_record::Outcome,
    subscription::State::{Active, Paused},
};
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

use crate::support::{
    PATIENCE,
    client::{Client, Subscribed, subscription},
    in_time,
    process::Launcher,
    profile::in_full_or_short,
    scrape::Scrape,
};

const ACCOUNT: i64 = 1;
/// Callers that change things at the same time.
const CALLERS: u64 = 8;
/// Subscriptions that are made before each kill, at least.
const CHANGES_PER_KILL: u64 = 6;

/// All records, the oldest first.
async fn records(client: &Client) -> Vec<v1::AuditRecord> {
    let mut records = client.audit_records().await;
    records.reverse();
    records
}

/// Subscribes and pauses under names of its own until the gateway is gone. Returns the names that were
/// acknowledged as made, and as paused.
async fn change_until_killed(
    client: Client,
    caller: String,
    made: Arc<AtomicU64>,
) -> (Vec<String>, Vec<String>) {
    let (mut created, mut paused) = (Vec::new(), Vec::new());
    for nth in 0.. {
        let id = format!("{caller}-{nth}");
        let request = v1::CreateSubscriptionRequest {
            parent: format!("accounts/{ACCOUNT}"),
            subscription: Some(subscription(format!("https://{id}.example.com/"))),
            subscription_id: id,
            ..Default::default()
        };
        let Ok(Subscribed { name, .. }) = client.create(request).await else { break };
        created.push(name.clone());
        made.fetch_add(1, Ordering::Relaxed);
        if client.try_pause(&name).await.is_err() {
            break;
        }
        paused.push(name);
    }
    (created, paused)
}

/// The outcomes of the calls of a method, by resource.
fn outcomes<'a>(records: &'a [v1::AuditRecord], method: &str) -> BTreeMap<&'a str, Outcome> {
    let of_method = records.iter().filter(|record| record.method.ends_with(method));
    of_method.map(|record| (&*record.resource, record.outcome())).collect()
}

#[tokio::test]
async fn a_kill_at_any_time_leaves_every_change_with_its_record_and_every_record_with_its_change() {
    let kills = in_full_or_short(12, 4);
    let launcher = Launcher::new().with("subscriptions-per-account-max", "1000000");
    let mut gateway = launcher.start().await;
    let (mut created, mut paused) = (BTreeSet::new(), BTreeSet::new());
    let made = Arc::new(AtomicU64::new(0));
    for kill in 0..kills {
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let id = format!("k{kill}c{caller}");
            callers.spawn(change_until_killed(gateway.client.clone(), id, Arc::clone(&made)));
        }
        // Each kill comes in the middle of work, however slow the machine is.
        let begin = Instant::now();
        while made.load(Ordering::Relaxed) < CHANGES_PER_KILL * (kill + 1) && begin.elapsed() < PATIENCE {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_millis(7 * kill)).await;
        gateway.kill().await;
        for (made, stopped) in callers.join_all().await {
            created.extend(made);
            paused.extend(stopped);
        }
        gateway = launcher.start().await;
    }
    let there = gateway.client.all_subscriptions(&format!("accounts/{ACCOUNT}")).await;
    let records = records(&gateway.client).await;
    let (creates, pauses) =
        (outcomes(&records, "/CreateSubscription"), outcomes(&records, "/PauseSubscription"));
    let least = usize::try_from(CHANGES_PER_KILL * kills).unwrap();
    assert!(created.len() >= least && !paused.is_empty(), "{} were made", created.len());
    for name in &created {
        assert_eq!(creates.get(&**name), Some(&Outcome::Ok), "{name} was acknowledged");
    }
    for name in &paused {
        assert_eq!(pauses.get(&**name), Some(&Outcome::Ok), "{name} was acknowledged");
    }
    for subscription in &there {
        assert!(creates.contains_key(&*subscription.name), "{} is there", subscription.name);
        if subscription.state() == Paused {
            assert!(pauses.contains_key(&*subscription.name), "{} is paused", subscription.name);
        }
    }
    let states: BTreeMap<_, _> = there.iter().map(|one| (&*one.name, one.state())).collect();
    for (name, _) in creates.iter().filter(|(_, outcome)| **outcome == Outcome::Ok) {
        assert!(states.contains_key(name), "{name} is on record as made");
    }
    for (name, _) in pauses.iter().filter(|(_, outcome)| **outcome == Outcome::Ok) {
        assert_eq!(states.get(name), Some(&Paused), "{name} is on record as paused");
    }
    // Whoever was cut off has left at most one call without an end; and numbers are given away once.
    let unknown = records.iter().filter(|record| record.outcome() == Outcome::Unknown).count() as u64;
    assert!(unknown <= kills * CALLERS, "{unknown} without an end");
    let numbers: Vec<i64> = records.iter().map(|record| record.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers[0] == 1, "{numbers:?}");
    println!("{} calls on record, {unknown} of them cut off by {kills} kills", records.len());
    gateway.stop().await;
}

#[tokio::test]
async fn a_flood_of_refusals_removes_no_record_of_a_change_and_stays_within_its_limit() {
    const CALLS: u32 = 4000;
    let launcher = Launcher::new().with("audit-bytes-max", "1MiB");
    let gateway = launcher.start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription("https://a.example.com/")).await;
    gateway.client.pause(&subscribed.name).await;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let client = gateway.client.clone();
        callers.spawn(async move {
            for _ in 0..u64::from(CALLS) / CALLERS {
                let name = format!("accounts/{ACCOUNT}/subscriptions/none-{}", "x".repeat(50));
                let status = client.delete(&name, true).await.unwrap_err();
                assert_eq!(status.code(), Code::NotFound, "{status:?}");
            }
        });
    }
    in_time(callers.join_all()).await;
    let seen = records(&gateway.client).await;
    assert!((500..2000).contains(&seen.len()), "{} records", seen.len());
    let done: Vec<&str> =
        seen.iter().filter(|one| one.outcome() == Outcome::Ok).map(|one| &*one.method).collect();
    assert!(done.len() == 2 && done[0].ends_with("/CreateSubscription"), "{done:?}");
    assert_eq!(seen.last().unwrap().number, 2 + i64::from(CALLS), "the newest is there");
    let counted = Scrape::of(&gateway).await;
    assert_eq!(counted.value(r#"tidings_audit_records_total{outcome="ok"}"#), 2.0);
    assert_eq!(counted.value(r#"tidings_audit_records_total{outcome="refused"}"#), f64::from(CALLS));
    let removed = counted.value(r#"tidings_audit_records_removed_total{reason="size"}"#);
    assert_eq!(removed, f64::from(2 + CALLS - u32::try_from(seen.len()).unwrap()));

    gateway.stop().await;
    let gateway = launcher.start().await;
    assert_eq!(records(&gateway.client).await, seen, "all of it is there after a restart");
    gateway.client.resume(&subscribed.name).await;
    assert_eq!(gateway.client.subscription(&subscribed.name).await.state(), Active);
    gateway.stop().await;
}
