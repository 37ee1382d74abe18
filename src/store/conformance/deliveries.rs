//! Conformance: deliveries.

use std::sync::Arc;

use super::{Bench, Engine, account, attempt, new_event};
use crate::{
    clock::Clock,
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        event_routing::{OrderKey, OrderTag},
        ids::{AccountId, Seq, SubscriptionKey},
        time::UnixMicros,
    },
    store::{
        DeliveryQuery, OWED_DELIVERY_BYTES, OWED_EVENT_BYTES, OperatorAction, OrderFilter, Owed, OwedQuery,
        QueueEvent, RetentionLimit, Store, StoreError,
    },
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    deliveries_settle_once(engine()).await;
    retries_come_when_they_are_due(engine()).await;
    pending_deliveries_are_read_in_stored_order(engine()).await;
    what_is_owed_is_read_in_stored_order_by_what_it_belongs_to(engine()).await;
    callers_decide_about_deliveries(engine()).await;
    what_is_owed_in_all_follows_every_change(engine()).await;
    bytes_that_are_owed_are_counted_by_account(engine()).await;
}

async fn deliveries_settle_once<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (a, b) = (bench.subscribe(1, "a").await.key, bench.subscribe(1, "b").await.key);
    let event = bench.publish(1, Some("e"), 1).await;
    let key = |subscription| DeliveryKey { seq: Seq(1), subscription };
    let due = UnixMicros(bench.clock.now().0 + 50);
    bench.clock.step(10);
    bench.settle(key(a), DeliveryState::Retrying { due }).await;
    bench.clock.step(10);
    bench.settle(key(a), DeliveryState::Succeeded).await;
    bench.settle(key(a), DeliveryState::Failed).await;
    bench.settle(key(SubscriptionKey(77)), DeliveryState::Failed).await;
    bench.reopen();
    let delivery = bench.store.delivery(key(a)).unwrap().unwrap();
    assert_eq!(
        (delivery.state, delivery.attempt_count),
        (DeliveryState::Succeeded, 2),
        "what is over stays over"
    );
    let attempts: Vec<_> = delivery.attempts.iter().map(|attempt| attempt.http_status).collect();
    assert_eq!(attempts, [503, 204]);
    assert_eq!(delivery.attempts[0], attempt(delivery.attempts[0].start_time, DeliveryState::Failed));
    assert_eq!(delivery.update_time.0, event.create_time.0 + 20);
    assert_eq!(delivery.event.name.id, event.id);
    let other = bench.store.delivery(key(b)).unwrap().unwrap();
    assert_eq!((other.state, other.attempt_count, other.attempts.len()), (DeliveryState::Pending, 0, 0));
    assert_eq!(other.update_time, event.create_time);
    assert!(bench.store.delivery(DeliveryKey { seq: Seq(2), subscription: a }).unwrap().is_none());

    let rows = bench.deliveries(&[a, b]);
    assert_eq!(rows.iter().map(|row| row.key.subscription).collect::<Vec<_>>(), [a, b]);
    assert_eq!(rows[0].attempts.len(), 1, "a list shows the last attempt only");
    let succeeded = DeliveryQuery { states: vec![DeliveryState::Succeeded], ..bench.query(&[a, b]) };
    assert_eq!(bench.store.deliveries(&succeeded).unwrap().rows.len(), 1);
    let of_event = DeliveryQuery { event: Some((account(1), event.id)), ..bench.query(&[b]) };
    assert_eq!(bench.store.deliveries(&of_event).unwrap().rows.len(), 1);
    let of_other = DeliveryQuery { event: Some((account(1), "x".parse().unwrap())), ..bench.query(&[b]) };
    assert!(bench.store.deliveries(&of_other).unwrap().rows.is_empty());
}

async fn retries_come_when_they_are_due<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let subscription = bench.subscribe(1, "a").await.key;
    for number in 1..=4 {
        bench.publish(1, None, number).await;
    }
    let start = bench.clock.now();
    for (seq, wait) in [(1, 30), (2, 10), (3, 20)] {
        let due = UnixMicros(start.0 + wait);
        bench.settle(DeliveryKey { seq: Seq(seq), subscription }, DeliveryState::Retrying { due }).await;
    }
    bench.reopen();
    let due = |after: i64, limit| {
        let page = bench.store.due(subscription, UnixMicros(start.0 + after), limit).unwrap();
        let seqs: Vec<u64> = page.owed.iter().map(|owed| owed.event.seq.0).collect();
        assert!(page.owed.iter().all(|owed| owed.attempts == 1));
        (seqs, page.next_due.map(|due| due.0 - start.0))
    };
    assert_eq!(due(9, 10), (vec![], Some(10)));
    assert_eq!(due(20, 10), (vec![2, 3], Some(30)));
    assert_eq!(due(99, 1), (vec![2], Some(20)));
    assert_eq!(due(99, 10), (vec![2, 3, 1], None));
    let summary = bench.store.queue_summary(subscription);
    assert_eq!((summary.pending, summary.retrying, summary.next_due), (1, 3, Some(UnixMicros(start.0 + 10))));
    bench.settle(DeliveryKey { seq: Seq(2), subscription }, DeliveryState::Failed).await;
    let summary = bench.store.queue_summary(subscription);
    assert_eq!((summary.retrying, summary.failed, summary.next_due), (2, 1, Some(UnixMicros(start.0 + 20))));
}

