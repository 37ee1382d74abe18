//! The checks at the end, of every line of the ledger and of the gateway's lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use tidings::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{Seq, SubscriptionKey},
        subscription::State,
    },
    proto::v1,
};
use uuid::Uuid;

use crate::{
    administrator::Decided,
    coverage::{Coverage, Kind},
    ledger::{Arrival, Entry},
    plan::{Keeping, Plan},
    publisher::{Known, Subscribed, conversation_of},
};

/// An event has more bytes than this, as [`Keeping::Bytes`] counts them.
const EVENT_BYTES_MIN: u64 = 800;

/// Everything known when a simulation is over.
pub struct Outcome<'a> {
    pub plan: &'a Plan,
    pub known: &'a Known,
    pub decided: &'a Decided,
    pub lines: &'a [(Duration, Entry)],
    /// Where each receiver is POSTed to, but for the path.
    pub receivers: &'a [String],
    pub coverage: &'a Coverage,
}

/// The lines up to one of them.
struct Check<'a> {
    outcome: &'a Outcome<'a>,
    subscriptions: BTreeMap<SubscriptionKey, SubscriptionTrace<'a>>,
    events: BTreeMap<Seq, &'a str>,
    deliveries: BTreeMap<DeliveryKey, Delivery>,
    /// All stored events, by the id that a receiver sees.
    posts: BTreeMap<String, WebhookRequest>,
}

struct SubscriptionTrace<'a> {
    subscribed: &'a Subscribed,
    uid: Uuid,
    state: State,
    changed: Duration,
    ordered: bool,
    /// Whether it was so all the time.
    always_ordered: bool,
    /// Whether something succeeded since it was suspended.
    answered: bool,
}

struct Delivery {
    state: DeliveryState,
    changed: Duration,
    owed_since: Duration,
    was_over: bool,
    attempts: u32,
    /// Since when a caller wants an attempt that was not begun yet.
    requested: Option<Duration>,
    /// Whether such an attempt was begun while the subscription was not active: it keeps no order.
    out_of_turn: bool,
}

struct WebhookRequest {
    key: DeliveryKey,
    receiver: Option<usize>,
    body: Option<Bytes>,
    arrivals: usize,
    taken: bool,
}

impl Outcome<'_> {
    /// Makes all checks.
    pub fn check(&self) {
        let mut check = Check {
            outcome: self,
            subscriptions: BTreeMap::new(),
            events: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            posts: BTreeMap::new(),
        };
        for (at, entry) in self.lines {
            match entry {
                Entry::Stored { seq, account, name, subscriptions } => {
                    check.stored(*seq, *account, name, subscriptions);
                }
                Entry::Became { key, state, attempts } => check.became(*at, *key, *state, *attempts),
                Entry::Subscribed { subscription, state, reason, ordered } => {
                    check.subscribed(*at, *subscription, *state, reason, *ordered);
                }
                Entry::Began { key } => check.began(*at, *key),
                Entry::Arrived(arrival) => check.arrived(*at, arrival),
            }
        }
        check.everything_is_over();
        check.what_was_acknowledged_is_there();
        check.the_rest_is_kept();
        check.counts_add_up();
    }
}

impl<'a> Check<'a> {
    fn stored(&mut self, seq: Seq, account: i64, name: &'a str, subscriptions: &[SubscriptionKey]) {
        let wanting =
            self.subscriptions.iter().filter(|(_, subscription)| subscription.subscribed.account == account);
        assert!(wanting.map(|(id, _)| id).eq(subscriptions), "{name} is owed to {subscriptions:?}");
        self.events.insert(seq, name);
        for id in subscriptions {
            let subscription = &self.subscriptions[id];
            match subscription.state {
                State::Active => {}
                State::Paused => self.outcome.coverage.add(Kind::CollectedWhilePaused),
                State::Suspended => self.outcome.coverage.add(Kind::CollectedWhileSuspended),
            }
            let webhook_id = Uuid::new_v5(&subscription.uid, name.as_bytes()).to_string();
            let key = DeliveryKey { seq, subscription: *id };
            let post = WebhookRequest { key, receiver: None, body: None, arrivals: 0, taken: false };
            self.posts.entry(webhook_id).or_insert(post);
        }
    }

