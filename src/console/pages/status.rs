//! How the gateway fares: whether it, its disk, or an endpoint is at fault.

use std::sync::Arc;

use askama::Template;

use super::{Shell, Shown, Visitor, page};
use crate::{
    console::{
        charts::{Bar, Bars},
        history::{self, SAMPLES_PER_MINUTE, Sample},
        pages::stats::{Stats, stats},
        view::{self, Badge, Time},
    },
    proto::v1::{self, get_delivery_stats_request::Period},
};

/// Webhooks in trouble that the page names.
const NAMED_MAX: usize = 10;
/// Bars of a chart.
const MINUTES: usize = 60;

#[derive(Template)]
#[template(path = "status.html")]
struct StatusPage {
    shell: Shell,
    verdicts: Vec<Verdict>,
    numbers: Vec<Number>,
    charts: Vec<Chart>,
    hour: Stats,
    troubled: Vec<Troubled>,
    more_troubled: usize,
    may_see_all: bool,
}

/// One sentence about what is at fault, or is not.
struct Verdict {
    kind: &'static str,
    text: String,
    href: String,
}

struct Number {
    label: &'static str,
    value: String,
    detail: String,
}

struct Chart {
    title: &'static str,
    now: String,
    chart: Bars,
}

struct Troubled {
    account: i64,
    id: String,
    title: String,
    badge: Badge,
    error: String,
    since: Option<Time>,
    owed: String,
}

pub(super) async fn show(visitor: Visitor) -> Shown {
    let shell = visitor.shell("Status", "status", None);
    if !visitor.sees_all_accounts() || !visitor.may(v1::access_token::Scope::Read) {
        return Ok(page(&StatusPage {
            shell,
            verdicts: Vec::new(),
            numbers: Vec::new(),
            charts: Vec::new(),
            hour: Stats::default(),
            troubled: Vec::new(),
            more_troubled: 0,
            may_see_all: false,
        }));
    }
    let hour = stats(&visitor.api, "accounts/-/subscriptions/-", Period::Hour).await?;
    let now = history::read(Arc::clone(&visitor.parts.metrics)).await.unwrap_or_default();
    let mut samples = visitor.parts.history.samples();
    samples.push(now);
    let request = v1::ListSubscriptionsRequest {
        parent: "accounts/-".to_owned(),
        page_size: 1000,
        failing: true,
        ..Default::default()
    };
    let listed =
        visitor.api.subscriptions().list_subscriptions(visitor.api.request(request)).await?.into_inner();
    let troubled = listed.subscriptions.len();
    Ok(page(&StatusPage {
        shell,
        verdicts: verdicts(&samples, troubled),
        numbers: numbers(&samples),
        charts: charts(&samples, &hour),
        troubled: listed.subscriptions.iter().take(NAMED_MAX).map(Troubled::of).collect(),
        more_troubled: troubled.saturating_sub(NAMED_MAX),
        hour,
        may_see_all: true,
    }))
}

impl Troubled {
    fn of(webhook: &v1::Subscription) -> Self {
        let title = if webhook.display_name.is_empty() { &webhook.url } else { &webhook.display_name };
        let error = if webhook.last_error.is_empty() { &webhook.state_reason } else { &webhook.last_error };
        Self {
            account: view::account_of(&webhook.name).unwrap_or_default(),
            id: view::last_part(&webhook.name).to_owned(),
            title: view::visible(title),
            badge: Badge::of_webhook(webhook),
            error: view::visible(error),
            since: Time::of(webhook.failing_since_time),
            owed: view::number(webhook.owed_count()),
        }
    }
}

/// A commit that takes longer than this on average is slow: the disk is busy or failing.
const SLOW_COMMIT_SECONDS: f64 = 0.1;
/// Deliveries that wait longer than this wait for an endpoint, or the gateway does not keep up.
const OLD_SECONDS: f64 = 60.0;

