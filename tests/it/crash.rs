//! Kills the gateway with SIGKILL while it accepts, delivers, retries and removes events, again and again,
//! and counts after each start and in the end: everything that was acknowledged has arrived, and is shown
//! until retention removes it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tidings::proto::v1::{self, delivery::State, subscription::PayloadFormat};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tonic::Code;
use uuid::Uuid;

use crate::support::{
    client::{Client, id_of, retry_policy, subscription},
    eventually, in_time,
    process::Launcher,
    profile::in_full_or_short,
    receiver::{Receiver, Request, Response},
};

pub(super) mod load;

use load::{Load, conversation_of, event_id, request};

pub(super) const ACCOUNT: i64 = 1;
/// Conversations that the events are of.
const CONVERSATIONS: i64 = 10;
/// Acknowledged events of each round, after which the gateway is killed; over and over.
const KILLED_AFTER: [usize; 10] = [1, 150, 40, 300, 5, 200, 90, 250, 20, 120];
/// The receiver fails one request in this many, and in every third round this many in a row.
const FAILS_ONE_IN: usize = 5;
const FAILS_IN_A_ROW: usize = 300;
/// POSTs of one subscription in flight at once: after a kill the receiver may see these twice.
const MAX_IN_FLIGHT: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_nothing_that_was_acknowledged() {
    let kills = in_full_or_short(50, KILLED_AFTER.len());
    let endpoint = Endpoint::start().await;
    // The smallest limit of retention is less than the published bytes.
    let launcher = Launcher::new().with("retention-bytes-max", "16MiB");
    let mut gateway = launcher.start().await;
    let subscriptions = endpoint.subscribe(&gateway.client).await;

    let clients = watch::Sender::new(gateway.client.clone());
    let load = Arc::new(Load::new(clients.subscribe(), subscriptions.len()));
    let mut callers = load.start();
    let rounds = KILLED_AFTER.into_iter().cycle().take(kills);
    for (round, events) in rounds.clone().enumerate() {
        endpoint.failing.store(if round % 3 == 2 { FAILS_IN_A_ROW } else { 0 }, Relaxed);
        load.acknowledged_more(events).await;
        gateway.kill().await;
        gateway = launcher.start().await;
        let acknowledged = load.acknowledged.borrow().len();
        assert_counts_add_up(&gateway.client, &subscriptions, &endpoint, acknowledged).await;
        clients.send_replace(gateway.client.clone());
    }
    load.over.store(true, Relaxed);
    while let Some(ended) = in_time(callers.join_next()).await {
        ended.unwrap();
    }
    for Subscribed { subscription, .. } in &subscriptions {
        gateway.client.counts_when(&subscription.name, "nothing owed", |counts| counts.owed() == 0).await;
    }

    let acknowledged = load.acknowledged.borrow().clone();
    assert!(acknowledged.len() >= rounds.sum());
    let stored = stored_once(&gateway.client, &acknowledged).await;
    assert!(stored.len() < acknowledged.len(), "retention had nothing to do");
    let seen = endpoint.receiver.seen();
    for subscribed in &subscriptions {
        let sent = by_webhook_id(&seen, subscribed.path);
        assert_arrived(&sent, subscribed, &acknowledged, kills);
        assert_shown(&gateway.client, subscribed, &sent, &stored).await;
        if subscribed.subscription.ordered {
            assert_in_order(&seen, subscribed.path, &stored);
        }
    }
    gateway.stop().await;
}

/// The first start makes the data directory. Wherever it is cut off, the next one continues from there.
#[tokio::test]
async fn a_gateway_that_was_killed_while_it_started_starts_again() {
    let kills = in_full_or_short(12, 4);
    let once = Instant::now();
    Launcher::new().start().await.kill().await;
    let takes = once.elapsed();
    let launcher = Launcher::new();
    for kill in 0..kills {
        // Moments all over the time that a start takes; each on a directory as the ones before left it.
        let starting = launcher.spawn();
        sleep(takes * kill / kills).await;
        starting.kill().await;
        let fresh = Launcher::new();
        let starting = fresh.spawn();
        sleep(takes * kill / kills).await;
        starting.kill().await;
        fresh.start().await.stop().await;
    }
    let gateway = launcher.start().await;
    gateway.client.publish(ACCOUNT, *request(1).event.unwrap()).await;
    assert_eq!(gateway.client.stored_events(ACCOUNT).await.len(), 1);
    gateway.stop().await;
}

/// A receiver that fails some of the requests, and now and then all of them.
pub(super) struct Endpoint {
    pub(super) receiver: Receiver,
    /// How many requests it still fails in a row.
    pub(super) failing: Arc<AtomicUsize>,
    /// The webhook-ids, by path, of requests whose response was to be 200.
    pub(super) taken: Arc<Mutex<HashMap<String, HashSet<String>>>>,
}

