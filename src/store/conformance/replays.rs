//! Conformance: replays.

use super::{Bench, Engine, account};
use crate::{
    clock::Clock,
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{Seq, SubscriptionKey},
        time::UnixMicros,
    },
    proto::v1::EventType,
    store::{DeliveryQuery, OperatorAction, QueueEvent, ReplayQuery, StoreError, TimeRange, Wanted},
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    replays_queue_again(engine()).await;
}

pub(super) fn replay_query(
    of: i64,
    subscription: SubscriptionKey,
    until: Seq,
    now: UnixMicros,
) -> ReplayQuery {
    let types = vec![EventType::ContactCreated];
    ReplayQuery {
        subscription,
        account: account(of),
        types: Vec::new(),
        time: TimeRange::default(),
        states: vec![DeliveryState::Failed, DeliveryState::Cancelled],
        changed_until: now,
        never_queued: Some(Wanted { types: types.into(), inbox_ids: Vec::new() }),
        after: Seq(0),
        until,
        limit: 3,
    }
}

async fn replays_queue_again<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe_to(1, "a", &[]).await.key;
    let mut times = Vec::new();
    for number in 1..=8 {
        bench.clock.step(10);
        times.push(bench.publish_in(None, 1, None, number).await.create_time);
    }
    bench.publish(2, None, 9).await;
    bench.clock.step(10);
    let failed = DeliveryState::Failed;
    let ends = [failed, DeliveryState::Succeeded, failed, DeliveryState::Retrying { due: UnixMicros(7) }];
    for (seq, state) in (1..).zip(ends) {
        bench.settle(DeliveryKey { seq: Seq(seq), subscription: a }, state).await;
    }
    bench
        .store
        .override_delivery(DeliveryKey { seq: Seq(5), subscription: a }, OperatorAction::Cancel)
        .await
        .unwrap();
    let until = bench.store.newest();
    assert_eq!(until, Seq(9));
    let mut feed = bench.store.subscribe_accepted();
    bench.clock.step(10);
    let now = bench.clock.now();

    // What failed or was cancelled, and nothing of another account.
    let query = replay_query(1, a, until, now);
    let page = bench.store.replayable(&query).unwrap();
    assert_eq!((page.rows.iter().map(|seq| seq.0).collect::<Vec<_>>(), page.next), (vec![1, 3, 5], None));
    let before = bench.store.queue_summary(a);
    assert_eq!(bench.store.replay(query.clone(), vec![Seq(1), Seq(2), Seq(3), Seq(9)]).await.unwrap(), 2);
    assert!(
        matches!(feed.recv().await.unwrap(), QueueEvent::Requeued(subscription, Seq(1)) if subscription == a)
    );
    for _ in 0..2 {
        let summary = bench.store.queue_summary(a);
        assert_eq!((summary.failed, summary.pending), (before.failed - 2, before.pending + 2));
        assert_eq!(bench.store.replay(query.clone(), vec![Seq(1), Seq(3)]).await.unwrap(), 0, "not twice");
        bench.reopen();
    }
    let pending = bench.store.pending(a, Seq(0), 2).unwrap().owed;
    assert_eq!((pending[0].event.seq, pending[0].attempts), (Seq(1), 0), "retries start from zero");
    bench
        .settle(DeliveryKey { seq: Seq(1), subscription: a }, DeliveryState::Retrying { due: UnixMicros(1) })
        .await;
    bench.reopen();
    assert_eq!(bench.store.due(a, now, 1).unwrap().owed[0].attempts, 1);
    bench.clock.step(10);
    bench.settle(DeliveryKey { seq: Seq(1), subscription: a }, failed).await;
    let delivery = bench.store.delivery(DeliveryKey { seq: Seq(1), subscription: a }).unwrap().unwrap();
    assert_eq!((delivery.attempt_count, delivery.attempts.len()), (3, 3), "and are shown all");
    // What the replay queued itself is not taken again by its later pages, whatever became of it.
    assert_eq!(bench.store.replayable(&query).unwrap().rows, [Seq(5)]);

    // Somebody who was not there before.
    let b = bench.subscribe(1, "b").await.key;
    let time = TimeRange { start: Some(times[1]), end: Some(times[6]) };
    let mut query = ReplayQuery { time, ..replay_query(1, b, until, bench.clock.now()) };
    let mut queued = Vec::new();
    loop {
        let page = bench.store.replayable(&query).unwrap();
        queued.extend(page.rows.iter().map(|seq| seq.0));
        bench.store.replay(query.clone(), page.rows).await.unwrap();
        match page.next {
            Some(next) => query.after = next,
            None => break,
        }
        bench.reopen();
    }
    assert_eq!(queued, [2, 3, 4, 5, 6]);
    let made = bench.clock.now();
    for _ in 0..2 {
        let pending = bench.store.pending(b, Seq(0), 10).unwrap().owed;
        assert!(pending.iter().map(|owed| owed.event.seq.0).eq(2..=6));
        let rows = bench.deliveries(&[a, b]);
        let of_b: Vec<_> = rows.iter().filter(|row| row.key.subscription == b).collect();
        assert!(of_b.iter().all(|row| row.create_time == made && row.update_time == made), "they are new");
        let since =
            DeliveryQuery { time: TimeRange { start: Some(made), end: None }, ..bench.query(&[a, b]) };
        assert_eq!(bench.store.deliveries(&since).unwrap().rows.len(), 5);
        bench.reopen();
    }
    let wanted = Wanted { types: vec![EventType::ContactCreated].into(), inbox_ids: vec![4] };
    let query = ReplayQuery { never_queued: Some(wanted), ..replay_query(1, b, until, made) };
    assert!(bench.store.replayable(&query).unwrap().rows.is_empty(), "a contact is in no inbox");
    let query = ReplayQuery { types: vec![EventType::MessageCreated], ..replay_query(1, b, until, made) };
    assert!(bench.store.replayable(&query).unwrap().rows.is_empty());
    bench.settle(DeliveryKey { seq: Seq(2), subscription: b }, DeliveryState::Succeeded).await;
    let succeeded = ReplayQuery {
        states: vec![DeliveryState::Succeeded],
        never_queued: None,
        ..replay_query(1, b, until, bench.clock.now())
    };
    assert_eq!(bench.store.replayable(&succeeded).unwrap().rows, [Seq(2)]);
    let gone = bench
        .store
        .replay(ReplayQuery { subscription: SubscriptionKey(99), ..succeeded }, vec![Seq(2)])
        .await;
    assert!(matches!(gone, Err(StoreError::SubscriptionNotFound)));
}