async fn pending_deliveries_are_read_in_stored_order<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (a, b) = (bench.subscribe(1, "a").await.key, bench.subscribe_to(1, "b", &[1]).await.key);
    for number in 1..=9 {
        let inbox = if number % 3 == 0 { 1 } else { 3 };
        bench.publish_in(Some(inbox), 1, None, number).await;
    }
    bench.settle(DeliveryKey { seq: Seq(2), subscription: a }, DeliveryState::Succeeded).await;
    bench
        .settle(DeliveryKey { seq: Seq(3), subscription: a }, DeliveryState::Retrying { due: UnixMicros(0) })
        .await;
    bench.reopen();
    let read = |subscription, after, limit| {
        let page = bench.store.pending(subscription, Seq(after), limit).unwrap();
        (page.owed.iter().map(|owed| owed.event.seq.0).collect::<Vec<_>>(), page.until.0, page.more)
    };
    assert_eq!(read(a, 0, 3), (vec![1, 4, 5], 5, true));
    assert_eq!(read(a, 5, 4), (vec![6, 7, 8, 9], 9, false));
    assert_eq!(read(b, 0, 10), (vec![3, 6, 9], 9, false));
    assert_eq!(read(b, 9, 10), (vec![], 9, false));
    assert_eq!(read(SubscriptionKey(99), 0, 10), (vec![], 9, false));
}

/// The seqs of what is owed, with the time of each retry; then `until` and `more`.
pub(super) type OwedShown = (Vec<(u64, u32, Option<i64>)>, u64, bool);

pub(super) fn owed(
    store: &dyn Store,
    subscription: SubscriptionKey,
    after: u64,
    limit: usize,
    order: OrderFilter,
) -> OwedShown {
    let page = store.owed(&OwedQuery { subscription, after: Seq(after), limit, order }).unwrap();
    let debts =
        page.debts.iter().map(|debt| (debt.owed.event.seq.0, debt.owed.attempts, debt.due.map(|due| due.0)));
    (debts.collect(), page.until.0, page.more)
}

pub(super) fn contact_tag(id: i64) -> OrderTag {
    OrderKey::Contact(id).into()
}

