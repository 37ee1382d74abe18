//! Conformance: retention.

use super::{Bench, Engine, account, attempt, new_event};
use crate::{
    clock::Clock,
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountScope, Seq, SubscriptionKey},
        time::UnixMicros,
    },
    proto::v1,
    store::{DeliveryQuery, EventQuery, NewEvent, RetentionLimit, Settlement, TimeRange},
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    retention_removes_what_is_over_and_keeps_what_is_owed(engine()).await;
    retention_counts_the_time_that_passes_and_not_that_of_a_clock_that_is_set(engine()).await;
}

async fn retention_removes_what_is_over_and_keeps_what_is_owed<E: Engine>(engine: E) {
    const COUNT: u64 = 2500;
    let mut bench = Bench::new(engine);
    let subscription = bench.subscribe(1, "a").await.key;
    for hundred in 0..COUNT / 100 {
        let ids = (0..100).map(|number| format!("e{}", hundred * 100 + number));
        let events = ids.map(|id| new_event(1, Some(&id), 7)).collect();
        bench.store.accept(events).await.unwrap();
        bench.clock.step(1_000_000);
    }
    let owed = [Seq(5), Seq(2499)];
    for seq in (1..=COUNT).map(Seq).filter(|seq| !owed.contains(seq)) {
        let state = if seq.0.is_multiple_of(7) { DeliveryState::Failed } else { DeliveryState::Succeeded };
        let settlement = Settlement {
            key: DeliveryKey { seq, subscription },
            attempt: attempt(bench.clock.now(), state),
            state,
        };
        drop(bench.store.settle(vec![settlement]));
    }
    bench
        .settle(DeliveryKey { seq: Seq(5), subscription }, DeliveryState::Retrying { due: UnixMicros(1) })
        .await;
    let everything = RetentionLimit { since: UnixMicros(0), bytes_max: u64::MAX };
    let kept = bench.store.purge(everything).await.unwrap();
    assert_eq!(kept.events, 0);
    bench.reopen();
    assert_eq!(bench.store.purge(everything).await.unwrap(), kept, "the bytes are counted the same again");

    // By size: some of the older ones go.
    let by_size = RetentionLimit { since: UnixMicros(0), bytes_max: kept.bytes_left / 2 };
    let less = bench.store.purge(by_size).await.unwrap();
    assert!(less.bytes_left < kept.bytes_left, "{less:?}");
    for _ in 0..2 {
        bench.reopen();
        check_retained(&bench, subscription, &owed);
    }
    // By age: everything that is over may go.
    bench.clock.step(1_000_000_000);
    let by_age = RetentionLimit { since: bench.clock.now(), bytes_max: u64::MAX };
    bench.store.purge(by_age).await.unwrap();
    bench.reopen();
    check_retained(&bench, subscription, &owed);

    // What was removed may be published again; what is still there is a duplicate.
    let there = bench.store.event(account(1), &"e4".parse().unwrap()).unwrap();
    assert!(there.is_some_and(|event| event.seq == Seq(5)), "it is owed");
    assert!(bench.publish_in(None, 1, Some("e4"), 7).await.duplicate);
    for number in (0..COUNT).step_by(50) {
        let id = format!("e{number}");
        let there = bench.store.event(account(1), &id.parse().unwrap()).unwrap().is_some();
        assert_eq!(bench.publish_in(None, 1, Some(&id), 7).await.duplicate, there, "{id}");
    }
}

/// Checks that owed deliveries exist, and that the counts match the lists.
fn check_retained<E: Engine>(bench: &Bench<E>, subscription: SubscriptionKey, owed: &[Seq]) {
    let pending = bench.store.pending(subscription, Seq(0), 10).unwrap().owed;
    let due = bench.store.due(subscription, UnixMicros(i64::MAX), 10).unwrap().owed;
    let mut left: Vec<Seq> = pending.iter().chain(&due).map(|owed| owed.event.seq).collect();
    left.sort_unstable();
    assert_eq!(left, owed);
    let rows = bench
        .store
        .deliveries(&DeliveryQuery { limit: 10_000, ..bench.query(&[subscription]) })
        .unwrap()
        .rows;
    let mut counts = crate::store::QueueSummary::default();
    rows.iter().for_each(|row| counts.add(row.state));
    assert_eq!(bench.store.queue_summary(subscription), counts);
    let query = EventQuery {
        scope: AccountScope::One(account(1)),
        types: Vec::new(),
        time: TimeRange::default(),
        before: None,
        limit: 10_000,
    };
    assert_eq!(bench.store.events(&query).unwrap().rows.len(), rows.len());
}

async fn retention_counts_the_time_that_passes_and_not_that_of_a_clock_that_is_set<E: Engine>(engine: E) {
    const HOUR: i64 = 3_600_000_000;
    const COUNT: u64 = 40;
    let mut bench = Bench::new(engine);
    for step in [HOUR, -2 * HOUR, 10 * 365 * 24 * HOUR, 0] {
        let kept = bench.store.purge(RetentionLimit { since: UnixMicros(0), bytes_max: u64::MAX }).await;
        let bytes_left = kept.unwrap().bytes_left;
        for number in 0..COUNT {
            bench.store.accept(vec![large_event(&format!("e{step}-{number}"))]).await.unwrap();
        }
        bench.clock.step_wall(step);
        bench.clock.step(HOUR / 2);
        bench.reopen();
        let since = UnixMicros(bench.clock.steady().0 - HOUR);
        let purged = bench.store.purge(RetentionLimit { since, bytes_max: u64::MAX }).await.unwrap();
        assert!(purged.bytes_left > bytes_left, "what is half an hour old stays, after {step}");
        bench.clock.step(HOUR);
        let since = UnixMicros(bench.clock.steady().0 - HOUR);
        let purged = bench.store.purge(RetentionLimit { since, bytes_max: u64::MAX }).await.unwrap();
        assert!(purged.events > 0, "what is an hour and a half old goes, after {step}");
    }
}

/// An event of which several fill a file of the log.
fn large_event(id: &str) -> NewEvent {
    let contact = v1::Contact { id: 1, name: "x".repeat(16 << 10), ..Default::default() };
    let payload = v1::event::Payload::ContactCreated(v1::ContactCreated { contact: Some(contact) });
    let event = v1::Event { payload: Some(payload), ..Default::default() };
    NewEvent { content: event.into(), ..new_event(1, Some(id), 1) }
}
