//! Audit records over kills and restarts of the real binary, and beside callers that want to fill them.

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
    access_token::Scope,
    audit_record::Outcome,
    subscription::State::{Active, Paused},
};
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

use crate::support::{
    PATIENCE,
    client::{Client, Subscribed, subscription},
    eventually, in_time,
    process::{Launcher, TidingsProcess},
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
    for caller in 0..CALLERS {
        let client = gateway.client.clone();
        callers.spawn(async move {
            for nth in 0..u64::from(CALLS) / CALLERS {
                // Another name each time: repeats would be counted up in one record.
                let name =
                    format!("accounts/{ACCOUNT}/subscriptions/none-{caller}-{nth:03}-{}", "x".repeat(40));
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

/// The token that the operator of these gateways chose.
const ADMIN: &str = "0123456789abcdef-the-operators-own-choice";
const PAUSE: &str = "tidings.v1.SubscriptionService/PauseSubscription";

/// A gateway that asks for tokens, and clients with tokens of this scope for accounts 1 and 2.
async fn two_tenants(launcher: Launcher, scope: Scope) -> (TidingsProcess, [Client; 2]) {
    let gateway = launcher.with_variable("TIDINGS_ADMIN_TOKEN", ADMIN).start().await;
    let one = tenant(&gateway, 1, scope).await;
    let two = tenant(&gateway, 2, scope).await;
    (gateway, [one, two])
}

async fn tenant(gateway: &TidingsProcess, account: i64, scope: Scope) -> Client {
    let (scopes, accounts) = (vec![scope.into()], vec![format!("accounts/{account}")]);
    let token = v1::AccessToken { scopes, accounts, ..Default::default() };
    let (_, text) = gateway.client.with_token(ADMIN).create_token(token).await.unwrap();
    gateway.another_client().await.with_token(&text)
}

/// The newest records of an account, by calls of `principal` if that is not empty.
async fn listed(client: &Client, account: i64, principal: &str) -> Vec<v1::AuditRecord> {
    let request = v1::ListAuditRecordsRequest {
        parent: format!("accounts/{account}"),
        page_size: 1000,
        principal: principal.to_owned(),
        ..Default::default()
    };
    client.audit.clone().list_audit_records(request).await.unwrap().into_inner().audit_records
}

#[tokio::test]
async fn calls_that_change_nothing_are_counted_up_in_one_record_and_push_out_no_others() {
    const CALLS: u64 = 2000;
    let (gateway, [one, two]) = two_tenants(Launcher::new(), Scope::Manage).await;
    let name = paused(&one, 1).await;
    paused(&two, 2).await;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (client, name) = (one.clone(), name.clone());
        callers.spawn(async move {
            for _ in 0..CALLS / CALLERS {
                client.pause(&name).await;
            }
        });
    }
    in_time(callers.join_all()).await;
    let of_two = listed(&two, 2, "").await;
    assert_eq!(of_two.iter().map(|record| record.count).collect::<Vec<_>>(), [1, 1], "{of_two:?}");
    let of_one = listed(&one, 1, "").await;
    let counts: Vec<_> = of_one.iter().map(|record| (record.count, record.last_time.is_some())).collect();
    assert_eq!(counts, [(2000, true), (1, false), (1, false)], "{of_one:?}");
    assert_eq!((&*of_one[0].method, of_one[0].outcome()), (PAUSE, Outcome::Ok));
    assert!(of_one[0].last_time.map(time) > of_one[0].end_time.map(time));
    let counted = Scrape::of(&gateway).await;
    // Two tokens, two subscriptions, two pauses.
    assert_eq!(counted.value(r#"tidings_audit_records_total{outcome="ok"}"#), 6.0 + CALLS as f64);
    gateway.stop().await;
}

async fn paused(client: &Client, account: i64) -> String {
    let name = client.subscribe(account, subscription("https://a.example.com/")).await.name;
    client.pause(&name).await;
    name
}

fn time(time: prost_types::Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

#[tokio::test]
async fn an_account_over_its_share_loses_its_own_oldest_records() {
    /// Twice as many as fit into the part for refusals.
    const REFUSALS: u64 = 2000;
    let launcher = Launcher::new().with("audit-bytes-max", "1MiB");
    let (gateway, [one, two]) = two_tenants(launcher, Scope::Manage).await;
    for (client, account) in [(&one, 1), (&two, 2)] {
        let name = paused(client, account).await;
        client.try_pause(&format!("{name}-not")).await.unwrap_err();
    }
    let before = listed(&two, 2, "").await;
    assert_eq!(before.len(), 3, "{before:?}");
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let client = one.clone();
        callers.spawn(async move {
            for nth in 0..REFUSALS / CALLERS {
                // Of its own account and, in turn, of the other one.
                let account = 1 + nth % 2;
                let name = format!("accounts/{account}/subscriptions/n-{caller}-{nth:03}-{}", "x".repeat(50));
                client.try_pause(&name).await.unwrap_err();
            }
        });
    }
    in_time(callers.join_all()).await;
    let left = listed(&two, 2, "").await;
    let own: Vec<_> = left.iter().filter(|record| record.principal != "another account").cloned().collect();
    assert!(own == before && left.len() > own.len(), "nothing of account 2 was removed: {own:?}");
    let all = gateway.client.with_token(ADMIN).audit_records().await;
    let removed = Scrape::of(&gateway).await.value(r#"tidings_audit_records_removed_total{reason="size"}"#);
    assert!(removed > 0.0, "{} records fit", all.len());
    assert_eq!(
        all.iter().filter(|record| record.outcome() == Outcome::Ok).count(),
        6,
        "all changes are there"
    );
    let refused = all.iter().filter(|record| record.outcome() == Outcome::Refused);
    let of_one = refused.filter(|record| record.number != before[0].number).map(|record| record.number);
    assert!(of_one.min().unwrap() > before[0].number, "the oldest of account 1 went");
    gateway.stop().await;
}

#[tokio::test]
async fn calls_refused_for_their_scope_are_on_record_and_counted_up() {
    let (gateway, [reader, other]) = two_tenants(Launcher::new(), Scope::Read).await;
    let manager = tenant(&gateway, 1, Scope::Manage).await;
    for _ in 0..300 {
        for name in ["accounts/1/subscriptions/a", "accounts/2/subscriptions/b"] {
            assert_eq!(reader.try_pause(name).await.unwrap_err().code(), Code::PermissionDenied);
        }
    }
    other.try_pause("accounts/1/subscriptions/a").await.unwrap_err();
    let counted = async || listed(&manager, 1, "").await;
    let all = |records: &Vec<v1::AuditRecord>| records.first().is_some_and(|record| record.count == 600);
    let records = eventually("counted up", counted, all).await;
    assert_eq!(records.len(), 1, "that of account 2 is in its own list: {records:?}");
    let v1::AuditRecord { method, resource, reason, principal, .. } = &records[0];
    assert_eq!((&**method, &**resource, &**reason), (PAUSE, "", "SCOPE_DENIED"));
    assert_eq!(records[0].outcome(), Outcome::Refused);
    assert!(principal.starts_with("accessTokens/"), "{records:?}");
    let of_two = async || listed(&gateway.client.with_token(ADMIN), 2, "").await;
    let of_two = eventually("on record", of_two, |records| records.len() == 1).await;
    assert!(of_two[0].count == 1 && of_two[0].principal != *principal, "{of_two:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_tenant_sees_that_another_account_tried_and_not_who() {
    let (gateway, [one, two]) = two_tenants(Launcher::new(), Scope::Manage).await;
    let name = two.subscribe(2, subscription("https://b.example.com/")).await.name;
    let status = one.try_pause(&name).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let admin = gateway.client.with_token(ADMIN);
    let whole = listed(&admin, 2, "").await;
    let seen = listed(&two, 2, "").await;
    assert_eq!((whole.len(), seen.len()), (2, 2));
    assert!(whole[0].principal.starts_with("accessTokens/") && whole[0].address.starts_with("127.0.0.1:"));
    let hidden =
        v1::AuditRecord { principal: "another account".into(), address: String::new(), ..whole[0].clone() };
    assert_eq!(seen, [hidden, whole[1].clone()], "its own are as they were");
    assert_eq!(listed(&two, 2, &whole[0].principal).await, [], "nor can it be guessed");
    assert_eq!(listed(&two, 2, "another account").await, seen[..1]);
    gateway.stop().await;
}