async fn what_is_owed_is_read_in_stored_order_by_what_it_belongs_to<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (a, b) = (bench.subscribe(1, "a").await.key, bench.subscribe_to(1, "b", &[1]).await.key);
    // Contacts 1, 2 and 3 in turn: 1 has the events 1, 4, 7; 2 has 2, 5, 8; 3 has 3, 6, 9.
    for number in 0..9 {
        let inbox = if number == 4 { 1 } else { 3 };
        bench.publish_in(Some(inbox), 1, None, 1 + number % 3).await;
    }
    bench.settle(DeliveryKey { seq: Seq(1), subscription: a }, DeliveryState::Succeeded).await;
    bench
        .settle(DeliveryKey { seq: Seq(4), subscription: a }, DeliveryState::Retrying { due: UnixMicros(7) })
        .await;
    bench.settle(DeliveryKey { seq: Seq(6), subscription: a }, DeliveryState::Failed).await;
    bench.reopen();
    let (one, two) = (OrderFilter::Only(contact_tag(1)), OrderFilter::Only(contact_tag(2)));
    let read = |subscription, after, limit, order: &OrderFilter| {
        owed(&*bench.store, subscription, after, limit, order.clone())
    };
    let pending = |seqs: &[u64]| seqs.iter().map(|seq| (*seq, 0, None)).collect::<Vec<_>>();
    assert_eq!(
        read(a, 0, 10, &OrderFilter::Any),
        (
            vec![
                (2, 0, None),
                (3, 0, None),
                (4, 1, Some(7)),
                (5, 0, None),
                (7, 0, None),
                (8, 0, None),
                (9, 0, None)
            ],
            9,
            false
        )
    );
    assert_eq!(read(a, 2, 2, &OrderFilter::Any), (vec![(3, 0, None), (4, 1, Some(7))], 4, true));
    assert_eq!(read(a, 0, 2, &one), (vec![(4, 1, Some(7)), (7, 0, None)], 9, false), "no more is not more");
    assert_eq!(read(a, 0, 1, &one), (vec![(4, 1, Some(7))], 4, true));
    assert_eq!(read(a, 4, 10, &one), (pending(&[7]), 9, false));
    assert_eq!(read(b, 0, 10, &two), (pending(&[5]), 9, false));
    assert_eq!(read(b, 0, 10, &one), (vec![], 9, false));
    let except = |ids: &[i64]| OrderFilter::Except(Arc::new(ids.iter().map(|id| contact_tag(*id)).collect()));
    assert_eq!(read(a, 0, 2, &except(&[1, 2])), (pending(&[3, 9]), 9, false));
    assert_eq!(read(a, 0, 1, &except(&[1, 2])), (pending(&[3]), 3, true));
    assert_eq!(read(a, 0, 9, &except(&[1, 2, 3])), (vec![], 9, false));
    assert_eq!(read(a, 20, 9, &except(&[])), (vec![], 20, false), "it never leads back");
    bench
        .store
        .override_delivery(DeliveryKey { seq: Seq(6), subscription: a }, OperatorAction::Retry)
        .await
        .unwrap();
    bench
        .store
        .override_delivery(DeliveryKey { seq: Seq(4), subscription: a }, OperatorAction::Cancel)
        .await
        .unwrap();
    bench.reopen();
    let now = bench.clock.now().0;
    assert_eq!(
        owed(&*bench.store, a, 3, 3, OrderFilter::Any),
        (vec![(5, 0, None), (6, 1, Some(now)), (7, 0, None)], 7, true)
    );
}

async fn callers_decide_about_deliveries<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (a, b) = (bench.subscribe(1, "a").await.key, bench.subscribe_to(1, "b", &[1]).await.key);
    let event = bench.publish(1, Some("e"), 1).await;
    bench.clock.step(1000);
    bench.publish_in(Some(3), 1, Some("f"), 2).await;
    let key = |subscription| DeliveryKey { seq: Seq(1), subscription };
    let mut feed = bench.store.subscribe_accepted();

    bench.settle(key(a), DeliveryState::Failed).await;
    let over = bench.store.override_delivery(key(a), OperatorAction::Cancel).await.unwrap_err();
    assert!(matches!(over, StoreError::DeliveryOver(DeliveryState::Failed)));
    bench.clock.step(10);
    let now = bench.clock.now();
    let retried = bench.store.override_delivery(key(a), OperatorAction::Retry).await.unwrap();
    assert_eq!(retried, DeliveryState::Retrying { due: now });
    assert!(
        matches!(feed.recv().await.unwrap(), QueueEvent::Due(changed, due) if changed == key(a) && due == now)
    );
    bench.reopen();
    let due = bench.store.due(a, now, 10).unwrap().owed;
    assert_eq!((due.len(), due[0].attempts), (1, 1), "attempts go on counting");
    let delivery = bench.store.delivery(key(a)).unwrap().unwrap();
    assert_eq!((delivery.attempt_count, delivery.attempts.len(), delivery.update_time), (1, 1, now));
    bench.settle(key(a), DeliveryState::Succeeded).await;
    for decision in [OperatorAction::Retry, OperatorAction::Cancel] {
        let over = bench.store.override_delivery(key(a), decision).await.unwrap_err();
        assert!(matches!(over, StoreError::DeliveryOver(DeliveryState::Succeeded)));
    }
    assert_eq!(bench.store.delivery(key(a)).unwrap().unwrap().attempts.len(), 2);

    assert_eq!(bench.store.oldest_owed(&[a, b]).unwrap(), Some(event.create_time));
    let mut feed = bench.store.subscribe_accepted();
    bench.store.override_delivery(key(b), OperatorAction::Cancel).await.unwrap();
    assert!(matches!(feed.recv().await.unwrap(), QueueEvent::Cancelled(changed) if changed == key(b)));
    for _ in 0..2 {
        assert_eq!(
            bench.store.override_delivery(key(b), OperatorAction::Cancel).await.unwrap(),
            DeliveryState::Cancelled
        );
        bench.reopen();
    }
    assert!(bench.store.oldest_owed(&[a, b]).unwrap() > Some(event.create_time));
    assert_eq!(bench.store.oldest_owed(&[b]).unwrap(), None);
    assert_eq!(bench.store.queue_summary(b).cancelled, 1);
    // The attempt that was under way is written down, and changes nothing else.
    bench.settle(key(b), DeliveryState::Succeeded).await;
    bench.reopen();
    let delivery = bench.store.delivery(key(b)).unwrap().unwrap();
    assert_eq!((delivery.state, delivery.attempt_count), (DeliveryState::Cancelled, 1));
    let retried = bench.store.override_delivery(key(b), OperatorAction::Retry).await.unwrap();
    assert!(matches!(retried, DeliveryState::Retrying { .. }), "also what was cancelled can be tried");
    assert_eq!(bench.store.delivery(key(b)).unwrap().unwrap().state, retried);
    let none = bench
        .store
        .override_delivery(DeliveryKey { seq: Seq(9), subscription: a }, OperatorAction::Retry)
        .await
        .unwrap_err();
    assert!(matches!(none, StoreError::DeliveryNotFound));
}

