//! What callers of a gateway were told, and whether it still holds: after a power cut, with a damaged directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tidings::proto::v1::{self, EventType, access_token::Scope, delivery::State, subscription};
use tonic::Code;

use super::{
    client::{Client, id_of, subscription},
    events::{long_message, message, message_of, publish_request},
    eventually,
    process::{Ended, Launcher, TidingsProcess, run, tidings},
};

/// The token that the operator of these gateways chose: `TIDINGS_ADMIN_TOKEN`.
const ADMIN: &str = "0123456789abcdef-the-operators-own-choice";
/// The account of everything that is remembered.
const ACCOUNT: i64 = 1;
/// The account of large events that retention may remove.
const FILLER: i64 = 2;
const FILLER_BYTES: usize = 100_000;
/// Lengths of the texts of events.
const LENGTHS: [usize; 5] = [0, 10, 200, 2000, 8000];
const PUBLISHERS: i64 = 3;
/// Subscriptions and tokens that are there at a time, of those that come and go.
const PASSING: usize = 4;

/// The key of their secrets.
pub const SECRETS_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A launcher of gateways whose log has small files, with the administrator's token.
pub fn launcher() -> Launcher {
    Launcher::new()
        .with("retention-bytes-max", "16MiB")
        .with_variable("TIDINGS_ADMIN_TOKEN", ADMIN)
        .with_variable("TIDINGS_SECRETS_KEY", SECRETS_KEY)
}

/// The end of `tidings check` with these options on the data of a launcher.
pub async fn check(launcher: &Launcher, options: &[&str]) -> Ended {
    let mut command = tidings(&["check"]);
    command.args(options).arg(launcher.data_dir()).env("TIDINGS_SECRETS_KEY", SECRETS_KEY);
    run(command).await
}

/// A thing, such as `event e7`.
type Thing = (String, String);

/// What callers were told. A line that tells something is `told KIND NAME VALUE`; one before a call that changes
/// it is `asked KIND NAME`.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    told: BTreeMap<Thing, String>,
    /// Asked to change, and not answered.
    in_doubt: BTreeSet<Thing>,
}

/// One thing that is not as it was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub kind: String,
    pub name: String,
    pub told: String,
    pub seen: String,
}

impl Facts {
    /// Takes a line in.
    pub fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["asked", kind, name] => drop(self.in_doubt.insert((kind.into(), name.into()))),
            ["told", kind, name, value] => {
                let thing = (kind.into(), name.into());
                self.in_doubt.remove(&thing);
                self.told.insert(thing, value.into());
            }
            _ => panic!("no such line: {line}"),
        }
    }

    pub fn len(&self) -> usize {
        self.told.len()
    }

    fn names(&self, of: &str) -> impl Iterator<Item = &str> {
        self.told.keys().filter(move |(kind, _)| kind == of).map(|(_, name)| &**name)
    }

    /// The things that a gateway shows otherwise than it was told.
    pub async fn differences(&self, gateway: &TidingsProcess) -> Vec<Difference> {
        let client = gateway.client.with_token(ADMIN);
        let mut seen = BTreeMap::new();
        let mut see = |kind: &str, name: &str, value: &str| {
            seen.insert((kind.to_owned(), name.to_owned()), value.to_owned());
        };
        for event in client.stored_events(ACCOUNT).await {
            see("event", id_of(&event.name), "stored");
        }
        for subscription in client.all_subscriptions("accounts/1").await {
            see("subscription", id_of(&subscription.name), state_word(subscription.state()));
        }
        for delivery in client.deliveries_in(ACCOUNT, &[]).await {
            see("delivery", &delivery.name, delivery.state().as_str_name());
        }
        for token in self.names("token") {
            let parent = format!("accounts/{ACCOUNT}");
            let request = v1::ListSubscriptionsRequest { parent, ..Default::default() };
            let mut client = client.with_token(token).subscriptions;
            match client.list_subscriptions(request).await.map_err(|status| status.code()) {
                Ok(_) => see("token", token, "valid"),
                Err(Code::Unauthenticated) => see("token", token, "revoked"),
                Err(other) => see("token", token, &format!("{other:?}")),
            }
        }
        for record in client.audit_records().await {
            see("audit", &record.resource, "recorded");
        }
        let mut differences = Vec::new();
        for (thing, told) in self.told.iter().filter(|(thing, _)| !self.in_doubt.contains(*thing)) {
            let seen = seen.get(thing).map_or("gone", |seen| seen);
            if told != seen {
                let (kind, name) = thing.clone();
                differences.push(Difference { kind, name, told: told.clone(), seen: seen.into() });
            }
        }
        differences
    }
}

fn state_word(state: subscription::State) -> &'static str {
    match state {
        subscription::State::Paused => "paused",
        _ => "active",
    }
}

/// Waits until the counts of each subscription are those of its deliveries, and their sum is that of all.
pub async fn counts_add_up(gateway: &TidingsProcess) {
    let client = gateway.client.with_token(ADMIN);
    let look = async || {
        let before = client.counts("accounts/1/subscriptions/-").await;
        let listed = client.deliveries_in(ACCOUNT, &[]).await.len();
        let mut of_each = 0;
        for subscription in client.all_subscriptions("accounts/1").await {
            of_each += client.counts(&subscription.name).await.all();
        }
        (before.all(), listed, of_each)
    };
    eventually("counts that add up", look, |(all, listed, each)| all == listed && each == listed).await;
}

/// Publishes one more event, as proof that a gateway works.
pub async fn publish_one_more(gateway: &TidingsProcess, id: &str) {
    let client = gateway.client.with_token(ADMIN);
    let (_, text) = client.create_token(token()).await.expect("a token is made");
    let event = message(ACCOUNT, 99, 99);
    client.with_token(&text).publish_as(ACCOUNT, id, event).await;
}

