//! `/metrics`: every line is what Prometheus reads, the counts are what happened, and they add up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use crate::{
    client::{LOOK_EVERY, attempts, publish_request, subscription},
    gateway::{Gateway, Home, PATIENCE},
    receiver::{Answer, Receiver},
};
use tidings::{
    domain::ids::AccountId,
    event::samples,
    proto::v1::{self, EventType, delivery::State},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::Code;

/// What was exposed, read as strictly as the format is written down.
#[derive(Debug)]
pub struct Scrape {
    families: BTreeMap<String, Family>,
    /// By name and labels, as they stand in the text.
    samples: BTreeMap<String, f64>,
}

/// What is said of one name.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
}

impl Scrape {
    pub async fn of(gateway: &Gateway) -> Self {
        Self::read(&get(gateway.http, "/metrics").await)
    }

    /// Looks until what is there is as `wanted` wants it.
    pub async fn when(gateway: &Gateway, what: &str, wanted: impl Fn(&Self) -> bool) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let scrape = Self::of(gateway).await;
            if wanted(&scrape) {
                return scrape;
            }
            assert!(Instant::now() < deadline, "not {what} in time, but {:#?}", scrape.samples);
            sleep(LOOK_EVERY).await;
        }
    }

    /// How many connections of gRPC were closed for this reason, once that are `wanted` or more: each is closed before it is counted.
    pub async fn closed(gateway: &Gateway, reason: &str, wanted: f64) -> f64 {
        let name = format!("tidings_grpc_connections_closed_total{{reason=\"{reason}\"}}");
        Self::when(gateway, "closed", |scrape| scrape.value(&name) >= wanted).await.value(&name)
    }

    fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut scrape = Self { families: BTreeMap::new(), samples: BTreeMap::new() };
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                let family = Family { help: help.to_owned(), ..Family::default() };
                assert!(scrape.families.insert(name.to_owned(), family).is_none(), "{name} is there twice");
                name.clone_into(&mut current);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current, "the type follows the help");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                kind.clone_into(&mut scrape.families.get_mut(name).unwrap().kind);
            } else {
                scrape.read_sample(&current, line);
            }
        }
        scrape
    }

    fn read_sample(&mut self, current: &str, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = self.families.get_mut(current).unwrap();
        let suffix = name.strip_prefix(current).unwrap_or_else(|| panic!("{line} stands under {current}"));
        match family.kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            kind => assert!(["counter", "gauge"].contains(&kind) && suffix.is_empty(), "{line}"),
        }
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end of the labels: {line}"));
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').unwrap();
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            let plain = quoted.is_some_and(|value| !value.is_empty() && !value.contains(['"', '\\']));
            assert!(is_name(name) && plain, "{line}");
            family.labels.insert(name.to_owned());
        }
        assert!(self.samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
    }

    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }

    /// The sum of the series of this name, with any labels.
    #[track_caller]
    fn sum(&self, name: &str) -> f64 {
        assert!(self.families.contains_key(name), "there is no {name}");
        let of_name = |series: &str| series.split('{').next() == Some(name);
        self.samples.iter().filter(|(series, _)| of_name(series)).map(|(_, value)| value).sum()
    }

    /// The series of a name that are not 0, by the value of their label.
    fn counted(&self, name: &str) -> BTreeMap<String, f64> {
        assert!(self.families.contains_key(name), "there is no {name}");
        let labelled = self.samples.iter().filter_map(|(series, value)| {
            let (_, label) = series.strip_prefix(name)?.strip_prefix('{')?.split_once('=')?;
            Some((label.trim_end_matches('}').trim_matches('"').to_owned(), *value))
        });
        labelled.filter(|(_, value)| *value > 0.0).collect()
    }

    /// What was made, was made again, is owed, is over and was dropped must come out even.
    #[track_caller]
    fn assert_adds_up(&self) {
        let made =
            self.sum("tidings_deliveries_created_total") + self.sum("tidings_deliveries_reopened_total");
        let gone =
            self.sum("tidings_deliveries_settled_total") + self.sum("tidings_deliveries_dropped_total");
        assert_eq!(made, gone + self.sum("tidings_deliveries_owed"), "{:#?}", self.samples);
    }

    /// Buckets never fall, and the last is the count.
    fn assert_histograms_add_up(&self) {
        for (name, _) in self.families.iter().filter(|(_, family)| family.kind == "histogram") {
            let bound = |series: &str| {
                let bound = series.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.strip_suffix("\"}")?;
                Some(bound.parse::<f64>().unwrap())
            };
            let mut buckets: Vec<_> =
                self.samples.iter().filter_map(|(s, v)| Some((bound(s)?, *v))).collect();
            buckets.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
            assert!(
                buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1),
                "{name} {buckets:?}"
            );
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, self.value(&format!("{name}_count")))));
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_word = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.split('_').all(|word| !word.is_empty() && is_word(word))
}

