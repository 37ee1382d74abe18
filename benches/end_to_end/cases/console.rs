//! The console: the time of its pages, their cost beyond the calls that they make, its memory, and what live
//! tabs take from publishing.
//!
//! One account has all subscriptions, each to an inbox of its own; events go to the inboxes in turn. A tenth
//! of the events is delivered, and the others wait for paused subscriptions, as in the measure of lists.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use tidings::proto::v1;

use super::{Figure, figure, megabytes, millis};
use crate::{
    browser::{Browser, Tabs},
    gateway::{Gateway, Listed, Start},
    load::{Load, Way, account},
    measure::Rig,
    publisher::histogram,
    wire::Expected,
};

/// The console.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Stored events.
    pub events: u64,
    /// Subscriptions of the account.
    pub subscriptions: usize,
    /// How often each page is loaded.
    pub loads: usize,
    /// Pairs of rounds, without and with live tabs.
    pub rounds: usize,
    /// Events of one round.
    pub round_events: u64,
}

/// One event of this many is delivered.
const DELIVERED_SHARE: u64 = 10;
/// Live tabs.
const TABS: usize = 10;
/// Accounts that the tabs look at, and that events are published to.
const ACCOUNTS: usize = 8;
/// Rows of a page of the console.
const PAGE: i32 = 50;
/// Starts with and without a console.
const STARTS: usize = 5;
/// Time without load until memory is read.
const LEFT_ALONE: Duration = Duration::from_secs(1);

impl Console {
    pub(super) fn name(&self) -> String {
        format!("console of an account with {} subscriptions and {} events", self.subscriptions, self.events)
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        let on = Start { console: true, ..start.clone() };
        let mut figures = memory(start, &on)?;
        figures.extend(self.live_tabs(&on)?);
        figures.extend(self.pages(&on)?);
        Ok(figures)
    }

    /// Publishing at full speed without and with live tabs, in alternating order.
    fn live_tabs(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        let mut rig = Rig::start(start)?;
        rig.subscribe(ACCOUNTS, false)?;
        let expected =
            Expected { events: self.round_events, endpoints: ACCOUNTS, fan_out: false, hanging: None };
        rig.warm_up(expected)?;
        let console = rig.gateway.console()?;
        let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rows, mut seconds) = (0, 0.0);
        for pair in 0..self.rounds {
            let mut rates = [0.0; 2];
            for has_tabs in if pair.is_multiple_of(2) { [false, true] } else { [true, false] } {
                let looked_at = (0..TABS).map(|tab| account(tab % ACCOUNTS).get());
                let tabs = has_tabs.then(|| Tabs::open(console, looked_at)).transpose()?;
                let round = rig.round(Way::Unary { in_flight: 256 }, expected)?;
                let took = (round.settled - round.published.first) as f64 / 1e6;
                rates[usize::from(has_tabs)] = self.round_events as f64 / took;
                if let Some(tabs) = tabs {
                    (rows, seconds) = (rows + tabs.rows(), seconds + took);
                }
            }
            without.push(rates[0]);
            with.push(rates[1]);
            ratios.push(rates[1] / rates[0]);
        }
        ensure!(rows > 0, "no row reached a live tab");
        Ok(vec![
            figure("settled without live tabs", median(without), "per s"),
            figure("settled with ten live tabs", median(with), "per s"),
            figure("ratio, the median of the pairs", median(ratios), ""),
            figure("rows in a tab", rows as f64 / seconds / TABS as f64, "per s"),
        ])
    }

    /// Loads every page, in turn, and the calls that lists are made of in between.
    fn pages(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        let start = start.with("retention_bytes_max", "128GiB").with("backlog_max", "100000000");
        let mut rig = Rig::start(&start)?;
        self.fill(&mut rig)?;
        let mut browser = Browser::connect(rig.gateway.console()?)?;
        let paths = paths(&mut browser)?;
        let calls = calls();
        let mut pages = vec![histogram(); paths.len()];
        let mut called = vec![histogram(); calls.len()];
        for _ in 0..self.loads {
            for ((name, path), times) in paths.iter().zip(&mut pages) {
                let page = browser.get(path)?;
                ensure!(page.status == 200, "{name}, {path}: {}", page.status);
                record(times, page.took);
            }
            for ((_, call), times) in calls.iter().zip(&mut called) {
                let begin = Instant::now();
                call(&rig.gateway)?;
                record(times, begin.elapsed());
            }
        }
        let mut figures = Vec::new();
        for ((name, _), times) in paths.iter().zip(&pages) {
            figures.push(figure(format!("{name}, p50"), millis(times.value_at_quantile(0.5)), "ms"));
            figures.push(figure(format!("{name}, p99"), millis(times.value_at_quantile(0.99)), "ms"));
        }
        for ((name, _), times) in calls.iter().zip(&called) {
            let page = paths.iter().position(|(page, _)| page == name).context("no page has this name")?;
            let beyond = |quantile| {
                millis(pages[page].value_at_quantile(quantile)) - millis(times.value_at_quantile(quantile))
            };
            figures.push(figure(
                format!("{name}: the call, p50"),
                millis(times.value_at_quantile(0.5)),
                "ms",
            ));
            figures.push(figure(format!("{name}: the page beyond the call, p50"), beyond(0.5), "ms"));
            figures.push(figure(format!("{name}: the same, p95"), beyond(0.95), "ms"));
        }
        Ok(figures)
    }

    /// Stores the events: a tenth is delivered, the others wait.
    fn fill(&self, rig: &mut Rig) -> anyhow::Result<()> {
        let names = rig.subscribe_inboxes(self.subscriptions)?;
        let way = Way::Batches { size: 100, in_flight: 8 };
        let load = |events| Load { way, events, accounts: 1, inboxes: self.subscriptions };
        rig.publish(load(self.events / DELIVERED_SHARE))?;
        rig.gateway.wait_settled([0], Duration::from_secs(3600))?;
        for name in &names {
            rig.gateway.pause(name)?;
        }
        rig.publish(load(self.events - self.events / DELIVERED_SHARE))
    }
}

