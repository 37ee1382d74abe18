//! Conformance: events.

use std::sync::Arc;

use super::{Bench, Engine, account, new_event, subscription_to};
use crate::{
    domain::subscription::State,
    proto::v1::{self, EventType},
    store::{
        Accepted, Change, DeliveryQuery, EventQuery, NewEvent, PAGE_BYTES_MAX, QueueEvent, StoreError,
        TimeRange,
    },
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    events_are_found_again(engine()).await;
    a_page_ends_at_its_bytes_and_loses_no_event(engine()).await;
    a_repeated_event_is_stored_once(engine()).await;
    a_batch_is_all_or_none(engine()).await;
    an_event_is_owed_to_those_that_want_it_when_it_is_stored(engine()).await;
    the_feed_tells_of_every_event(engine()).await;
    times_never_step_back(engine()).await;
}

async fn events_are_found_again<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    bench.subscribe(1, "a").await;
    let given = bench.publish(1, Some("given.1"), 1).await;
    bench.clock.step(1_000_000);
    let made = bench.publish_in(None, 1, None, 2).await;
    bench.publish(2, Some("given.1"), 3).await;
    assert_eq!((given.id.as_str(), given.delivery_count, given.duplicate), ("given.1", 1, false));
    assert_eq!((made.delivery_count, made.duplicate), (0, false));
    bench.reopen();
    for (accepted, number) in [(&given, 1), (&made, 2)] {
        let event = bench.store.event(account(1), &accepted.id).unwrap().expect("it was stored");
        assert_eq!((&event.name.id, event.create_time), (&accepted.id, accepted.create_time));
        let published = new_event(1, None, number).content;
        assert_eq!(event.content.encoded, published.encoded, "it comes back as it was published");
        assert_eq!((event.event_type(), event.order_tag()), (published.event_type, published.order_tag));
    }
    assert!(bench.store.event(account(3), &given.id).unwrap().is_none());
    assert!(
        bench.store.event(account(2), &made.id).unwrap().is_none(),
        "a made id is found in its account only"
    );

    let query = |time| EventQuery {
        scope: crate::domain::ids::AccountScope::One(account(1)),
        types: Vec::new(),
        time,
        before: None,
        limit: 1,
    };
    let newest = bench.store.events(&query(TimeRange::default())).unwrap();
    assert_eq!(newest.rows[0].name.id, made.id);
    let next = EventQuery { before: newest.next, ..query(TimeRange::default()) };
    let oldest = bench.store.events(&next).unwrap();
    assert_eq!((&oldest.rows[0].name.id, oldest.next), (&given.id, None));
    let until = TimeRange { start: None, end: Some(made.create_time) };
    assert_eq!(bench.store.events(&query(until)).unwrap().rows[0].name.id, given.id);
    let from = TimeRange { start: Some(made.create_time), end: None };
    assert_eq!(bench.store.events(&query(from)).unwrap().next, None);
    let messages = EventQuery { types: vec![EventType::MessageCreated], ..query(TimeRange::default()) };
    assert!(bench.store.events(&messages).unwrap().rows.is_empty());
}

async fn a_page_ends_at_its_bytes_and_loses_no_event<E: Engine>(engine: E) {
    const EVENTS: i64 = 7;
    let mut bench = Bench::new(engine);
    let subscriptions = [bench.subscribe(1, "a").await.key, bench.subscribe(1, "b").await.key];
    // Each is more than a third of a page, and the last more than a whole one.
    for number in 0..EVENTS {
        let mut new = new_event(1, None, number);
        let mut event = new.content.decode();
        let Some(v1::event::Payload::ContactCreated(created)) = &mut event.payload else { unreachable!() };
        let parts = if number == EVENTS - 1 { 1 } else { 3 };
        created.contact.as_mut().expect("it has one").name = "x".repeat(PAGE_BYTES_MAX / parts);
        new.content = event.into();
        bench.store.accept(vec![new]).await.unwrap();
    }
    bench.reopen();
    let time = TimeRange::default();
    let mut events = EventQuery {
        scope: crate::domain::ids::AccountScope::One(account(1)),
        types: Vec::new(),
        time,
        before: None,
        limit: 50,
    };
    let mut sizes = Vec::new();
    loop {
        let page = bench.store.events(&events).unwrap();
        sizes.push(page.rows.len());
        events.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [1, 2, 2, 2]);
    let mut deliveries = DeliveryQuery {
        subscriptions: Some(subscriptions.into()),
        states: Vec::new(),
        event: None,
        time,
        after: None,
        limit: 50,
    };
    let mut sizes = Vec::new();
    loop {
        let page = bench.store.deliveries(&deliveries).unwrap();
        sizes.push(page.rows.len());
        deliveries.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    // A page may begin with the last deliveries of an event, which is read again.
    assert_eq!(sizes.iter().sum::<usize>(), 14, "{sizes:?}");
    assert!(sizes.iter().all(|size| (1..=4).contains(size)), "{sizes:?}");
}

async fn a_repeated_event_is_stored_once<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let subscription = bench.subscribe(1, "a").await.key;
    let first = bench.publish(1, Some("e"), 1).await;
    for _ in 0..2 {
        bench.clock.step(5);
        let again = bench.publish_in(None, 1, Some("e"), 1).await;
        assert_eq!(again, Accepted { duplicate: true, ..first.clone() });
        let other = bench.store.accept(vec![new_event(1, Some("e"), 2)]).await.unwrap_err();
        assert!(matches!(other, StoreError::EventExists { index: 0, id } if id == first.id));
        bench.reopen();
    }
    let twice = vec![new_event(1, Some("f"), 3), new_event(1, Some("f"), 3)];
    let answers = bench.store.accept(twice).await.unwrap();
    assert_eq!((answers[0].duplicate, answers[1].duplicate), (false, true), "also within one call");
    let made = bench.publish_in(None, 1, None, 4).await;
    assert!(bench.publish_in(None, 1, Some(made.id.as_str()), 4).await.duplicate, "a made id counts as well");
    assert_eq!(bench.store.queue_summary(subscription).pending, 2);
}