/// A subscription of the endpoint's.
pub(super) struct Subscribed {
    pub(super) path: &'static str,
    pub(super) subscription: v1::Subscription,
}

impl Endpoint {
    pub(super) async fn start() -> Self {
        let failing = Arc::new(AtomicUsize::new(0));
        let taken = Arc::<Mutex<HashMap<_, HashSet<_>>>>::default();
        let (fails, takes, mut count) = (Arc::clone(&failing), Arc::clone(&taken), 0_usize);
        let receiver = Receiver::with(move |request| {
            count += 1;
            let in_a_row = fails.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
            if in_a_row || count.is_multiple_of(FAILS_ONE_IN) {
                return Response::status(500);
            }
            let id = request.webhook_id().to_owned();
            takes.lock().unwrap().entry(request.path.clone()).or_default().insert(id);
            Response::status(200)
        });
        Self { receiver: receiver.await, failing, taken }
    }

    /// How many deliveries this path was to take.
    fn taken(&self, path: &str) -> usize {
        self.taken.lock().unwrap().get(path).map_or(0, HashSet::len)
    }

    /// One subscription in each form, of which one is ordered where the gateway takes such.
    pub(super) async fn subscribe(&self, client: &Client) -> Vec<Subscribed> {
        let asked =
            |path, format, ordered| v1::Subscription { ordered, ..asked(self.receiver.url(path), format) };
        let wanted = [
            ("/documented", PayloadFormat::Documented, false),
            ("/sample", PayloadFormat::Sample, false),
            ("/ordered", PayloadFormat::Chatwoot, true),
        ];
        let mut subscriptions = Vec::new();
        for (path, format, ordered) in wanted {
            match client.try_subscribe(ACCOUNT, asked(path, format, ordered)).await {
                Ok(made) => {
                    let subscription = client.subscription(&made.name).await;
                    subscriptions.push(Subscribed { path, subscription });
                }
                Err(status) => assert!(ordered && status.code() == Code::InvalidArgument, "{status:?}"),
            }
        }
        subscriptions
    }
}

fn asked(url: String, format: PayloadFormat) -> v1::Subscription {
    v1::Subscription {
        payload_format: format.into(),
        max_in_flight: i32::try_from(MAX_IN_FLIGHT).unwrap(),
        // Enough attempts for all rounds in which the receiver fails.
        retry_policy: retry_policy(50, Duration::from_millis(50), Duration::from_secs(1)),
        ..subscription(url)
    }
}

/// While nobody publishes: each event is in one state for each subscription, and what was acknowledged and
/// not taken is owed. Retention may remove some meanwhile.
async fn assert_counts_add_up(
    client: &Client,
    subscriptions: &[Subscribed],
    endpoint: &Endpoint,
    acknowledged: usize,
) {
    let look = async || {
        let mut counts = Vec::new();
        for Subscribed { path, subscription } in subscriptions {
            let of_one = client.counts(&subscription.name).await;
            assert_eq!((of_one.failed, of_one.cancelled), (0, 0), "{path}: {of_one:?}");
            let taken = endpoint.taken(path);
            assert!(
                of_one.owed() + taken >= acknowledged,
                "{path}: {taken} of {acknowledged} were taken: {of_one:?}"
            );
            counts.push(of_one.all());
        }
        (counts, client.counts(&format!("accounts/{ACCOUNT}/subscriptions/-")).await.all())
    };
    eventually("adding up", look, |(counts, of_account)| {
        counts.iter().all(|count| *count == counts[0]) && *of_account == counts.iter().sum::<usize>()
    })
    .await;
}

/// The requests on this path by webhook-id. Checks that all requests of a delivery have the same body.
fn by_webhook_id<'a>(seen: &'a [Request], path: &str) -> BTreeMap<&'a str, Vec<&'a Request>> {
    let mut sent: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for request in seen.iter().filter(|request| request.path == path) {
        let same = sent.entry(request.webhook_id()).or_default();
        same.push(request);
        assert_eq!(same[0].body, request.body, "one delivery, one body");
    }
    sent
}

/// The numbers of the events that are stored, in their order: all were acknowledged, since every caller went
/// on until it had its response, and each is there once.
pub(super) async fn stored_once(client: &Client, acknowledged: &BTreeSet<i64>) -> Vec<i64> {
    let numbers: HashMap<String, i64> =
        acknowledged.iter().map(|number| (event_name(*number), *number)).collect();
    let stored = client.stored_events(ACCOUNT).await;
    let known = |name| *numbers.get(name).unwrap_or_else(|| panic!("{name} was never acknowledged"));
    let stored: Vec<i64> = stored.iter().rev().map(|event| known(&event.name)).collect();
    assert_eq!(stored.iter().collect::<HashSet<_>>().len(), stored.len(), "an event is stored twice");
    stored
}

