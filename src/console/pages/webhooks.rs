//! The list of an account's webhooks: those that fail first.

use askama::Template;
use axum::{extract::Path, response::Response};

use super::{Failure, Shell, Visitor, page, time};
use crate::{
    console::{
        api::Called,
        charts::{Bars, Sparkline},
        forms::Fields,
        pages::stats::{Stats, stats},
        view::{self, Badge, EventName, Time},
    },
    proto::v1::{self, get_delivery_stats_request::Period, subscription::State},
};

/// Webhooks that are read with one call, and most calls for the list.
const PAGE_MAX: i32 = 1000;
const PAGES_MAX: usize = 20;
/// Webhooks on one page.
const SHOWN_MAX: usize = 50;

/// The states that the list can be narrowed to: the word in the address, and its label.
const FILTERS: [(&str, &str); 5] = [
    ("", "All"),
    ("failing", "Failing"),
    ("suspended", "Suspended"),
    ("paused", "Paused"),
    ("active", "Active"),
];

#[derive(Template)]
#[template(path = "webhooks.html")]
struct WebhooksPage {
    shell: Shell,
    account: i64,
    filters: Vec<Filter>,
    search: String,
    state: String,
    rows: Vec<Row>,
    /// There are none at all, whatever the filter.
    is_empty: bool,
    chart: Bars,
    hour: Stats,
    owed: String,
    trouble: String,
    previous: String,
    next: String,
    shown: String,
}

struct Filter {
    label: &'static str,
    href: String,
    count: usize,
    is_current: bool,
}

struct Row {
    id: String,
    title: String,
    url: String,
    badge: Badge,
    reason: String,
    since: Option<Time>,
    events: Vec<EventName>,
    all_events: bool,
    more_events: usize,
    owed: String,
    spark: Sparkline,
}

pub(super) async fn list(
    visitor: Visitor,
    Path(account): Path<i64>,
    fields: Fields,
) -> Result<Response, Failure> {
    let all = all(&visitor, account).await?;
    let (state, search) = (fields.get("state"), fields.get("q").to_lowercase());
    let filters = FILTERS
        .iter()
        .map(|(word, label)| Filter {
            label,
            href: {
                let state = [("state", *word)];
                let more = if word.is_empty() { &state[..0] } else { &state };
                format!("/accounts/{account}/webhooks{}", fields.query(&["q"], more))
            },
            count: all.iter().filter(|webhook| is_in(webhook, word)).count(),
            is_current: *word == state,
        })
        .collect();
    let trouble = all.iter().filter(|webhook| trouble(webhook) < CALM).count();
    let mut found: Vec<_> =
        all.iter().filter(|webhook| is_in(webhook, state) && matches_search(webhook, &search)).collect();
    found.sort_by_key(|webhook| (trouble_key(webhook), webhook.name.as_str()));
    let number: usize = fields.number("page").unwrap_or(1).max(1);
    let start = (number - 1).saturating_mul(SHOWN_MAX).min(found.len());
    let end = (start + SHOWN_MAX).min(found.len());
    let mut rows = Vec::with_capacity(end - start);
    for webhook in &found[start..end] {
        let hour = stats(&visitor.api, &webhook.name, Period::Hour).await?;
        rows.push(Row::of(webhook, hour));
    }
    let hour = stats(&visitor.api, &format!("accounts/{account}/subscriptions/-"), Period::Hour).await?;
    let href = |number: usize| {
        format!(
            "/accounts/{account}/webhooks{}",
            fields.query(&["q", "state"], &[("page", &number.to_string())])
        )
    };
    let title = if trouble == 0 { "Webhooks".to_owned() } else { format!("({trouble}) Webhooks") };
    Ok(page(&WebhooksPage {
        shell: visitor.shell(title, "webhooks", Some(account)).saying(fields.get("done")),
        account,
        filters,
        search: fields.get("q").to_owned(),
        state: state.to_owned(),
        is_empty: all.is_empty(),
        owed: view::counted(
            all.iter().map(v1::Subscription::owed_count).sum(),
            "delivery waits",
            "deliveries wait",
        ),
        trouble: match trouble {
            0 => String::new(),
            1 => "1 webhook needs attention".to_owned(),
            more => format!("{more} webhooks need attention"),
        },
        chart: hour.bars("Attempts in the last hour"),
        hour,
        previous: if number > 1 { href(number - 1) } else { String::new() },
        next: if end < found.len() { href(number + 1) } else { String::new() },
        shown: if found.len() > SHOWN_MAX {
            format!("{}–{end} of {}", start + 1, found.len())
        } else {
            String::new()
        },
        rows,
    }))
}

