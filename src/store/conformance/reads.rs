//! Conformance: reads that fail.

use super::{Bench, Engine, account, attempt, new_event, replays::replay_query};
use crate::{
    clock::Clock,
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountScope, Seq},
        time::UnixMicros,
    },
    store::{
        DeliveryQuery, EventQuery, OperatorAction, OrderFilter, OwedQuery, Settlement, StoreError, TimeRange,
    },
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    a_failed_read_is_an_error_and_never_nothing_there(engine()).await;
}

/// Every call that reads, about events that are not in memory.
async fn a_failed_read_is_an_error_and_never_nothing_there<E: Engine>(engine: E) {
    const EVENTS: u64 = 4_000;
    let mut bench = Bench::new(engine);
    let subscription = bench.subscribe(1, "a").await.key;
    let key = |seq| DeliveryKey { seq: Seq(seq), subscription };
    for hundred in 0..EVENTS / 100 {
        let ids = (0..100).map(|number| format!("e{}", hundred * 100 + number));
        bench.store.accept(ids.map(|id| new_event(1, Some(&id), 7)).collect()).await.unwrap();
        if hundred == 0 {
            let due = bench.clock.now();
            bench.settle(key(1), DeliveryState::Retrying { due }).await;
        }
    }
    bench.reopen();
    if !bench.engine.break_reads() {
        return;
    }
    let (store, now) = (&bench.store, bench.clock.now());
    let id = || "e5".parse().unwrap();
    let owed = OwedQuery { subscription, after: Seq(0), limit: 5, order: OrderFilter::Any };
    let (time, before) = (TimeRange::default(), Some(Seq(50)));
    let events =
        EventQuery { scope: AccountScope::One(account(1)), types: Vec::new(), time, before, limit: 5 };
    let deliveries = DeliveryQuery { after: Some(key(50)), limit: 5, ..bench.query(&[subscription]) };
    let replay = replay_query(1, subscription, store.newest(), now);
    let settlement = || {
        let state = DeliveryState::Succeeded;
        Settlement { key: key(2), attempt: attempt(now, state), state }
    };
    let results: [(&str, Result<(), StoreError>); 13] = [
        ("event", store.event(account(1), &id()).map(drop)),
        ("events", store.events(&events).map(drop)),
        ("delivery", store.delivery(key(1)).map(drop)),
        ("deliveries", store.deliveries(&deliveries).map(drop)),
        ("pending", store.pending(subscription, Seq(0), 5).map(drop)),
        ("due", store.due(subscription, UnixMicros(i64::MAX), 5).map(drop)),
        ("owed", store.owed(&owed).map(drop)),
        ("oldest_owed", store.oldest_owed(&[subscription]).map(drop)),
        ("replayable", store.replayable(&replay).map(drop)),
        ("accept", store.accept(vec![new_event(1, Some("e5"), 7)]).await.map(drop)),
        ("settle", store.settle(vec![settlement()]).await),
        ("override_delivery", store.override_delivery(key(2), OperatorAction::Cancel).await.map(drop)),
        ("replay", store.replay(replay.clone(), vec![Seq(3)]).await.map(drop)),
    ];
    for (call, result) in results {
        assert!(matches!(result, Err(StoreError::ReadFailed(_))), "{call}: {result:?}");
    }
    let stored = bench.publish(1, Some("new"), 7).await;
    assert!(!stored.duplicate, "a failed read does not end the store");
}
