//! Ordered subscriptions: the events of one conversation arrive one after another as they were stored,
//! whatever happens, and those of others do not wait for them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tidings::proto::v1::{self, delivery::State};

use crate::support::{
    client::{Client, Subscribed, attempts, duration, retry_policy, subscription},
    events::{message, publish_request},
    process::Launcher,
    receiver::{Receiver, Request, Response},
    scrape::Scrape,
};

const ACCOUNT: i64 = 1;
/// Messages of a conversation are numbered from its own number times this on.
const MESSAGES_MAX: i64 = 100_000;
/// The conversation that does not come through.
const STUCK: i64 = 1;

/// The conversation and the number of the message that was POSTed.
fn position(request: &Request) -> (i64, i64) {
    let id = request.message_number();
    (id / MESSAGES_MAX, id % MESSAGES_MAX)
}

/// Publishes `count` messages of each of these conversations in turn, numbered from `from`.
async fn publish(client: &Client, conversations: &[i64], from: i64, count: i64) {
    let events = (from..from + count)
        .flat_map(|number| conversations.iter().map(move |conversation| (*conversation, number)));
    let request = |(conversation, number)| {
        let event = message(ACCOUNT, conversation, conversation * MESSAGES_MAX + number);
        publish_request(ACCOUNT, &format!("m{conversation}-{number}"), event)
    };
    client.publish_all(events.map(request)).await;
}

async fn subscribe(client: &Client, receiver: &Receiver) -> Subscribed {
    let asked = v1::Subscription {
        ordered: true,
        // The stuck conversation does not use its attempts up while others go past it.
        retry_policy: retry_policy(50, Duration::from_millis(20), Duration::from_secs(2)),
        max_in_flight: 16,
        ..subscription(receiver.url("/"))
    };
    client.subscribe(ACCOUNT, asked).await
}

/// Demands that every conversation came in order: whenever a message was POSTed, the one before it had been
/// taken. One may come again whose response was lost. Returns how many messages of each came.
fn assert_order(seen: &[Request]) -> HashMap<i64, i64> {
    let mut last: HashMap<i64, (i64, bool)> = HashMap::new();
    for request in seen {
        let (conversation, number) = position(request);
        let (before, taken) = last.get(&conversation).copied().unwrap_or((0, true));
        assert!(
            number == before || number == before + 1 && taken,
            "message {number} of conversation {conversation} came after {before}, taken: {taken}"
        );
        let taken = request.taken || number == before && taken;
        last.insert(conversation, (number, taken));
    }
    last.into_iter().map(|(conversation, (number, _))| (conversation, number)).collect()
}

/// Refuses the stuck conversation until it is healed.
async fn one_is_stuck() -> (Receiver, Arc<AtomicBool>) {
    let healed = Arc::new(AtomicBool::new(false));
    let heals = Arc::clone(&healed);
    let receiver = Receiver::with(move |request| {
        let stuck = position(request).0 == STUCK && !heals.load(Ordering::Relaxed);
        Response::status(if stuck { 500 } else { 200 })
    });
    (receiver.await, healed)
}