fn event_name(number: i64) -> String {
    format!("accounts/{ACCOUNT}/events/{}", event_id(number))
}

/// The webhook-id of the delivery of this event.
pub(super) fn webhook_id(subscription: &v1::Subscription, number: i64) -> String {
    let uid = Uuid::parse_str(&subscription.uid).unwrap();
    Uuid::new_v5(&uid, event_name(number).as_bytes()).to_string()
}

/// Every acknowledged event arrived and was taken; and little was sent in vain.
fn assert_arrived(
    sent: &BTreeMap<&str, Vec<&Request>>,
    Subscribed { path, subscription }: &Subscribed,
    acknowledged: &BTreeSet<i64>,
    kills: usize,
) {
    assert_eq!(sent.len(), acknowledged.len(), "one webhook-id for each event");
    let mut taken_again = 0;
    for number in acknowledged {
        let webhook_id = webhook_id(subscription, *number);
        let requests = sent.get(&*webhook_id).unwrap_or_else(|| panic!("{path}: {number} did not arrive"));
        assert_eq!(requests[0].message_number(), *number);
        let taken = requests.iter().filter(|request| request.taken).count();
        assert!(taken > 0, "{path}: {number} was never taken: {requests:?}");
        taken_again += taken - 1;
    }
    let in_flight_at_kills = MAX_IN_FLIGHT * kills;
    assert!(taken_again <= in_flight_at_kills, "{taken_again} were sent again though they had arrived");
}

/// Stored deliveries are shown with their attempts.
async fn assert_shown(
    client: &Client,
    Subscribed { subscription, .. }: &Subscribed,
    sent: &BTreeMap<&str, Vec<&Request>>,
    stored: &[i64],
) {
    let deliveries = client.deliveries_in(ACCOUNT, &[]).await;
    let own = deliveries.iter().filter(|delivery| delivery.name.starts_with(&subscription.name));
    let deliveries: HashMap<_, _> = own.map(|delivery| (id_of(&delivery.name), delivery)).collect();
    assert_eq!(deliveries.len(), stored.len(), "one delivery for each event");
    for number in stored {
        let delivery = deliveries[&*event_id(*number)];
        assert_eq!(delivery.state(), State::Succeeded);
        let attempts = usize::try_from(delivery.attempt_count()).unwrap();
        let requests = sent[&*webhook_id(subscription, *number)].len();
        assert!((1..=requests).contains(&attempts), "{attempts} attempts, {requests} requests");
    }
}

/// The events of each conversation came in their stored order: none before the one before it was taken. The
/// last one may come again after a kill, an earlier one not.
pub(super) fn assert_in_order(seen: &[Request], path: &str, stored: &[i64]) {
    let places: HashMap<i64, usize> =
        stored.iter().enumerate().map(|(place, number)| (*number, place)).collect();
    let mut last: HashMap<i64, (usize, bool)> = HashMap::new();
    for request in seen.iter().filter(|request| request.path == path) {
        let number = request.message_number();
        // Where those stood that retention removed is not known any more.
        let Some(place) = places.get(&number).copied() else { continue };
        let (before, taken) = last.entry(conversation_of(number)).or_insert((place, false));
        assert!(place >= *before, "{number} came after a later one of its conversation");
        if place > *before {
            assert!(*taken, "{number} came before the one before it was taken");
            (*before, *taken) = (place, false);
        }
        *taken |= request.taken;
    }
}

/// The checker of the order, on requests of conversations 2 and 3 as they come in.
#[test]
fn deliveries_out_of_order_are_noticed() {
    let came = |number: i64, taken| {
        let body = format!(r#"{{"id":{number}}}"#);
        Request { taken, ..Request::new("/ordered", body) }
    };
    let holds = |seen: &[Request]| {
        std::panic::catch_unwind(|| assert_in_order(seen, "/ordered", &[1, 11, 2, 21])).is_ok()
    };
    let (a, b, c, other) = (came(1, true), came(11, true), came(21, true), came(2, false));
    assert!(holds(&[a.clone(), other.clone(), came(11, false), b.clone(), b.clone(), c.clone()]));
    assert!(!holds(&[b.clone(), a.clone()]), "the second before the first");
    assert!(!holds(&[came(1, false), b.clone()]), "the second before the first was taken");
    assert!(!holds(&[a.clone(), b, c, a, other]), "the first again after the second");
}