fn verdicts(samples: &[Sample], troubled: usize) -> Vec<Verdict> {
    let (first, last) = ends(samples);
    let good = |text: &str| Verdict { kind: "good", text: text.to_owned(), href: String::new() };
    let commit = commit_seconds(first, last);
    let gateway = if last.has_store && last.refused <= first.refused {
        good("The gateway takes events.")
    } else if last.has_store {
        let refused = view::counted(
            whole(last.refused - first.refused),
            "publish was refused",
            "publishes were refused",
        );
        Verdict {
            kind: "bad",
            text: format!("{refused} in the last hour: the metrics say why."),
            href: String::new(),
        }
    } else {
        Verdict { kind: "bad", text: "The store does not respond.".to_owned(), href: String::new() }
    };
    let bad = |text: String| Verdict { kind: "bad", text, href: String::new() };
    let disk = if last.refused_by_disk > first.refused_by_disk {
        bad("The disk is full or has failed: events were refused. The log and /readyz say more.".to_owned())
    } else if last.damaged > 0.0 {
        let lost = view::counted(whole(last.damaged), "record", "records");
        bad(format!("The disk has lost {lost}. The log names each."))
    } else if commit > SLOW_COMMIT_SECONDS {
        bad(format!("The disk is slow: a commit takes {} on average.", seconds(commit)))
    } else {
        good("The disk keeps up.")
    };
    let endpoints = if troubled > 0 {
        let text = view::counted(
            i64::try_from(troubled).unwrap_or(i64::MAX),
            "webhook fails or is suspended",
            "webhooks fail or are suspended",
        );
        Verdict {
            kind: "bad",
            text: format!("{text}: their receivers are at fault, or the way there."),
            href: "#trouble".to_owned(),
        }
    } else if last.oldest > OLD_SECONDS {
        Verdict {
            kind: "wait",
            text: format!(
                "The oldest delivery has waited for {}: a webhook is paused, or slow.",
                seconds(last.oldest)
            ),
            href: String::new(),
        }
    } else {
        good("All endpoints accept what they get.")
    };
    vec![gateway, disk, endpoints]
}

fn ends(samples: &[Sample]) -> (Sample, Sample) {
    let first = samples.first().copied().unwrap_or_default();
    (first, samples.last().copied().unwrap_or(first))
}

fn commit_seconds(first: Sample, last: Sample) -> f64 {
    let commits = last.commits - first.commits;
    if commits > 0.0 { (last.commit_seconds - first.commit_seconds) / commits } else { 0.0 }
}

fn numbers(samples: &[Sample]) -> Vec<Number> {
    let (first, last) = ends(samples);
    let hour = |label, value: f64, detail: &str| Number {
        label,
        value: view::number(whole(value)),
        detail: detail.to_owned(),
    };
    vec![
        hour("Deliveries owed", last.owed, "pending or retrying"),
        Number {
            label: "Oldest owed",
            value: if last.oldest > 0.0 { seconds(last.oldest) } else { "none".to_owned() },
            detail: "since its event was stored".to_owned(),
        },
        hour("Attempts under way", last.in_flight, "now"),
        hour("Slowed endpoints", last.slowed, "asked for it, or gave no response"),
        hour("Suspended webhooks", last.suspended, "failed for long; probed now and then"),
        Number {
            label: "Commit to disk",
            value: if last.commits > first.commits {
                seconds(commit_seconds(first, last))
            } else {
                "idle".to_owned()
            },
            detail: "average of the last hour".to_owned(),
        },
        Number {
            label: "Disk in use",
            value: view::bytes(u64::try_from(whole(last.disk)).unwrap_or_default()),
            detail: "events, attempts and what describes them".to_owned(),
        },
        hour("gRPC connections", last.connections, "of clients"),
    ]
}