/// Resident memory of an idle gateway, without and with a console that nobody uses.
fn memory(off: &Start, on: &Start) -> anyhow::Result<Vec<Figure>> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        for (start, found) in [(off, &mut without), (on, &mut with)] {
            let gateway = Gateway::start(start)?;
            std::thread::sleep(LEFT_ALONE);
            found.push(megabytes(gateway.usage()?.resident_bytes));
        }
    }
    let (without, with) = (median(without), median(with));
    Ok(vec![
        figure("idle memory without a console", without, "MB"),
        figure("idle memory with it", with, "MB"),
        figure("its share", with - without, "MB"),
    ])
}

/// Every page, with the ids of a webhook, a delivery and an event that are there.
fn paths(browser: &mut Browser) -> anyhow::Result<Vec<(&'static str, String)>> {
    let of = format!("/accounts/{}", account(0));
    let mut link = |page: &str, within: &str| -> anyhow::Result<String> {
        let body = browser.get(&format!("{of}/{page}"))?.body;
        // The first link to something in this list, which is not one of the list's own pages.
        let start = format!("href=\"{of}/{within}");
        let links = body.split(&start).skip(1);
        let mut ends = links.filter_map(|rest| rest.split(['"', '?', '#']).next());
        let end = ends.find(|end| !matches!(*end, "" | "replay" | "live") && !end.contains("new"));
        end.map(str::to_owned).with_context(|| format!("the page {page} has no link"))
    };
    let webhook = link("webhooks", "webhooks/")?;
    let delivery = link("deliveries?state=succeeded", "deliveries/")?;
    let event = link("events", "events/")?;
    let mut paths = vec![
        ("accounts", "/accounts".to_owned()),
        ("first steps", format!("/start?account={}", account(0))),
        ("status", "/status".to_owned()),
        ("who am I", "/me".to_owned()),
        ("tokens", "/tokens".to_owned()),
        ("a new token", "/tokens/new".to_owned()),
    ];
    for (name, path) in [
        ("webhooks", "webhooks".to_owned()),
        ("webhooks, page 20", "webhooks?page=20".to_owned()),
        ("webhooks that fail", "webhooks?state=failing".to_owned()),
        ("webhooks, a search", "webhooks?q=127.0.0.1".to_owned()),
        ("a new webhook", "new-webhook".to_owned()),
        ("a webhook", format!("webhooks/{webhook}")),
        ("a webhook, edit", format!("webhooks/{webhook}/edit")),
        ("a webhook, rotate", format!("webhooks/{webhook}/rotate")),
        ("a webhook, delete", format!("webhooks/{webhook}/delete")),
        ("a webhook, test", format!("webhooks/{webhook}/test")),
        ("deliveries", "deliveries".to_owned()),
        ("deliveries of a webhook", format!("deliveries?webhook={webhook}")),
        ("deliveries that succeeded", "deliveries?state=succeeded".to_owned()),
        ("deliveries that failed, none", "deliveries?state=failed".to_owned()),
        ("deliveries with 5xx, none", "deliveries?status=5xx".to_owned()),
        ("a delivery", format!("deliveries/{delivery}")),
        ("replay", "deliveries/replay".to_owned()),
        ("events", "events".to_owned()),
        ("events of a type, none", "events?type=contact_created".to_owned()),
        ("an event", format!("events/{event}")),
        ("audit", "audit".to_owned()),
    ] {
        paths.push((name, format!("{of}/{path}")));
    }
    Ok(paths)
}

/// A call, and the name of the page that makes it.
type Call = (&'static str, Box<dyn Fn(&Gateway) -> anyhow::Result<Listed>>);

/// The calls that make pages.
fn calls() -> Vec<Call> {
    let parent = format!("accounts/{}", account(0));
    let deliveries = v1::ListDeliveriesRequest {
        parent: format!("{parent}/subscriptions/-"),
        page_size: PAGE,
        ..Default::default()
    };
    let events = v1::ListEventsRequest { parent: parent.clone(), page_size: PAGE, ..Default::default() };
    let webhooks = v1::ListSubscriptionsRequest { parent, page_size: 1000, ..Default::default() };
    vec![
        ("deliveries", Box::new(move |gateway| gateway.list_deliveries(deliveries.clone()))),
        ("events", Box::new(move |gateway| gateway.list_events(events.clone()))),
        ("webhooks", Box::new(move |gateway| gateway.list_subscriptions(webhooks.clone()))),
    ]
}

fn record(times: &mut Histogram<u64>, took: Duration) {
    times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
