//! The administrator, on the publisher's host: interferes with deliveries and subscriptions while things go
//! wrong, sees to it that everything arrives in the end, and reads the gateway's lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use prost_types::FieldMask;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tidings::proto::v1::{
    self, delivery::State, delivery_service_client::DeliveryServiceClient,
    subscription::State as SubscriptionState, subscription_service_client::SubscriptionServiceClient,
};
use tokio::time::sleep;
use tonic::Status;

use crate::{
    calls::Caller,
    coverage::{Coverage, Kind},
    gateway::RETENTION_INTERVAL,
    ledger::Ledger,
    plan::{Deed, Keeping, Plan},
    publisher::Subscribed,
    world::FAULTS_UNTIL,
};

/// The name of the caller.
pub const ADMINISTRATOR: &str = "administrator";
/// The longest time between two deeds.
const PAUSE_MAX: Duration = Duration::from_millis(700);
/// Events that a replay queues at a time: few, so that it takes several calls.
const REPLAY_PAGE: i32 = 5;
/// The time between two looks at owed deliveries.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The administrator's actions, and the lists at the end.
#[derive(Debug, Default)]
pub struct Decided {
    /// Names of the deliveries that may have been cancelled.
    pub cancelled: BTreeSet<String>,
    /// Of those that were surely cancelled, and not wanted again after that: the attempts that had been made.
    pub over: BTreeMap<String, i32>,
    /// Names of deliveries and subscriptions about which a call was made that had no response: it may take
    /// effect later.
    unsure: BTreeSet<String>,
    /// Names of the stored events.
    pub stored: Vec<String>,
    /// All deliveries.
    pub deliveries: Vec<v1::Delivery>,
    /// The number of deliveries in each state, by name of an account or a subscription.
    pub counts: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// An administrator, whose knowledge is to be looked at from outside.
pub struct Administrator {
    pub decided: Mutex<Decided>,
    seed: u64,
    plan: Arc<Plan>,
    ledger: Arc<Ledger>,
    coverage: Coverage,
    caller: Caller,
}

impl Administrator {
    pub fn new(
        seed: u64,
        plan: Arc<Plan>,
        ledger: Arc<Ledger>,
        coverage: Coverage,
        caller: Caller,
    ) -> Arc<Self> {
        Arc::new(Self { decided: Mutex::default(), seed, plan, ledger, coverage, caller })
    }