fn charts(samples: &[Sample], hour: &Stats) -> Vec<Chart> {
    let (_, last) = ends(samples);
    let each = |read: fn(&Sample) -> f64| -> Vec<Bar> {
        by_minute(samples.len(), |minute| samples[minute].iter().map(|sample| whole(read(sample))).max())
    };
    let rate = |read: fn(&Sample) -> f64| -> Vec<Bar> {
        let steps: Vec<_> = samples.windows(2).map(|pair| whole(read(&pair[1]) - read(&pair[0]))).collect();
        by_minute(steps.len(), |minute| Some(steps[minute].iter().sum()))
    };
    let commits = by_minute(samples.len(), |minute| {
        let before = minute.start.saturating_sub(1);
        Some(whole(commit_seconds(samples[before], samples[minute.end - 1]) * 1e6))
    });
    let events = rate(|sample| sample.accepted);
    let stored: i64 = events.iter().map(|bar| bar.good).sum();
    let chart = |title, now: String, bars| Chart {
        title,
        chart: Bars { label: format!("{title} by minute in the last hour: {now}"), bars },
        now,
    };
    vec![
        Chart {
            title: "Attempts",
            now: format!(
                "{} succeeded, {} failed in the last hour",
                hour.succeeded_shown(),
                hour.failed_shown()
            ),
            chart: hour.bars("Attempts by minute in the last hour"),
        },
        chart("Events stored", format!("{} in the last hour", view::number(stored)), events),
        chart("Deliveries owed", view::number(whole(last.owed)), each(|sample| sample.owed)),
        chart(
            "Oldest owed",
            if last.oldest > 0.0 { seconds(last.oldest) } else { "none".to_owned() },
            each(|sample| sample.oldest),
        ),
        chart(
            "Commit latency",
            commits.last().map_or_else(|| "idle".to_owned(), |bar| micros(bar.good)),
            commits,
        ),
        chart(
            "Slowed and suspended",
            view::number(whole(last.slowed + last.suspended)),
            each(|sample| sample.slowed + sample.suspended),
        ),
    ]
}

/// A bar for each of the last 60 minutes, made of the samples of that minute; empty ones before the first
/// sample.
fn by_minute(samples: usize, value: impl Fn(std::ops::Range<usize>) -> Option<i64>) -> Vec<Bar> {
    let minutes = (0..MINUTES).map(|minute| {
        let end = samples.saturating_sub((MINUTES - 1 - minute) * SAMPLES_PER_MINUTE);
        let start = end.saturating_sub(SAMPLES_PER_MINUTE);
        let good = if start < end { value(start..end).unwrap_or_default() } else { 0 };
        Bar { good, bad: 0 }
    });
    minutes.collect()
}

fn micros(micros: i64) -> String {
    if micros == 0 {
        "idle".to_owned()
    } else {
        view::duration(std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    }
}

fn seconds(seconds: f64) -> String {
    view::duration(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Gauges and counts as they are shown: far below 2^63.
#[expect(clippy::cast_possible_truncation, reason = "a float is cut off at the bounds of i64")]
fn whole(value: f64) -> i64 {
    value.max(0.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_samples_are_on_the_right_and_before_the_first_there_is_nothing() {
        let bars = by_minute(6, |minute| Some(i64::try_from(minute.end).unwrap()));
        let shown: Vec<_> = bars.iter().map(|bar| bar.good).collect();
        assert_eq!((shown.len(), &shown[57..]), (60, &[0, 2, 6][..]));
    }

    #[test]
    fn the_verdicts_tell_gateway_disk_and_endpoint_apart() {
        let calm = Sample { has_store: true, ..Sample::default() };
        let kinds = |samples: &[Sample], troubled| {
            verdicts(samples, troubled).iter().map(|verdict| verdict.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&[calm, calm], 0), ["good", "good", "good"]);
        assert_eq!(kinds(&[calm, Sample { refused: 2.0, ..calm }], 0), ["bad", "good", "good"]);
        assert_eq!(
            kinds(&[calm, Sample { commits: 10.0, commit_seconds: 5.0, ..calm }], 0),
            ["good", "bad", "good"]
        );
        assert_eq!(kinds(&[calm, calm], 1), ["good", "good", "bad"]);
        assert_eq!(kinds(&[calm, Sample { oldest: 90.0, ..calm }], 0), ["good", "good", "wait"]);
        assert_eq!(kinds(&[], 0)[0], "bad");
    }
}