async fn what_is_owed_in_all_follows_every_change<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let b = bench.subscribe(1, "b").await.key;
    let owed = |bench: &Bench<E>| bench.store.owed_in_all().deliveries;
    let key = |seq, subscription| DeliveryKey { seq: Seq(seq), subscription };
    assert_eq!(bench.store.owed_in_all(), Owed::default());
    for id in ["e", "f", "g"] {
        bench.publish(1, Some(id), 1).await;
    }
    bench.publish(1, Some("e"), 1).await;
    assert_eq!(owed(&bench), 6, "a repetition owes nothing");
    bench.settle(key(1, b), DeliveryState::Retrying { due: bench.clock.now() }).await;
    bench.reopen();
    assert_eq!(owed(&bench), 6, "what is retried is owed");
    bench.settle(key(1, b), DeliveryState::Succeeded).await;
    bench.settle(key(2, b), DeliveryState::Failed).await;
    bench.store.override_delivery(key(3, b), OperatorAction::Cancel).await.unwrap();
    bench.settle(key(3, b), DeliveryState::Succeeded).await;
    bench.reopen();
    assert_eq!(owed(&bench), 3);
    bench.store.override_delivery(key(2, b), OperatorAction::Retry).await.unwrap();
    assert_eq!(owed(&bench), 4, "what a caller has tried again is owed again");
    bench.store.delete_subscription(a.key, 1, true).await.unwrap();
    assert_eq!(owed(&bench), 1);
    bench.reopen();
    assert_eq!(owed(&bench), 1);
}

async fn bytes_that_are_owed_are_counted_by_account<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let b = bench.subscribe(1, "b").await.key;
    let other = bench.subscribe(2, "c").await.key;
    let key = |seq, subscription| DeliveryKey { seq: Seq(seq), subscription };
    let len = new_event(1, Some("e"), 1).content.encoded.len() as u64 + OWED_EVENT_BYTES;
    let counted = |bench: &Bench<E>| {
        [1, 2]
            .map(|account| bench.store.owed_by(AccountId::new(account).unwrap()))
            .map(|owed| (owed.deliveries, (owed.bytes - owed.deliveries * OWED_DELIVERY_BYTES) / len))
    };
    assert_eq!(counted(&bench), [(0, 0), (0, 0)]);
    for id in ["e", "f", "g"] {
        bench.publish(1, Some(id), 1).await;
    }
    bench.publish(2, Some("e"), 1).await;
    assert_eq!(counted(&bench), [(6, 3), (1, 1)], "an event that is owed to two counts once");
    bench.settle(key(1, b), DeliveryState::Succeeded).await;
    bench.settle(key(4, other), DeliveryState::Failed).await;
    assert_eq!(counted(&bench), [(5, 3), (0, 0)]);
    bench.reopen();
    bench.settle(key(1, a.key), DeliveryState::Succeeded).await;
    bench.store.override_delivery(key(4, other), OperatorAction::Retry).await.unwrap();
    assert_eq!(counted(&bench), [(4, 2), (1, 1)]);
    bench.settle(key(2, b), DeliveryState::Failed).await;
    bench.store.delete_subscription(a.key, 1, true).await.unwrap();
    bench.reopen();
    bench.store.purge(RetentionLimit { since: UnixMicros(0), bytes_max: u64::MAX }).await.unwrap();
    assert_eq!(counted(&bench), [(1, 1), (1, 1)]);
    let [one, two] = [1, 2].map(|account| bench.store.owed_by(AccountId::new(account).unwrap()));
    assert_eq!(bench.store.owed_in_all().bytes, one.bytes + two.bytes);
}