    /// Follows the plan until nothing goes wrong any more, then makes every subscription active.
    pub async fn work(self: Arc<Self>, subscriptions: Vec<Subscribed>) {
        let mut random = StdRng::seed_from_u64(self.seed ^ (1 << 60));
        loop {
            sleep(PAUSE_MAX.mul_f64(random.random())).await;
            if turmoil::sim_elapsed().unwrap() > FAULTS_UNTIL {
                break;
            }
            let deed = self.plan.deeds[random.random_range(0..self.plan.deeds.len())];
            let of = &subscriptions[random.random_range(0..subscriptions.len())];
            match deed {
                Deed::Pause => {
                    self.pause(of).await;
                    // Perhaps for a moment only: attempts in flight still are when it is over.
                    if random.random() {
                        self.resume(of).await;
                    }
                }
                Deed::Resume => drop(self.resume(of).await),
                Deed::Cancel => self.cancel(of, &mut random).await,
                Deed::Retry => self.retry(of, &mut random).await,
                Deed::Replay => self.replay_something(of, &mut random).await,
                Deed::Move => self.change(of, "url", &mut random).await,
                Deed::SwitchOrder => self.change(of, "ordered", &mut random).await,
                Deed::Summarize => self.summarize(of.account).await,
            }
        }
        let pauses = self.plan.deeds.contains(&Deed::Pause);
        for of in &subscriptions {
            // Nothing starts again after this, which could hide a delivery that a pause forgets.
            if pauses {
                self.pause(of).await;
            }
            while !self.resume(of).await {
                sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Makes everything arrive that is not cancelled, and reads the lists.
    pub async fn finish(&self, subscriptions: &[Subscribed]) {
        for of in subscriptions {
            let name = &of.subscription.name;
            loop {
                let summary = self.caller.summarize(name).await;
                let counts: BTreeMap<_, _> = counted(&summary);
                let count = |state: State| counts.get(&state.into()).copied().unwrap_or_default();
                if count(State::Pending) + count(State::Retrying) > 0 {
                    sleep(LOOK_AGAIN).await;
                } else if count(State::Failed) > 0 {
                    self.replay(of, &[State::Failed]).await;
                } else {
                    break;
                }
            }
        }
        self.wait_for_retention().await;
        let accounts: BTreeSet<_> = subscriptions.iter().map(|of| of.account).collect();
        let parents = accounts.iter().map(|account| format!("accounts/{account}/subscriptions/-"));
        let names = subscriptions.iter().map(|of| of.subscription.name.clone());
        for parent in parents.clone().chain(names) {
            let counts = counted(&self.caller.summarize(&parent).await);
            self.decided.lock().unwrap().counts.insert(parent, counts);
        }
        for account in accounts.iter().copied() {
            let events = self.caller.events(account).await;
            self.decided.lock().unwrap().stored.extend(events.into_iter().map(|event| event.name));
        }
        for parent in parents {
            let deliveries = self.caller.deliveries(&parent, &[]).await;
            self.decided.lock().unwrap().deliveries.extend(deliveries);
        }
    }

    /// Until nothing is stored any more that is not to be kept.
    async fn wait_for_retention(&self) {
        match self.plan.keeping {
            Keeping::Everything => {}
            Keeping::Bytes(_) => sleep(RETENTION_INTERVAL * 2).await,
            // It counts the time that passes, however wrong the clock was.
            Keeping::For(age) => sleep(age + RETENTION_INTERVAL * 2).await,
        }
    }

    async fn pause(&self, of: &Subscribed) {
        let request = v1::PauseSubscriptionRequest { name: of.subscription.name.clone() };
        let pause = async |channel| SubscriptionServiceClient::new(channel).pause_subscription(request).await;
        if let Ok(response) = self.caller.once("pause", pause).await {
            assert_eq!(response.subscription.unwrap().state(), SubscriptionState::Paused);
            self.coverage.add(Kind::Paused);
        }
    }

    /// Returns whether the call had a response.
    async fn resume(&self, of: &Subscribed) -> bool {
        let request = v1::ResumeSubscriptionRequest { name: of.subscription.name.clone() };
        let resume =
            async |channel| SubscriptionServiceClient::new(channel).resume_subscription(request).await;
        let response = self.caller.once("resume", resume).await;
        if response.is_ok() {
            self.coverage.add(Kind::Resumed);
        }
        response.is_ok()
    }

    /// Moves a subscription to the one or the other of its URLs, or has it be ordered or not.
    async fn change(&self, of: &Subscribed, what: &str, random: &mut StdRng) {
        let changed = v1::Subscription {
            name: of.subscription.name.clone(),
            url: of.urls[random.random_range(0..of.urls.len())].clone(),
            ordered: random.random(),
            ..Default::default()
        };
        let request = v1::UpdateSubscriptionRequest {
            subscription: Some(changed),
            update_mask: Some(FieldMask { paths: vec![what.to_owned()] }),
            ..Default::default()
        };
        let update =
            async |channel| SubscriptionServiceClient::new(channel).update_subscription(request).await;
        if self.caller.once(what, update).await.is_ok() {
            self.coverage.add(if what == "url" { Kind::Moved } else { Kind::OrderSwitched });
        }
    }

    async fn cancel(&self, of: &Subscribed, random: &mut StdRng) {
        let Some(name) = self.choose(of, &[State::Pending, State::Retrying], random).await else { return };
        self.decided.lock().unwrap().cancelled.insert(name.clone());
        let request = v1::CancelDeliveryRequest { name: name.clone() };
        let cancel = async |channel| DeliveryServiceClient::new(channel).cancel_delivery(request).await;
        let Ok(response) = self.caller.once(&format!("cancel {name}"), cancel).await else { return };
        self.coverage.add(Kind::Cancelled);
        let decided = &mut *self.decided.lock().unwrap();
        if !decided.unsure.contains(&name) && !decided.unsure.contains(&of.subscription.name) {
            let delivery = response.delivery.unwrap();
            assert_eq!(delivery.state(), State::Cancelled, "{name}");
            decided.over.insert(name, delivery.attempt_count());
        }
    }

    async fn retry(&self, of: &Subscribed, random: &mut StdRng) {
        let states = [State::Retrying, State::Failed, State::Cancelled];
        let Some(name) = self.choose(of, &states, random).await else { return };
        self.decided.lock().unwrap().over.remove(&name);
        let request = v1::RetryDeliveryRequest { name: name.clone() };
        let retry = async |channel| DeliveryServiceClient::new(channel).retry_delivery(request).await;
        match self.caller.once(&format!("retry {name}"), retry).await {
            Ok(_) => self.coverage.add(Kind::RetriedByHand),
            Err(_) => drop(self.decided.lock().unwrap().unsure.insert(name)),
        }
    }

    async fn choose(&self, of: &Subscribed, states: &[State], random: &mut StdRng) -> Option<String> {
        let mut found = self.caller.deliveries(&of.subscription.name, states).await;
        let count = found.len();
        (count > 0).then(|| found.swap_remove(random.random_range(0..count)).name)
    }

    async fn replay_something(&self, of: &Subscribed, random: &mut StdRng) {
        let states: &[State] = match random.random_range(0..3) {
            0 => &[],
            1 => &[State::Succeeded],
            _ => &[State::Failed, State::Cancelled],
        };
        self.replay(of, states).await;
    }

    /// Replays page by page. A page without a response is asked for again.
    async fn replay(&self, of: &Subscribed, states: &[State]) {
        let name = &of.subscription.name;
        self.decided.lock().unwrap().over.retain(|delivery, _| !delivery.starts_with(name));
        let mut request = v1::ReplayDeliveriesRequest {
            parent: name.clone(),
            states: states.iter().map(|state| (*state).into()).collect(),
            page_size: REPLAY_PAGE,
            ..Default::default()
        };
        loop {
            let response = self.replay_once(&request).await;
            match response {
                Ok(response) => {
                    self.coverage.add_many(Kind::Replayed, u64::try_from(response.replayed_count()).unwrap());
                    request.page_token = response.next_page_token;
                    if request.page_token.is_empty() {
                        return;
                    }
                }
                Err(_) => {
                    self.decided.lock().unwrap().unsure.insert(name.clone());
                    sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    async fn replay_once(
        &self,
        request: &v1::ReplayDeliveriesRequest,
    ) -> Result<v1::ReplayDeliveriesResponse, Status> {
        let request = request.clone();
        let replay = async |channel| DeliveryServiceClient::new(channel).replay_deliveries(request).await;
        self.caller.once("replay", replay).await
    }

    /// The counts of an account add up to the deliveries that were made, in the middle of everything.
    async fn summarize(&self, account: i64) {
        let before = self.ledger.deliveries_of(account);
        let summary = self.caller.summarize(&format!("accounts/{account}/subscriptions/-")).await;
        let after = self.ledger.deliveries_of(account);
        let counted = usize::try_from(counted(&summary).values().sum::<i64>()).unwrap();
        let before = if self.plan.keeping == Keeping::Everything { before } else { 0 };
        assert!((before..=after).contains(&counted), "{counted} deliveries of {before} to {after}");
        self.coverage.add(Kind::Summarized);
    }
}

fn counted(summary: &v1::SummarizeDeliveriesResponse) -> BTreeMap<i32, i64> {
    summary.counts.iter().filter(|row| row.count() > 0).map(|row| (row.state, row.count())).collect()
}
