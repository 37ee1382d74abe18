//! The dispatcher's memory, reads and slots.

use std::convert::Infallible;

use tower::{service_fn, util::BoxCloneSyncService};

use super::{suspension::SuspensionSettings, *};
use crate::{
    clock::SystemClock,
    domain::{delivery::DeliveryKey, ids::AccountId, payload_format::PayloadFormat},
    event::{
        EventContent, samples,
        webhook::{WebhookRequest, WebhookResponse},
    },
    proto::v1::event::Payload,
    store::{
        FEED_GROUPS_MAX, NewEvent, OperatorAction,
        conformance::{new_event, new_subscription},
        memory::MemoryStore,
    },
};

const IDLE: u64 = 100_000;

fn settings() -> DispatchSettings {
    DispatchSettings {
        delivery_memory_max: 1 << 20,
        lane_order_keys_max: 100,
        attempts_in_flight_max: 64,
        retry_after_max: Duration::from_hours(1),
        suspension: SuspensionSettings {
            suspend_after: Duration::from_hours(1),
            ..DispatchSettings::default().suspension
        },
        ..DispatchSettings::default()
    }
}

fn dispatcher(store: &Arc<dyn Store>) -> Dispatcher {
    let hangs = service_fn(|_: WebhookRequest| std::future::pending::<Result<WebhookResponse, Infallible>>());
    let webhook_client: WebhookClient = BoxCloneSyncService::new(hangs);
    let clock = Arc::new(SystemClock::default());
    Dispatcher::new(Arc::clone(store), webhook_client, clock, settings(), Metrics::new(UnixMicros(0)), 7)
}

#[tokio::test]
async fn subscriptions_with_nothing_to_send_have_no_slot_no_timer_and_no_task() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::default()), 1));
    for number in 0..IDLE {
        let account = if number == 6 { 2 } else { 1 };
        store.create_subscription(new_subscription(account, &format!("s{number}"))).await.unwrap();
    }
    let mut dispatcher = dispatcher(&store);
    dispatcher.recheck_all();
    dispatcher.registry_changed();
    dispatcher.start_attempts();
    assert!(dispatcher.slots.is_empty() && dispatcher.unloaded.is_empty() && dispatcher.throttles.is_empty());
    assert!(
        dispatcher.timers.next().is_none() && dispatcher.attempts.is_empty() && dispatcher.reads.is_empty()
    );
    assert_eq!(dispatcher.prefetch_bytes + dispatcher.reserved_bytes, 0);

    // One of them gets an event, and only that one has a slot and an attempt.
    let mut feed = store.subscribe_accepted();
    store.accept(vec![new_event(2, None, 1)]).await.unwrap();
    let Ok(QueueEvent::Events(events)) = feed.recv().await else { panic!("an event was accepted") };
    dispatcher.accepted(&events);
    dispatcher.start_attempts();
    assert_eq!((dispatcher.slots.len(), dispatcher.attempts.len(), dispatcher.timers.len()), (1, 1, 0));
}

#[tokio::test]
async fn prefetches_shrink_before_they_exceed_their_memory_limit() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::default()), 1));
    let mut lanes = Vec::new();
    for number in 0..40 {
        let new = new_subscription(1, &format!("s{number}"));
        lanes.push(store.create_subscription(new).await.unwrap().subscription.key);
    }
    let memory_bytes = settings().delivery_memory_max / 20;
    let mut feed = store.subscribe_accepted();
    for number in 0..30 {
        let new = new_event(1, None, number);
        let mut event = new.content.decode();
        let Some(Payload::ContactCreated(created)) = &mut event.payload else { unreachable!() };
        created.contact.as_mut().unwrap().name = "x".repeat(memory_bytes / 3);
        store.accept(vec![NewEvent { content: event.into(), ..new }]).await.unwrap();
    }
    let mut dispatcher = dispatcher(&store);
    for _ in 0..30 {
        let Ok(QueueEvent::Events(events)) = feed.recv().await else { panic!("an event was accepted") };
        dispatcher.accepted(&events);
    }
    let most = settings().delivery_memory_max + 2 * lanes.len() * memory_bytes;
    assert!(dispatcher.prefetch_bytes <= most, "{} bytes in windows", dispatcher.prefetch_bytes);
    let measured: usize = dispatcher.slots.values().map(|slot| slot.lane.prefetch_bytes()).sum();
    assert_eq!(dispatcher.prefetch_bytes, measured);
}