/// All webhooks of an account, page by page: those in trouble may be anywhere.
async fn all(visitor: &Visitor, account: i64) -> Called<Vec<v1::Subscription>> {
    let parent = format!("accounts/{account}");
    let mut request = v1::ListSubscriptionsRequest { parent, page_size: PAGE_MAX, ..Default::default() };
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        let page =
            visitor.api.subscriptions().list_subscriptions(visitor.api.request(request.clone())).await?;
        let page = page.into_inner();
        found.extend(page.subscriptions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    Ok(found)
}

impl Row {
    fn of(webhook: &v1::Subscription, hour: Stats) -> Self {
        const EVENTS_SHOWN: usize = 3;
        let reason = match webhook.state() {
            State::Suspended | State::Paused if !webhook.state_reason.is_empty() => &webhook.state_reason,
            _ if view::is_failing(webhook) => &webhook.last_error,
            _ => "",
        };
        Self {
            id: view::last_part(&webhook.name).to_owned(),
            title: view::visible(&webhook.display_name),
            url: view::visible(&webhook.url),
            badge: Badge::of_webhook(webhook),
            reason: view::visible(reason),
            since: time(webhook.failing_since_time),
            events: webhook
                .event_types
                .iter()
                .take(EVENTS_SHOWN)
                .map(|event| EventName::of(*event))
                .collect(),
            all_events: webhook.all_event_types,
            more_events: webhook.event_types.len().saturating_sub(EVENTS_SHOWN),
            owed: view::number(webhook.owed_count()),
            spark: Sparkline(hour.bars),
        }
    }
}

/// The rank of webhooks that need nobody.
const CALM: u8 = 2;

fn trouble(webhook: &v1::Subscription) -> u8 {
    match webhook.state() {
        State::Suspended => 0,
        State::Active if view::is_failing(webhook) => 1,
        State::Paused => CALM + 1,
        _ => CALM,
    }
}

/// Those in trouble first, the longest in trouble first of all.
fn trouble_key(webhook: &v1::Subscription) -> (u8, i64) {
    let since = webhook.failing_since_time.map_or(i64::MAX, |time| time.seconds);
    (trouble(webhook), since)
}

fn is_in(webhook: &v1::Subscription, word: &str) -> bool {
    match word {
        "failing" => webhook.state() == State::Active && view::is_failing(webhook),
        "suspended" => webhook.state() == State::Suspended,
        "paused" => webhook.state() == State::Paused,
        "active" => webhook.state() == State::Active && !view::is_failing(webhook),
        _ => true,
    }
}

fn matches_search(webhook: &v1::Subscription, search: &str) -> bool {
    let texts = [&webhook.url, &webhook.display_name, &webhook.name];
    search.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(search))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(name: &str, state: State, failing_since: Option<i64>) -> v1::Subscription {
        v1::Subscription {
            name: name.to_owned(),
            state: state.into(),
            failing_since_time: failing_since.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn those_in_trouble_come_first_and_the_longest_failing_first_of_all() {
        let mut all = [
            webhook("a", State::Active, None),
            webhook("b", State::Paused, None),
            webhook("c", State::Active, Some(200)),
            webhook("d", State::Suspended, Some(300)),
            webhook("e", State::Active, Some(100)),
        ];
        all.sort_by_key(|webhook| (trouble_key(webhook), webhook.name.clone()));
        assert_eq!(all.map(|webhook| webhook.name).join(""), "decab");
    }

    #[test]
    fn every_webhook_is_in_one_filter() {
        for (state, since) in [
            (State::Active, None),
            (State::Active, Some(1)),
            (State::Paused, None),
            (State::Suspended, Some(1)),
        ] {
            let webhook = webhook("a", state, since);
            let filters = FILTERS[1..].iter().filter(|(word, _)| is_in(&webhook, word)).count();
            assert_eq!(filters, 1, "{state:?} {since:?}");
        }
    }
}