/// Whether an event is stored.
pub async fn has_event(gateway: &TidingsProcess, id: &str) -> bool {
    let stored = gateway.client.with_token(ADMIN).stored_events(ACCOUNT).await;
    stored.iter().any(|event| id_of(&event.name) == id)
}

fn token() -> v1::AccessToken {
    let scopes = [Scope::Publish, Scope::Manage].map(Into::into).into();
    v1::AccessToken { scopes, ..Default::default() }
}

/// Takes a line of what callers ask and are told, at that time.
pub type Note = Arc<dyn Fn(&str) + Send + Sync>;

/// How much callers do.
#[derive(Clone, Copy)]
pub struct Load {
    /// Large events of another account before everything else.
    pub filler: i64,
    /// Events of each publisher.
    pub events: i64,
    /// Rounds of changes of subscriptions and tokens.
    pub changes: usize,
}

impl Load {
    /// Does it, and returns when everything was answered. What is made has this prefix.
    pub async fn run(self, gateway: &TidingsProcess, prefix: &str, endpoint: &str, note: &Note) {
        let admin = gateway.client.with_token(ADMIN);
        let (_, publisher) = admin.create_token(token()).await.expect("a token is made");
        let client = admin.with_token(&publisher);
        for number in 0..self.filler {
            let large = long_message(FILLER, 1, number + 1, FILLER_BYTES);
            client.publish_as(FILLER, &format!("{prefix}-filler-{number}"), large).await;
        }
        for (id, ordered) in [("any", false), ("ordered", true)] {
            let id = format!("{prefix}-{id}");
            let asked = v1::Subscription { ordered, ..subscription(format!("{endpoint}/{id}")) };
            subscribe(&client, &id, asked, note).await;
        }
        let publishers = (0..PUBLISHERS).map(|publisher| {
            let (client, note, prefix) = (client.clone(), Arc::clone(note), prefix.to_owned());
            tokio::spawn(async move { publish(&client, &prefix, publisher, self.events, &note).await })
        });
        let publishers: Vec<_> = publishers.collect();
        change(&admin, &client, prefix, endpoint, self.changes, note).await;
        for publisher in publishers {
            publisher.await.expect("every event was acknowledged");
        }
    }
}

async fn subscribe(client: &Client, id: &str, asked: v1::Subscription, note: &Note) {
    note(&format!("asked subscription {id}"));
    let request = v1::CreateSubscriptionRequest {
        parent: format!("accounts/{ACCOUNT}"),
        subscription: Some(asked),
        subscription_id: id.to_owned(),
        ..Default::default()
    };
    let made = client.create(request).await.expect("it is made");
    note(&format!("told subscription {id} active"));
    note(&format!("told audit {} recorded", made.name));
}

async fn publish(client: &Client, prefix: &str, publisher: i64, events: i64, note: &Note) {
    for number in 0..events {
        let id = format!("{prefix}-{publisher}-{number}");
        let length = LENGTHS[usize::try_from(number).expect("it is positive") % LENGTHS.len()];
        let mut event = message(ACCOUNT, publisher * 10 + number % 4 + 1, number + 1);
        message_of(&mut event).content = Some(format!("<{id}>{}", "x".repeat(length)));
        client.try_publish(publish_request(ACCOUNT, &id, event)).await.expect("it is stored");
        note(&format!("told event {id} stored"));
        if number % 8 == 0 {
            // Large events of others meanwhile, so that files of the log end and retention removes some.
            let large = long_message(FILLER, 1, number + 1, FILLER_BYTES);
            client.publish(FILLER, large).await;
        }
    }
}

/// Subscriptions and tokens come, are paused, and go; deliveries are cancelled, or seen to have succeeded.
async fn change(admin: &Client, client: &Client, prefix: &str, endpoint: &str, rounds: usize, note: &Note) {
    let (mut subscriptions, mut tokens) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let id = format!("{prefix}-passing-{round}");
        let kinds = vec![EventType::ContactCreated.into()];
        let asked = v1::Subscription { event_types: kinds, ..subscription(format!("{endpoint}/{id}")) };
        subscribe(client, &id, asked, note).await;
        let name = format!("accounts/{ACCOUNT}/subscriptions/{id}");
        if round % 2 == 0 {
            note(&format!("asked subscription {id}"));
            client.pause(&name).await;
            note(&format!("told subscription {id} paused"));
        }
        subscriptions.push((id, name));
        if subscriptions.len() > PASSING {
            let (id, name) = subscriptions.remove(round % PASSING);
            note(&format!("asked subscription {id}"));
            client.delete(&name, true).await.expect("it is deleted");
            note(&format!("told subscription {id} gone"));
        }
        let (made, text) = admin.create_token(token()).await.expect("a token is made");
        note(&format!("told token {text} valid"));
        tokens.push((made.name, text));
        if tokens.len() > PASSING {
            let (name, text) = tokens.remove(round % PASSING);
            note(&format!("asked token {text}"));
            admin.revoke_token(&name).await.expect("it is revoked");
            note(&format!("told token {text} revoked"));
        }
        let succeeded = client.deliveries_in(ACCOUNT, &[State::Succeeded]).await;
        for delivery in succeeded.iter().take(20) {
            note(&format!("told delivery {} STATE_SUCCEEDED", delivery.name));
        }
        if let Some(delivery) =
            client.deliveries_in(ACCOUNT, &[State::Pending, State::Retrying]).await.first()
        {
            // It may have ended meanwhile.
            if client.try_cancel(&delivery.name).await.is_ok() {
                note(&format!("told delivery {} STATE_CANCELLED", delivery.name));
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