#[tokio::test]
async fn a_read_renders_the_payload_form_of_the_subscription() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::default()), 1));
    let mut new = new_subscription(1, "s");
    new.settings.payload_format = PayloadFormat::Sample;
    store.create_subscription(new).await.unwrap();
    let content: EventContent = samples::typical_message(AccountId::new(1).unwrap(), 1, 1).into();
    store.accept(vec![NewEvent { content, ..new_event(1, None, 1) }]).await.unwrap();
    let mut dispatcher = dispatcher(&store);
    dispatcher.recheck_all();
    let ended = dispatcher.reads.join_next().await.expect("the lane reads").unwrap();
    let page = ended.page.expect("it can be read");
    let content = &page.owed().next().expect("it is owed").event.content;
    assert!(content.is_rendered(PayloadFormat::Sample) && !content.is_rendered(PayloadFormat::Documented));
}

#[tokio::test]
async fn at_the_start_reads_are_bounded_and_every_subscription_reads() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::default()), 1));
    let mut lanes = Vec::new();
    for number in 0..100 {
        let new = new_subscription(1, &format!("s{number}"));
        lanes.push(store.create_subscription(new).await.unwrap().subscription.key);
    }
    store.accept((0..3).map(|number| new_event(1, None, number)).collect()).await.unwrap();
    let mut dispatcher = dispatcher(&store);
    dispatcher.recheck_all();
    let most = settings().reads_in_flight_max;
    assert_eq!(dispatcher.reads.len(), most);
    dispatcher.update_metrics();
    let waiting = i64::try_from(lanes.len() - most).unwrap();
    assert_eq!(dispatcher.context.metrics.lanes_waiting_to_read.get(), waiting);
    while let Some(ended) = dispatcher.reads.join_next().await {
        dispatcher.read_ended(ended.unwrap());
        assert!(dispatcher.reads.len() <= most);
    }
    assert_eq!(dispatcher.slots.len(), lanes.len());
    assert!(dispatcher.slots.values().all(|slot| slot.lane.prefetch_bytes() > 0));
    assert_eq!(dispatcher.reserved_bytes, 0);
}

/// A dispatcher with one subscription, an attempt of its first event in flight, and the next two in the
/// prefetch.
async fn dispatcher_with_prefetch(
    store: &Arc<dyn Store>,
) -> (Dispatcher, Receiver<QueueEvent>, SubscriptionKey) {
    let mut new = new_subscription(1, "s");
    new.settings.max_in_flight = Some(1);
    let key = store.create_subscription(new).await.unwrap().subscription.key;
    let mut dispatcher = dispatcher(store);
    // Small enough that all events fit into the prefetch.
    dispatcher.typical_event_bytes = 1 << 10;
    let mut feed = store.subscribe_accepted();
    for number in 1..=3 {
        store.accept(vec![new_event(1, None, number)]).await.unwrap();
    }
    assert!(dispatcher.drain_feed(&mut feed).is_continue());
    dispatcher.start_attempts();
    assert_eq!((dispatcher.attempts.len(), dispatcher.slots[&key].lane.in_flight()), (1, 1));
    assert!(dispatcher.prefetch_bytes > 0 && dispatcher.reads.is_empty());
    (dispatcher, feed, key)
}

/// Sequence numbers of the deliveries that the lane offers.
fn offered(dispatcher: &mut Dispatcher, key: SubscriptionKey) -> Vec<u64> {
    let lane = &mut dispatcher.slots.get_mut(&key).unwrap().lane;
    std::iter::from_fn(|| lane.take(usize::MAX)).map(|owed| owed.event.seq.0).collect()
}

#[tokio::test]
async fn a_delivery_cancelled_in_the_prefetch_is_not_offered() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::default()), 1));
    let (mut dispatcher, mut feed, key) = dispatcher_with_prefetch(&store).await;
    let cancelled = DeliveryKey { seq: Seq(2), subscription: key };
    store.override_delivery(cancelled, OperatorAction::Cancel).await.unwrap();
    assert!(dispatcher.drain_feed(&mut feed).is_continue());
    assert_eq!(offered(&mut dispatcher, key), [3]);
}

#[tokio::test]
async fn a_delivery_cancelled_while_the_feed_lagged_is_not_offered() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::default()), 1));
    let (mut dispatcher, mut feed, key) = dispatcher_with_prefetch(&store).await;
    let cancelled = DeliveryKey { seq: Seq(2), subscription: key };
    store.override_delivery(cancelled, OperatorAction::Cancel).await.unwrap();
    for number in 0..2 * FEED_GROUPS_MAX {
        store.accept(vec![new_event(2, None, i64::try_from(number).unwrap())]).await.unwrap();
    }
    assert!(dispatcher.drain_feed(&mut feed).is_continue());
    assert_eq!(dispatcher.prefetch_bytes, 0, "nothing is offered before it is read again");
    while let Some(read) = dispatcher.reads.join_next().await {
        dispatcher.read_ended(read.unwrap());
    }
    assert_eq!(offered(&mut dispatcher, key), [3]);
}