    fn became(&mut self, at: Duration, key: DeliveryKey, state: DeliveryState, attempts: u32) {
        if state == DeliveryState::Succeeded {
            assert!(
                self.post(key).taken,
                "{at:?}: {} never took {}",
                key.subscription.0,
                self.events[&key.seq]
            );
            self.subscriptions.get_mut(&key.subscription).unwrap().answered = true;
        }
        if state == DeliveryState::Failed {
            self.outcome.coverage.add(Kind::GaveUp);
        }
        let new = Delivery {
            state,
            changed: at,
            owed_since: at,
            was_over: false,
            attempts: 0,
            requested: None,
            out_of_turn: false,
        };
        let delivery = self.deliveries.entry(key).or_insert(new);
        if state.is_owed() && !delivery.state.is_owed() {
            delivery.owed_since = at;
        }
        delivery.was_over |= !state.is_owed();
        if matches!(state, DeliveryState::Retrying { .. }) && attempts == delivery.attempts {
            delivery.requested = Some(at);
        }
        delivery.attempts = attempts;
        (delivery.state, delivery.changed) = (state, at);
    }

    fn subscribed(&mut self, at: Duration, id: SubscriptionKey, state: State, reason: &str, ordered: bool) {
        let number = usize::try_from(id.0 - 1).unwrap();
        let subscription = self.subscriptions.entry(id).or_insert_with(|| {
            let subscribed = &self.outcome.known.subscriptions[number];
            let uid = Uuid::parse_str(&subscribed.subscription.uid).unwrap();
            SubscriptionTrace {
                subscribed,
                uid,
                state: State::Active,
                changed: at,
                ordered,
                always_ordered: ordered,
                answered: false,
            }
        });
        let kind = match (subscription.state, state) {
            (State::Active, State::Suspended) if reason.contains("410") => Some(Kind::SuspendedAsGone),
            (State::Active, State::Suspended) => Some(Kind::SuspendedAsFailing),
            (State::Suspended, State::Active) if subscription.answered => Some(Kind::Recovered),
            (State::Suspended, State::Active) => Some(Kind::ResumedFromSuspension),
            _ => None,
        };
        kind.into_iter().for_each(|kind| self.outcome.coverage.add(kind));
        if subscription.state != state || subscription.ordered != ordered {
            subscription.changed = at;
            subscription.answered = false;
        }
        subscription.always_ordered &= ordered;
        (subscription.state, subscription.ordered) = (state, ordered);
    }

    /// No attempt begins for a paused subscription that no caller requested, for a delivery that is over, or before an
    /// earlier delivery of the same key. The gateway may not know of a change in the same moment.
    fn began(&mut self, at: Duration, key: DeliveryKey) {
        let subscription = &self.subscriptions[&key.subscription];
        let delivery = self.deliveries.get_mut(&key).unwrap();
        let out_of_turn = subscription.state != State::Active && delivery.requested.take().is_some();
        delivery.out_of_turn |= out_of_turn;
        let name = self.events[&key.seq];
        match subscription.state {
            _ if out_of_turn => self.outcome.coverage.add(Kind::RequestedOutOfTurn),
            State::Suspended => self.outcome.coverage.add(Kind::Probed),
            State::Paused => {
                assert_eq!(subscription.changed, at, "{name} was begun for {}, paused", key.subscription.0);
            }
            State::Active => {}
        }
        let delivery = &self.deliveries[&key];
        assert!(
            delivery.state.is_owed() || delivery.changed == at,
            "{at:?}: {name} was begun for {}, {:?}",
            key.subscription.0,
            delivery.state
        );
        if !subscription.ordered || subscription.changed == at || out_of_turn {
            return;
        }
        for (earlier, other) in self.earlier(key) {
            let owed = other.state.is_owed() && other.owed_since < at;
            assert!(!owed || !self.is_of_one(earlier, key), "{at:?}: {name} was begun before {earlier:?}");
        }
    }

