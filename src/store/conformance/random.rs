//! The same random work on an engine and on the one in memory.

use std::sync::Arc;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Bench, Engine, account, attempt,
    deliveries::{contact_tag, owed},
    new_event,
    replays::replay_query,
    subscription_to,
};
use crate::{
    clock::Clock,
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountScope, Seq, SubscriptionKey},
        time::UnixMicros,
    },
    store::{
        Accepted, Change, DeliveryQuery, DeliveryRecord, EventQuery, NewEvent, OperatorAction, OrderFilter,
        ReplayQuery, RetentionLimit, Settlement, Store, TimeRange, memory::MemoryStore,
    },
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    for seed in 0..6 {
        random_work_ends_as_in_the_reference(engine(), seed).await;
    }
}

/// Does the same random work on the engine and on the reference, and compares everything that can be asked.
async fn random_work_ends_as_in_the_reference<E: Engine>(engine: E, seed: u64) {
    let mut bench = Bench::new(engine);
    let reference = MemoryStore::new(bench.clock.clone(), seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut subscriptions: Vec<SubscriptionKey> = Vec::new();
    for step in 0..250 {
        bench.clock.step(random.random_range(0..1000));
        match random.random_range(0..20) {
            0 if subscriptions.len() < 8 => {
                let of = random.random_range(1..3);
                let new = subscription_to(of, &format!("s{step}"), &random_inboxes(&mut random));
                let subscription =
                    bench.store.create_subscription(new.clone()).await.unwrap().subscription.key;
                assert_eq!(subscription, reference.create_subscription(new).await.unwrap().subscription.key);
                subscriptions.push(subscription);
            }
            1 if !subscriptions.is_empty() => {
                let subscription = subscriptions[random.random_range(0..subscriptions.len())];
                let version = reference.registry().by_key(subscription).unwrap().version;
                if random.random() {
                    let mut settings = reference.registry().by_key(subscription).unwrap().settings.clone();
                    settings.inbox_ids = random_inboxes(&mut random);
                    let change = Change::Settings(Box::new(settings));
                    bench.store.update_subscription(subscription, version, change.clone()).await.unwrap();
                    reference.update_subscription(subscription, version, change).await.unwrap();
                    continue;
                }
                let force = random.random();
                let deleted = bench.store.delete_subscription(subscription, version, force).await;
                assert_eq!(
                    deleted.is_ok(),
                    reference.delete_subscription(subscription, version, force).await.is_ok()
                );
                subscriptions.retain(|other| *other != subscription || deleted.is_err());
            }
            2 => bench.reopen(),
            3 if !subscriptions.is_empty() => {
                let subscription = subscriptions[random.random_range(0..subscriptions.len())];
                let key = DeliveryKey { seq: Seq(random.random_range(1..200)), subscription };
                let decision = if random.random() { OperatorAction::Retry } else { OperatorAction::Cancel };
                let (ours, theirs) = (
                    bench.store.override_delivery(key, decision).await,
                    reference.override_delivery(key, decision).await,
                );
                assert_eq!(ours.is_ok(), theirs.is_ok(), "seed {seed}, step {step}");
                assert_eq!(
                    bench.store.oldest_owed(&subscriptions).unwrap(),
                    reference.oldest_owed(&subscriptions).unwrap()
                );
            }
            4 if !subscriptions.is_empty() => {
                let subscription = subscriptions[random.random_range(0..subscriptions.len())];
                let limit = random.random_range(1..100);
                let of = random.random_range(1..3);
                let query = ReplayQuery {
                    limit,
                    ..replay_query(of, subscription, reference.newest(), bench.clock.now())
                };
                let (ours, theirs) =
                    (bench.store.replayable(&query).unwrap(), reference.replayable(&query).unwrap());
                assert_eq!((&ours.rows, ours.next), (&theirs.rows, theirs.next), "seed {seed}, step {step}");
                let count = bench.store.replay(query.clone(), ours.rows).await.unwrap();
                assert_eq!(count, reference.replay(query, theirs.rows).await.unwrap());
            }
            4..10 => {
                let count = random.random_range(1..40);
                let events: Vec<NewEvent> = (0..count).map(|_| random_event(&mut random)).collect();
                let ours = bench.store.accept(events.clone()).await;
                let theirs = reference.accept(events).await;
                let shown = |answer: &Accepted| (answer.create_time, answer.duplicate, answer.delivery_count);
                match (ours, theirs) {
                    (Ok(ours), Ok(theirs)) => {
                        let (ours, theirs): (Vec<_>, Vec<_>) =
                            (ours.iter().map(shown).collect(), theirs.iter().map(shown).collect());
                        assert_eq!(ours, theirs, "seed {seed}, step {step}");
                    }
                    (Err(ours), Err(theirs)) => assert_eq!(ours.to_string(), theirs.to_string()),
                    (ours, theirs) => panic!("seed {seed}, step {step}: {ours:?} but {theirs:?}"),
                }
            }
            _ => {
                let settlements =
                    random_settlements(&mut random, &reference, &subscriptions, bench.clock.now());
                bench.store.settle(settlements.clone()).await.unwrap();
                reference.settle(settlements).await.unwrap();
            }
        }
    }
    bench.reopen();
    // After the removal of a subscription bytes may be an estimate until retention has counted them.
    let everything = RetentionLimit { since: UnixMicros(0), bytes_max: u64::MAX };
    bench.store.purge(everything).await.unwrap();
    compare(&bench, &reference, &subscriptions, seed);
}

/// Some of the inboxes 1, 2 and 3; none means all.
fn random_inboxes(random: &mut StdRng) -> Vec<i64> {
    (1..4).filter(|_| random.random()).collect()
}

fn random_event(random: &mut StdRng) -> NewEvent {
    let number = random.random_range(0..200);
    let id = random.random_bool(0.7).then(|| format!("e{}", number / 2 * 2));
    let inbox_id = random.random_bool(0.8).then(|| random.random_range(1..4));
    let new = new_event(
        random.random_range(1..3),
        id.as_deref(),
        number - number % 2 * i64::from(random.random_bool(0.9)),
    );
    NewEvent { inbox_id, ..new }
}

fn random_settlements(
    random: &mut StdRng,
    reference: &MemoryStore,
    subscriptions: &[SubscriptionKey],
    now: UnixMicros,
) -> Vec<Settlement> {
    let query = DeliveryQuery {
        subscriptions: Some(subscriptions.to_vec()),
        states: Vec::new(),
        event: None,
        time: TimeRange::default(),
        after: None,
        limit: usize::MAX - 1,
    };
    let rows = reference.deliveries(&query).unwrap().rows;
    let mut settlements = Vec::new();
    for row in rows {
        if random.random_bool(0.1) {
            let state = match random.random_range(0..4) {
                0 => DeliveryState::Failed,
                1 => DeliveryState::Retrying { due: UnixMicros(now.0 + random.random_range(0..100_000)) },
                _ => DeliveryState::Succeeded,
            };
            settlements.push(Settlement { key: row.key, attempt: attempt(now, state), state });
        }
    }
    settlements
}

fn compare<E: Engine>(
    bench: &Bench<E>,
    reference: &MemoryStore,
    subscriptions: &[SubscriptionKey],
    seed: u64,
) {
    let shown = |row: &DeliveryRecord| {
        (
            row.key,
            row.state,
            row.attempt_count,
            row.attempts.clone(),
            row.create_time,
            row.update_time,
            row.event.content.encoded.clone(),
        )
    };
    let ours = bench.deliveries(subscriptions);
    let theirs = reference.deliveries(&bench.query(subscriptions)).unwrap().rows;
    assert!(ours.iter().map(shown).eq(theirs.iter().map(shown)), "seed {seed}");
    for row in ours.iter().take(40) {
        let ours = bench.store.delivery(row.key).unwrap().unwrap();
        assert_eq!(shown(&ours), shown(&reference.delivery(row.key).unwrap().unwrap()), "seed {seed}");
    }
    assert_eq!(bench.store.owed_in_all(), reference.owed_in_all(), "seed {seed}");
    for &subscription in subscriptions {
        assert_eq!(
            bench.store.queue_summary(subscription),
            reference.queue_summary(subscription),
            "seed {seed}"
        );
        for limit in [3, 1000] {
            let (ours, theirs) = (
                bench.store.pending(subscription, Seq(10), limit).unwrap(),
                reference.pending(subscription, Seq(10), limit).unwrap(),
            );
            let seqs = |owed: &[crate::store::PendingDelivery]| {
                owed.iter().map(|o| (o.event.seq, o.attempts)).collect::<Vec<_>>()
            };
            assert_eq!(
                (seqs(&ours.owed), ours.until, ours.more),
                (seqs(&theirs.owed), theirs.until, theirs.more)
            );
            let some = (0..200).step_by(3).map(contact_tag).collect();
            let filters = (0..20).map(|id| OrderFilter::Only(contact_tag(id)));
            for order in filters.chain([OrderFilter::Any, OrderFilter::Except(Arc::new(some))]) {
                let ours = owed(&*bench.store, subscription, 10, limit, order.clone());
                assert_eq!(ours, owed(reference, subscription, 10, limit, order), "seed {seed}");
            }
            let now = UnixMicros(bench.clock.now().0 + 50_000);
            let (ours, theirs) = (
                bench.store.due(subscription, now, limit).unwrap(),
                reference.due(subscription, now, limit).unwrap(),
            );
            assert_eq!(
                (seqs(&ours.owed), ours.next_due),
                (seqs(&theirs.owed), theirs.next_due),
                "seed {seed}"
            );
        }
    }
    for scope in [AccountScope::One(account(1)), AccountScope::One(account(2)), AccountScope::All] {
        let mut query =
            EventQuery { scope, types: Vec::new(), time: TimeRange::default(), before: None, limit: 7 };
        loop {
            let (ours, theirs) = (bench.store.events(&query).unwrap(), reference.events(&query).unwrap());
            let seqs =
                |rows: &[Arc<crate::event::StoredEvent>]| rows.iter().map(|e| e.seq).collect::<Vec<_>>();
            assert_eq!((seqs(&ours.rows), ours.next), (seqs(&theirs.rows), theirs.next), "seed {seed}");
            query.before = ours.next;
            if ours.next.is_none() {
                break;
            }
        }
    }
}
