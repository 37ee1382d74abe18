//! Pages of lists, for one subscription or account among many.
//!
//! A tenth of the events is delivered. The others, which are newer, wait for paused subscriptions: to deliver
//! all of them would take much longer, and a list would read the same volumes. Events go to the accounts in
//! turn, each with one subscription, so that every volume has a few of each: the worst case for a page. Each
//! list is measured after a start, when the store has nothing in memory (the system may have), and again for
//! the same accounts.

use std::time::{Duration, Instant};

use tidings::proto::v1::{self, EventType, delivery::State};

use super::{Figure, figure};
use crate::{
    gateway::{Gateway, Listed, Start},
    load::{Load, Way, account, now_micros},
    measure::Rig,
    wire::Expected,
};

/// Lists.
#[derive(Clone, Copy, Debug)]
pub struct Lists {
    /// Stored events.
    pub events: u64,
    /// Subscriptions of the events, each of an account of its own.
    pub subscriptions: usize,
}

/// One event of this many is delivered.
const DELIVERED_SHARE: u64 = 10;
/// Lists of one kind that are measured.
const CALLS: usize = 100;
/// Rows of a page.
const PAGE: i32 = 50;
/// Distance between two accounts that are listed: a prime, so that they look random.
const STEP: usize = 7919;

/// A list: its name, and the call for an account and a page token.
type Kind = (&'static str, Box<List>);
type List = dyn Fn(&Gateway, String, String) -> anyhow::Result<Listed>;

impl Lists {
    pub(super) fn name(&self) -> String {
        format!("lists of {} events of {} subscriptions", self.events, self.subscriptions)
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        let start = start.with("retention_bytes_max", "128GiB").with("backlog_max", "100000000");
        let mut rig = Rig::start(&start)?;
        let delivered = self.deliver(&mut rig)?;
        let mut figures = Vec::new();
        for (name, list) in kinds(delivered) {
            rig.gateway.crash_and_start()?;
            let (cold, _) = self.ask(&rig.gateway, &*list)?;
            let (warm, next) = self.ask(&rig.gateway, &*list)?;
            for (when, mut took) in [("cold", cold), ("warm", warm), ("next page", next)] {
                took.sort_unstable();
                let Some(most) = took.last() else { continue };
                figures.push(figure(format!("{name}, {when}, p50"), millis(took[took.len() / 2]), "ms"));
                figures.push(figure(format!("{name}, {when}, max"), millis(*most), "ms"));
            }
        }
        Ok(figures)
    }

    /// Stores the events. Returns the time at which the delivered ones were all stored.
    fn deliver(&self, rig: &mut Rig) -> anyhow::Result<i64> {
        let names = rig.subscribe(self.subscriptions, false)?;
        let (way, endpoints) = (Way::Batches { size: 100, in_flight: 8 }, self.subscriptions);
        let events = self.events / DELIVERED_SHARE;
        rig.round(way, Expected { events, endpoints, fan_out: false, hanging: None })?;
        let delivered = now_micros();
        for name in &names {
            rig.gateway.pause(name)?;
        }
        let load = Load { way, events: self.events - events, accounts: endpoints, inboxes: 0 };
        rig.publish(load)?;
        Ok(delivered)
    }

    /// Durations of first pages, and of second pages if there are any.
    fn ask(&self, gateway: &Gateway, list: &List) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
        let (mut first, mut next) = (Vec::new(), Vec::new());
        for call in 0..CALLS {
            let account = format!("accounts/{}", account(call * STEP % self.subscriptions));
            let begin = Instant::now();
            let listed = list(gateway, account.clone(), String::new())?;
            first.push(begin.elapsed());
            if !listed.next_page_token.is_empty() {
                let begin = Instant::now();
                list(gateway, account, listed.next_page_token)?;
                next.push(begin.elapsed());
            }
        }
        Ok((first, next))
    }
}

/// The lists. Events stored before `delivered` are delivered.
fn kinds(delivered: i64) -> Vec<Kind> {
    let time = prost_types::Timestamp { seconds: delivered / 1_000_000, nanos: 0 };
    let deliveries = |name, states: Vec<State>, end_time: Option<prost_types::Timestamp>| -> Kind {
        let states: Vec<i32> = states.into_iter().map(i32::from).collect();
        let list = move |gateway: &Gateway, account: String, page_token| {
            gateway.list_deliveries(v1::ListDeliveriesRequest {
                parent: format!("{account}/subscriptions/-"),
                page_size: PAGE,
                page_token,
                states: states.clone(),
                end_time,
                ..Default::default()
            })
        };
        (name, Box::new(list))
    };
    let events = |name, types: Vec<EventType>, end_time: Option<prost_types::Timestamp>| -> Kind {
        let types: Vec<i32> = types.into_iter().map(i32::from).collect();
        let list = move |gateway: &Gateway, parent, page_token| {
            let types = types.clone();
            let request = v1::ListEventsRequest {
                parent,
                page_size: PAGE,
                page_token,
                types,
                end_time,
                ..Default::default()
            };
            gateway.list_events(request)
        };
        (name, Box::new(list))
    };
    vec![
        deliveries("deliveries", vec![], None),
        deliveries("deliveries that succeeded, the oldest tenth", vec![State::Succeeded], None),
        deliveries("deliveries that failed, none", vec![State::Failed], None),
        deliveries("deliveries before a time", vec![], Some(time)),
        events("events", vec![], None),
        events("events of a type, all", vec![EventType::MessageCreated], None),
        events("events of a type, none", vec![EventType::ContactCreated], None),
        events("events before a time", vec![], Some(time)),
    ]
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