    fn arrived(&mut self, at: Duration, arrival: &Arrival) {
        let Arrival { receiver, path, webhook_id, body, taken } = arrival;
        let post = self.posts.get(webhook_id);
        let post = post.unwrap_or_else(|| panic!("{at:?}: {webhook_id} was never stored"));
        let (key, is_first, coverage) = (post.key, post.arrivals == 0, self.outcome.coverage);
        let (subscription, name) = (&self.subscriptions[&key.subscription], self.events[&key.seq]);
        let url = format!("{}{path}", self.outcome.receivers[*receiver]);
        assert!(subscription.subscribed.urls.contains(&url), "{at:?}: {name} arrived at {url}");
        if is_first && subscription.always_ordered && !self.deliveries[&key].out_of_turn {
            let mut waits = false;
            for (earlier, other) in self.earlier(key) {
                if self.is_of_one(earlier, key) {
                    let is_through = other.was_over || self.post(earlier).taken;
                    assert!(is_through, "{at:?}: {name} arrived at {url} before {earlier:?}");
                } else {
                    waits |= other.state.is_owed();
                }
            }
            coverage.add(Kind::ArrivedInOrder);
            if waits {
                coverage.add(Kind::PassedAStuckConversation);
            }
        }
        let post = self.posts.get_mut(webhook_id).unwrap();
        if post.receiver.replace(*receiver).is_some_and(|before| before != *receiver) {
            coverage.add(Kind::ArrivedAfterAMove);
        }
        assert_eq!(post.body.get_or_insert_with(|| body.clone()), body, "one delivery of {name}, one body");
        post.arrivals += 1;
        post.taken |= taken;
    }

    /// Deliveries of the subscription before this one.
    fn earlier(&self, key: DeliveryKey) -> impl Iterator<Item = (DeliveryKey, &Delivery)> {
        let earlier = self.deliveries.range(..key).map(|(earlier, delivery)| (*earlier, delivery));
        earlier.filter(move |(earlier, _)| earlier.subscription == key.subscription && earlier.seq < key.seq)
    }

    fn is_of_one(&self, one: DeliveryKey, other: DeliveryKey) -> bool {
        conversation_of(self.events[&one.seq]) == conversation_of(self.events[&other.seq])
    }

    /// The POSTs of a delivery. An event that was removed and published again has the same.
    fn post(&self, key: DeliveryKey) -> &WebhookRequest {
        let webhook_id =
            Uuid::new_v5(&self.subscriptions[&key.subscription].uid, self.events[&key.seq].as_bytes());
        &self.posts[&webhook_id.to_string()]
    }

    /// Every delivery that was ever made has succeeded, and so arrived, or was cancelled by the
    /// administrator.
    fn everything_is_over(&self) {
        let Decided { cancelled, over, .. } = self.outcome.decided;
        for (key, delivery) in &self.deliveries {
            let name = self.delivery_name(*key);
            match delivery.state {
                DeliveryState::Succeeded => {
                    assert!(!over.contains_key(&name), "{name} was cancelled, and succeeded");
                }
                DeliveryState::Cancelled => {
                    assert!(cancelled.contains(&name), "{name} is cancelled, and nobody wanted it");
                    self.outcome.coverage.add(Kind::StayedCancelled);
                }
                other => panic!("{name} is {other:?} in the end"),
            }
        }
    }