fn taken_of_others(seen: &[Request]) -> usize {
    let others = seen.iter().filter(|request| request.taken).map(position).filter(|at| at.0 != STUCK);
    others.collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn a_stuck_conversation_holds_up_only_itself() {
    let (receiver, healed) = one_is_stuck().await;
    let gateway = Launcher::new().start().await;
    subscribe(&gateway.client, &receiver).await;
    publish(&gateway.client, &[STUCK, 2, 3, 4, 5, 6, 7, 8], 1, 40).await;
    let seen = receiver.wait_until("all others", |seen| taken_of_others(seen) == 7 * 40).await;
    let of_stuck: BTreeSet<_> = seen.iter().map(position).filter(|at| at.0 == STUCK).collect();
    assert_eq!(of_stuck, [(STUCK, 1)].into(), "the first holds up the rest");
    healed.store(true, Ordering::Relaxed);
    gateway.client.nothing_owed(ACCOUNT).await;
    let came = assert_order(&receiver.seen());
    assert_eq!(came, (1..=8).map(|conversation| (conversation, 40)).collect());
    gateway.stop().await;
}

#[tokio::test]
async fn events_beyond_the_window_keep_their_order() {
    let (receiver, healed) = one_is_stuck().await;
    let gateway = Launcher::new().with("delivery-memory-max", "1MiB").start().await;
    subscribe(&gateway.client, &receiver).await;
    publish(&gateway.client, &[STUCK], 1, 400).await;
    publish(&gateway.client, &[2, 3, 4, 5, 6, 7], 1, 60).await;
    receiver.wait_until("all others", |seen| taken_of_others(seen) == 6 * 60).await;
    healed.store(true, Ordering::Relaxed);
    gateway.client.nothing_owed(ACCOUNT).await;
    let others = (2..=7).map(|conversation| (conversation, 60));
    assert_eq!(assert_order(&receiver.seen()), others.chain([(STUCK, 400)]).collect());
    gateway.stop().await;
}

#[tokio::test]
async fn more_conversations_than_are_kept_apart_wait_in_the_store() {
    let healed = Arc::new(AtomicBool::new(false));
    let heals = Arc::clone(&healed);
    let refuse = move |_: &Request| Response::status(if heals.load(Ordering::Relaxed) { 200 } else { 500 });
    let receiver = Receiver::with(refuse).await;
    let gateway = Launcher::new().with("lane-order-keys-max", "5").start().await;
    subscribe(&gateway.client, &receiver).await;
    let conversations: Vec<i64> = (1..=20).collect();
    publish(&gateway.client, &conversations, 1, 3).await;
    let seen = receiver.wait_for(50).await;
    let tried: BTreeSet<_> = seen.iter().map(position).collect();
    assert_eq!(tried, (1..=5).map(|conversation| (conversation, 1)).collect());
    healed.store(true, Ordering::Relaxed);
    gateway.client.nothing_owed(ACCOUNT).await;
    assert_eq!(assert_order(&receiver.seen()), (1..=20).map(|conversation| (conversation, 3)).collect());
    let log = gateway.stop().await;
    assert!(log.iter().any(|line| line.contains("reached lane_order_keys_max; reading paused")));
}

#[tokio::test]
async fn a_crash_in_the_middle_changes_no_order() {
    let mut count = 0_u32;
    let receiver = Receiver::with(move |_| {
        count += 1;
        Response::status(if count.is_multiple_of(3) { 500 } else { 200 })
    });
    let receiver = receiver.await;
    let launcher = Launcher::new();
    let mut gateway = launcher.start().await;
    subscribe(&gateway.client, &receiver).await;
    let conversations: Vec<i64> = (1..=10).collect();
    publish(&gateway.client, &conversations, 1, 60).await;
    for part in 1..=3 {
        receiver.wait_for(part * 150).await;
        gateway.kill().await;
        gateway = launcher.start().await;
    }
    gateway.client.nothing_owed(ACCOUNT).await;
    assert_eq!(assert_order(&receiver.seen()), conversations.iter().map(|c| (*c, 60)).collect());
    gateway.stop().await;
}

#[tokio::test]
async fn a_pause_and_a_switch_in_the_middle_change_no_order() {
    let (receiver, healed) = one_is_stuck().await;
    let gateway = Launcher::new().start().await;
    let subscribed = subscribe(&gateway.client, &receiver).await;
    publish(&gateway.client, &[STUCK, 2, 3], 1, 100).await;
    for pause in 1..=3 {
        receiver.wait_until("some others", |seen| taken_of_others(seen) >= 30 * pause).await;
        gateway.client.pause(&subscribed.name).await;
        publish(&gateway.client, &[STUCK, 2, 3], 100 * i64::try_from(pause).unwrap() + 1, 100).await;
        gateway.client.resume(&subscribed.name).await;
    }
    healed.store(true, Ordering::Relaxed);
    gateway.client.nothing_owed(ACCOUNT).await;
    assert_eq!(assert_order(&receiver.seen()), (1..=3).map(|conversation| (conversation, 400)).collect());
    gateway.stop().await;
}

#[tokio::test]
async fn asking_for_order_later_orders_waiting_deliveries() {
    let receiver = Receiver::always(Response::nothing()).await;
    let gateway = Launcher::new().start().await;
    let asked = v1::Subscription {
        retry_policy: attempts(50),
        max_in_flight: 16,
        timeout: duration(Duration::from_secs(5)),
        ..subscription(receiver.url("/"))
    };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    publish(&gateway.client, &[1, 2, 3], 1, 30).await;
    receiver.wait_for(16).await;
    let seen = receiver.seen().len();
    // The old kind ends with the attempts in flight.
    let change = v1::Subscription { name: subscribed.name, ordered: true, ..Default::default() };
    gateway.client.update(change).await;
    receiver.wait_for(seen + 3).await;
    receiver.now(|_| Response::status(200));
    gateway.client.nothing_owed(ACCOUNT).await;
    let ordered = &receiver.seen()[seen..];
    assert_eq!(assert_order(ordered), (1..=3).map(|conversation| (conversation, 30)).collect());
    gateway.stop().await;
}

#[tokio::test]
async fn a_delivery_retried_by_hand_goes_before_later_ones() {
    const HELD_UP: Duration = Duration::from_secs(3);
    let mut times: BTreeMap<i64, u32> = BTreeMap::new();
    let receiver = Receiver::with(move |request| {
        let (_, number) = position(request);
        let time = times.entry(number).or_default();
        *time += 1;
        match (number, *time) {
            (1, 1) => Response::status(500),
            (2, 1) => Response::late(HELD_UP, 200),
            _ => Response::status(200),
        }
    });
    let receiver = receiver.await;
    let gateway = Launcher::new().start().await;
    let asked =
        v1::Subscription { ordered: true, retry_policy: attempts(1), ..subscription(receiver.url("/")) };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    publish(&gateway.client, &[STUCK], 1, 4).await;
    // The first is given up, and the second under way.
    receiver.wait_for(2).await;
    let first = subscribed.delivery("m1-1");
    gateway.client.delivery_in(&first, State::Failed).await;
    gateway.client.retry(&first).await;
    gateway.client.nothing_owed(ACCOUNT).await;
    let numbers: Vec<_> = receiver.seen().iter().map(|request| position(request).1).collect();
    assert_eq!(numbers, [1, 2, 1, 3, 4]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_delivery_cancelled_while_it_waits_lets_the_next_go_at_once() {
    let receiver = Receiver::first([Response::status(500)]).await;
    let gateway = Launcher::new().start().await;
    let week = Duration::from_hours(7 * 24);
    let asked = v1::Subscription {
        ordered: true,
        retry_policy: retry_policy(0, week, week),
        ..subscription(receiver.url("/"))
    };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    publish(&gateway.client, &[STUCK], 1, 2).await;
    let first = subscribed.delivery("m1-1");
    gateway.client.delivery_in(&first, State::Retrying).await;
    gateway.client.cancel(&first).await;
    gateway.client.delivery_in(&subscribed.delivery("m1-2"), State::Succeeded).await;
    gateway.stop().await;
}

#[tokio::test]
async fn of_one_conversation_a_few_are_in_memory_and_further_ones_are_read_again() {
    for (messages, reads) in [(80, 5.0..=80.0), (8, 0.0..=0.0)] {
        let receiver = Receiver::start().await;
        let gateway = Launcher::new().start().await;
        subscribe(&gateway.client, &receiver).await;
        publish(&gateway.client, &[2], 1, messages).await;
        gateway.client.nothing_owed(ACCOUNT).await;
        assert_eq!(assert_order(&receiver.seen())[&2], messages);
        let counted = Scrape::value_of(&gateway, "tidings_lane_order_key_reads_total").await;
        assert!(reads.contains(&counted), "{counted} reads of {messages}");
        gateway.stop().await;
    }
}