async fn an_event_is_owed_to_those_that_want_it_when_it_is_stored<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let store = Arc::clone(&bench.store);
    let a = bench.subscribe(1, "a").await;
    let mut other = a.settings.clone();
    other.inbox_ids = vec![7];
    // Calls take effect in their order, whether or not each is awaited.
    let before = store.create_subscription(subscription_to(1, "b", &[]));
    let both = store.accept(vec![new_event(1, Some("both"), 1), new_event(2, Some("nobody"), 1)]);
    let update = store.update_subscription(a.key, a.version, Change::Settings(Box::new(other)));
    let one = store.accept(vec![new_event(1, Some("one"), 1)]);
    let b = before.await.unwrap().subscription;
    let delete = store.delete_subscription(b.key, b.version, true);
    let none = store.accept(vec![new_event(1, Some("none"), 1), new_event(1, Some("both"), 1)]);
    let counts = |accepted: Vec<Accepted>| accepted.iter().map(|one| one.delivery_count).collect::<Vec<_>>();
    assert_eq!(counts(both.await.unwrap()), [2, 0]);
    assert_eq!(counts(one.await.unwrap()), [1]);
    let update = update.await.unwrap();
    delete.await.unwrap();
    assert_eq!(counts(none.await.unwrap()), [0, 2], "a duplicate counts those of its first time");
    // Deliveries to a paused subscription wait.
    let pause = Change::State(State::Paused, String::new());
    store.update_subscription(a.key, update.version, pause).await.unwrap();
    let wanted = [
        (Some(7), EventType::ContactCreated),
        (None, EventType::ContactCreated),
        (Some(7), EventType::InboxUpdated),
    ];
    let events = wanted.map(|(inbox_id, event_type)| {
        let mut new = NewEvent { inbox_id, ..new_event(1, None, 1) };
        new.content.event_type = event_type;
        new
    });
    assert_eq!(counts(store.accept(events.into()).await.unwrap()), [1, 0, 0], "by inbox and by type");
    drop(store);
    bench.reopen();
    assert_eq!(bench.store.queue_summary(a.key).pending, 2);
    let rows = bench.deliveries(&[a.key]);
    assert_eq!(rows.iter().map(|row| row.key.seq.0).collect::<Vec<_>>(), [5, 1]);
}

async fn a_batch_is_all_or_none<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let subscription = bench.subscribe(1, "a").await.key;
    bench.publish_in(None, 1, Some("old"), 1).await;
    let batch = vec![new_event(1, Some("new"), 2), new_event(1, Some("old"), 3)];
    let error = bench.store.accept(batch).await.unwrap_err();
    assert!(matches!(error, StoreError::EventExists { index: 1, .. }));
    let within = vec![new_event(1, Some("new"), 2), new_event(1, Some("new"), 3)];
    assert!(bench.store.accept(within).await.is_err());
    bench.reopen();
    assert!(bench.store.event(account(1), &"new".parse().unwrap()).unwrap().is_none());
    assert_eq!(bench.store.queue_summary(subscription).pending, 0);
    let answers = bench.store.accept((0..300).map(|n| new_event(1, None, n)).collect()).await.unwrap();
    assert!(answers.iter().all(|answer| !answer.duplicate));
    bench.reopen();
    assert_eq!(bench.store.queue_summary(subscription).pending, 300);
}

async fn the_feed_tells_of_every_event<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    bench.subscribe(1, "a").await;
    let mut feed = bench.store.subscribe_accepted();
    bench.store.accept((0..3).map(|n| new_event(1, None, n)).collect()).await.unwrap();
    bench.publish_in(None, 1, Some("e"), 7).await;
    bench.publish_in(None, 1, Some("e"), 7).await;
    bench.publish(1, Some("f"), 8).await;
    let mut seqs = Vec::new();
    while seqs.len() < 5 {
        let QueueEvent::Events(group) = feed.recv().await.unwrap() else { panic!("nobody decided anything") };
        seqs.extend(group.iter().map(|fed| (fed.event.seq.0, fed.subscriptions.len())));
    }
    assert_eq!(seqs, [(1, 1), (2, 1), (3, 1), (4, 0), (5, 1)], "in order, and nothing twice");
}

async fn times_never_step_back<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let first = bench.publish_in(None, 1, None, 1).await;
    bench.clock.step(-5_000_000);
    let second = bench.publish_in(None, 1, None, 2).await;
    bench.reopen();
    let third = bench.publish_in(None, 1, None, 3).await;
    assert!(first.create_time <= second.create_time && second.create_time <= third.create_time);
}