    /// The stored events are the acknowledged ones, perhaps with some that the publisher gave up.
    fn what_was_acknowledged_is_there(&self) {
        let Known { acknowledged, given_up, .. } = self.outcome.known;
        assert!(acknowledged.len() > 10, "too few for a test");
        let stored: BTreeSet<_> = self.events.values().copied().collect();
        let unknown =
            stored.iter().filter(|name| !acknowledged.contains_key(**name) && !given_up.contains(**name));
        assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&&str>::new(), "stored, but never published");
        for (name, count) in acknowledged {
            assert!(stored.contains(name.as_str()), "{name} was acknowledged and lost");
            let of_account = |of: &&Subscribed| name.starts_with(&format!("accounts/{}/", of.account));
            let wanted = self.outcome.known.subscriptions.iter().filter(of_account).count();
            assert_eq!(usize::try_from(*count).unwrap(), wanted, "{name}");
        }
    }

    /// The store still has all stored events that it was to keep, each once.
    fn the_rest_is_kept(&self) {
        let kept: BTreeSet<_> = self.outcome.decided.stored.iter().map(String::as_str).collect();
        assert_eq!(kept.len(), self.outcome.decided.stored.len(), "something is stored twice");
        let stored: BTreeSet<_> = self.events.values().copied().collect();
        match self.outcome.plan.keeping {
            Keeping::Everything => {
                assert_eq!(stored.len(), self.events.len(), "something was stored twice");
                assert_eq!(kept, stored);
            }
            Keeping::Bytes(bytes) => {
                assert!(kept.is_subset(&stored));
                assert!(kept.len() as u64 * EVENT_BYTES_MIN <= bytes, "{} events are kept", kept.len());
            }
            Keeping::For(_) => assert!(kept.is_empty(), "kept for too long: {kept:?}"),
        }
    }

    /// The gateway's lists and counts are those of the ledger, and no attempt was made that it does not know
    /// of, but for those that were under way when it crashed.
    fn counts_add_up(&self) {
        let Decided { stored, deliveries, counts, over, .. } = self.outcome.decided;
        let mut expected: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for delivery in deliveries {
            let (subscription, _) = delivery.name.split_once("/deliveries/").unwrap();
            let (account, _) = subscription.rsplit_once('/').unwrap();
            for parent in [subscription.to_owned(), format!("{account}/-")] {
                *expected.entry(parent).or_default().entry(delivery.state).or_default() += 1;
            }
            assert!(names.insert(delivery.name.clone()), "{} is there twice", delivery.name);
            if let Some(attempts) = over.get(&delivery.name) {
                // One was under way, perhaps.
                assert!(delivery.attempt_count() <= attempts + 1, "{} was cancelled", delivery.name);
            }
        }
        let counts: BTreeMap<_, _> = counts
            .iter()
            .filter(|(_, counts)| !counts.is_empty())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(counts, expected);

        let kept: BTreeSet<_> = stored.iter().map(String::as_str).collect();
        let of_kept = self.deliveries.keys().filter(|key| kept.contains(self.events[&key.seq]));
        assert_eq!(of_kept.map(|key| self.delivery_name(*key)).collect::<BTreeSet<_>>(), names);
        if self.outcome.plan.keeping == Keeping::Everything {
            deliveries.iter().for_each(|delivery| self.attempts_are_known(delivery));
        }
    }

    fn attempts_are_known(&self, delivery: &v1::Delivery) {
        let (key, _) =
            self.deliveries.iter().find(|(key, _)| self.delivery_name(**key) == delivery.name).unwrap();
        let arrivals = self.post(*key).arrivals;
        let crashes =
            self.outcome.coverage.of(Kind::GatewayCrashed) + self.outcome.coverage.of(Kind::GatewayCutShort);
        let most = u64::try_from(delivery.attempt_count()).unwrap() + crashes;
        assert!(arrivals as u64 <= most, "{} arrived {arrivals} times: {delivery:#?}", delivery.name);
    }

    fn delivery_name(&self, key: DeliveryKey) -> String {
        let (_, event) = self.events[&key.seq].rsplit_once('/').unwrap();
        format!("{}/deliveries/{event}", self.subscriptions[&key.subscription].subscribed.subscription.name)
    }
}