/// Asks as plainly as can be, and returns the body.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    body.to_owned()
}

fn event(kind: EventType) -> v1::Event {
    samples::sample(kind, AccountId::new(1).unwrap())
}

#[tokio::test]
async fn what_happened_is_counted_and_adds_up() {
    let receiver = Receiver::start().await;
    receiver.now(|request| match request.path.as_str() {
        "/bad" => Answer::status(500),
        "/broken" => Answer::Close,
        _ => Answer::status(200),
    });
    let gateway = Home::new().start().await;
    let client = &gateway.client;
    client.subscribe(1, subscription(receiver.url("/good"))).await;
    for path in ["/bad", "/broken"] {
        let twice = v1::Subscription { retry_policy: attempts(2), ..subscription(receiver.url(path)) };
        client.subscribe(1, twice).await;
    }
    let held = client.subscribe(1, subscription(receiver.url("/held"))).await;
    client.pause(&held.name).await;

    client.publish_as(1, "one", event(EventType::ContactCreated)).await;
    client.publish_as(1, "two", event(EventType::MessageCreated)).await;
    assert!(client.publish_as(1, "two", event(EventType::MessageCreated)).await.duplicate);
    client.publish(2, samples::sample(EventType::InboxCreated, AccountId::new(2).unwrap())).await;
    let reused = client.try_publish(1, "two", event(EventType::InboxUpdated)).await;
    assert_eq!(reused.unwrap_err().code(), Code::AlreadyExists);
    let nothing = v1::PublishEventRequest { event: None, ..publish_request(1, "", v1::Event::default()) };
    assert!(client.events.clone().publish_event(nothing).await.is_err());

    let settled = |scrape: &Scrape| scrape.sum("tidings_deliveries_settled_total") == 6.0;
    let scrape = Scrape::when(&gateway, "six are settled", settled).await;
    let counted = |name: &str| scrape.counted(name).into_iter().collect::<Vec<_>>();
    let pairs = |pairs: &[(&str, f64)]| pairs.iter().map(|(l, v)| ((*l).to_owned(), *v)).collect::<Vec<_>>();
    let types = [("contact_created", 1.0), ("inbox_created", 1.0), ("message_created", 1.0)];
    assert_eq!(counted("tidings_events_accepted_total"), pairs(&types));
    assert_eq!(scrape.value("tidings_events_duplicate_total"), 1.0);
    let refused = [("EVENT_EXISTS", 1.0), ("FIELD_REQUIRED", 1.0)];
    assert_eq!(counted("tidings_publishes_refused_total"), pairs(&refused));
    assert_eq!(scrape.value("tidings_deliveries_created_total"), 8.0);
    assert_eq!(counted("tidings_deliveries_settled_total"), pairs(&[("failed", 4.0), ("succeeded", 2.0)]));
    assert_eq!(counted("tidings_deliveries_owed"), pairs(&[("pending", 2.0)]));
    assert_eq!(counted("tidings_attempts_total"), pairs(&[("http_status", 4.0), ("io", 4.0), ("ok", 2.0)]));
    assert_eq!(counted("tidings_subscriptions"), pairs(&[("active", 3.0), ("paused", 1.0)]));
    scrape.assert_adds_up();

    assert_eq!(scrape.value("tidings_attempt_duration_seconds_count"), 10.0);
    assert_eq!(scrape.value("tidings_publish_to_arrival_seconds_count"), 2.0);
    // The repetition was answered as stored, too.
    assert_eq!(scrape.value("tidings_accept_duration_seconds_count"), 4.0);
    assert_eq!(scrape.value("tidings_commit_events_sum"), 3.0);
    assert_eq!(scrape.value("tidings_commit_settlements_sum"), 10.0);
    assert_eq!(scrape.value("tidings_commit_duration_seconds_count"), scrape.value("tidings_commits_total"));
    assert!(scrape.value(r#"tidings_oldest_owed_age_seconds{state="pending"}"#) > 0.0);
    assert_eq!(scrape.value(r#"tidings_oldest_owed_age_seconds{state="retrying"}"#), 0.0);
    assert_eq!(scrape.value("tidings_grpc_connections"), 1.0);
    assert_eq!(scrape.value("tidings_store_volumes"), 1.0);
    assert!(scrape.value("tidings_store_disk_bytes") > 0.0);
    assert_eq!(scrape.value("tidings_attempts_in_flight"), 0.0);
    scrape.assert_histograms_add_up();
    gateway.stop().await;
}

#[tokio::test]
async fn what_callers_decide_and_what_a_restart_finds_adds_up_too() {
    let receiver = Receiver::start().await;
    let home = Home::new().with("retry-min-backoff", "1h").with("retry-max-backoff", "1h");
    let gateway = home.start().await;
    let client = &gateway.client;
    receiver.now(|_| Answer::status(500));
    let once = v1::Subscription { retry_policy: attempts(1), ..subscription(receiver.url("/once")) };
    let once = client.subscribe(1, once).await;
    let often = client.subscribe(1, subscription(receiver.url("/often"))).await;
    let held = client.subscribe(1, subscription(receiver.url("/held"))).await;
    client.pause(&held.name).await;
    for id in ["one", "two"] {
        client.publish_as(1, id, event(EventType::ContactCreated)).await;
        client.delivery_in(&once.delivery(id), State::Failed).await;
        client.delivery_in(&often.delivery(id), State::Retrying).await;
    }
    let scrape = Scrape::of(&gateway).await;
    let owed = |scrape: &Scrape| {
        ["pending", "retrying"].map(|s| scrape.value(&format!("tidings_deliveries_owed{{state={s:?}}}")))
    };
    assert_eq!(owed(&scrape), [2.0, 2.0]);
    assert!(scrape.value(r#"tidings_oldest_owed_age_seconds{state="retrying"}"#) > 0.0);
    assert!(scrape.value("tidings_endpoint_connections") >= 1.0, "a connection is kept");
    scrape.assert_adds_up();

    client.cancel(&often.delivery("one")).await;
    client.pause(&once.name).await;
    client.retry(&once.delivery("one")).await;
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(owed(&scrape), [2.0, 2.0]);
    assert_eq!(scrape.value("tidings_deliveries_reopened_total"), 1.0);
    assert_eq!(scrape.value(r#"tidings_deliveries_settled_total{state="cancelled"}"#), 1.0);
    scrape.assert_adds_up();

    client.delete(&held.name, true).await.unwrap();
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(owed(&scrape), [0.0, 2.0]);
    assert_eq!(scrape.value("tidings_deliveries_dropped_total"), 2.0);
    assert_eq!(scrape.value(r#"tidings_oldest_owed_age_seconds{state="pending"}"#), 0.0);
    scrape.assert_adds_up();
    gateway.stop().await;

    let gateway = home.start().await;
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(owed(&scrape), [0.0, 2.0], "what went with its subscription is still counted");
    assert_eq!(scrape.value("tidings_deliveries_created_total"), 0.0);
    gateway.stop().await;
}

#[tokio::test]
async fn every_look_during_work_adds_up() {
    let receiver = Receiver::start().await;
    receiver.now(|request| Answer::status(if request.path == "/bad" { 500 } else { 200 }));
    let gateway = Home::new().start().await;
    for path in ["/good", "/bad"] {
        let twice = v1::Subscription { retry_policy: attempts(2), ..subscription(receiver.url(path)) };
        gateway.client.subscribe(1, twice).await;
    }
    let (mut looks, mut settled) = (0, 0.0);
    let publishing = async {
        for _ in 0..300 {
            gateway.client.publish(1, event(EventType::ContactCreated)).await;
        }
    };
    let looking = async {
        while settled < 600.0 {
            let scrape = Scrape::of(&gateway).await;
            scrape.assert_adds_up();
            settled = scrape.sum("tidings_deliveries_settled_total");
            looks += 1;
        }
    };
    timeout(PATIENCE, futures_util::future::join(publishing, looking)).await.unwrap();
    assert!(looks > 10, "{looks} looks are not many");
    gateway.stop().await;
}

#[tokio::test]
async fn names_are_by_convention_and_the_document_lists_them_all() {
    let gateway = Home::new().start().await;
    let scrape = Scrape::of(&gateway).await;
    gateway.stop().await;
    let mut rows = Vec::new();
    for (name, Family { help, kind, labels }) in &scrape.families {
        assert!(
            is_name(name) && (name.starts_with("tidings_") || name == "process_start_time_seconds"),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert!(!name.contains("micros") && !name.contains("milli"), "{name}: seconds are the unit");
        assert!(help.ends_with('.'), "{name}: {help}");
        let labels: Vec<_> = labels.iter().filter(|label| *label != "le").map(|l| format!("`{l}`")).collect();
        assert!(labels.len() <= 1, "{name} has {labels:?}");
        rows.push(format!("| `{name}` | {kind} | {} | {help} |", labels.join(", ")).replace("|  |", "| |"));
    }
    let document = include_str!("../../docs/metrics.md");
    let (_, rest) = document.split_once("<!-- metrics:begin -->\n").expect("the table's begin is marked");
    let (table, _) = rest.split_once("<!-- metrics:end -->").expect("the table's end is marked");
    let expected = format!("| metric | type | label | meaning |\n|---|---|---|---|\n{}\n", rows.join("\n"));
    assert_eq!(table, expected, "docs/metrics.md should contain:\n{expected}");
}

#[tokio::test]
async fn a_subscription_more_makes_no_series_more() {
    let gateway = Home::new().start().await;
    let before = Scrape::of(&gateway).await;
    for number in 0..20 {
        let made = gateway.client.subscribe(1, subscription(format!("http://127.0.0.1:9/{number}"))).await;
        gateway.client.pause(&made.name).await;
    }
    gateway.client.publish(1, event(EventType::ContactCreated)).await;
    let after = Scrape::of(&gateway).await;
    assert!(before.samples.keys().eq(after.samples.keys()));
    assert_eq!(after.value(r#"tidings_subscriptions{state="paused"}"#), 20.0);
    assert_eq!(after.value(r#"tidings_deliveries_owed{state="pending"}"#), 20.0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_refusal_counts_once_for_a_call_and_once_for_an_event_of_a_stream() {
    let gateway = Home::new().start().await;
    let mut events = gateway.client.events.clone();
    let bad = || publish_request(0, "", event(EventType::ContactCreated));
    let good = || publish_request(1, "", event(EventType::ContactCreated));
    let batch = |requests| v1::BatchPublishEventsRequest { requests, ..Default::default() };
    events.publish_event(bad()).await.unwrap_err();
    events.batch_publish_events(batch(vec![bad(), good(), bad()])).await.unwrap_err();
    events.batch_publish_events(batch(vec![good(), good()])).await.unwrap();
    let messages = [bad(), good(), bad()].map(Some).into_iter().chain([None]);
    let messages = messages.map(|request| v1::StreamPublishEventsRequest { sequence: 1, request });
    let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
    let mut answers = events.stream_publish_events(messages).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}

    let scrape = Scrape::of(&gateway).await;
    let expected = [("FIELD_INVALID", 4.0), ("FIELD_REQUIRED", 1.0)];
    let expected = expected.map(|(reason, count)| (reason.to_owned(), count));
    assert_eq!(scrape.counted("tidings_publishes_refused_total"), expected.into());
    assert_eq!(scrape.sum("tidings_events_accepted_total"), 3.0);
    // A batch and one event of the stream.
    assert_eq!(scrape.value("tidings_accept_duration_seconds_count"), 2.0);
    gateway.stop().await;
}
