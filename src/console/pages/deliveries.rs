//! The list of deliveries, with filters in the address, and the changes of those that are ticked.

use askama::Template;
use axum::extract::Path;

use super::{Failure, PAGE_SIZE, Shell, Shown, Visitor, page, see_other, time};
use crate::{
    console::{
        forms::{Fields, Form, segment},
        pages::webhook::took,
        view::{self, Badge, EventName, Time},
    },
    proto::v1::{self, delivery::State, delivery_attempt::Outcome},
};

/// The fields of the filter, as they are named in addresses.
pub(super) const FILTER: [&str; 6] = ["webhook", "state", "event", "status", "from", "until"];

/// Most deliveries that one form changes: a page of them.
const CHANGES_MAX: usize = 100;

/// One row of a list of deliveries.
#[derive(Template)]
#[template(path = "delivery_row.html")]
pub(super) struct Row {
    /// The key of the row in the page: it stays when the row changes.
    pub(super) key: String,
    pub(super) name: String,
    pub(super) href: String,
    pub(super) event_id: String,
    pub(super) webhook: String,
    pub(super) event: EventName,
    pub(super) badge: Badge,
    pub(super) attempts: i32,
    pub(super) response: String,
    pub(super) created: Option<Time>,
}

impl Row {
    pub(super) fn of(delivery: &v1::Delivery) -> Self {
        let account = view::account_of(&delivery.name).unwrap_or_default();
        let (webhook, event_id) = (view::subscription_of(&delivery.name), view::last_part(&delivery.name));
        Self {
            key: format!("{webhook}/{event_id}"),
            name: delivery.name.clone(),
            href: format!("/accounts/{account}/deliveries/{webhook}/{}", segment(event_id)),
            event_id: event_id.to_owned(),
            webhook: webhook.to_owned(),
            event: EventName::of(delivery.event_type),
            badge: Badge::of_delivery(delivery.state()),
            attempts: delivery.attempt_count(),
            response: delivery.attempts.last().map(response).unwrap_or_default(),
            created: time(delivery.create_time),
        }
    }
}

/// An attempt in a few words: `200 in 12 ms`.
pub(super) fn response(attempt: &v1::DeliveryAttempt) -> String {
    let took = took(attempt.duration).map(view::duration).unwrap_or_default();
    match attempt.outcome() {
        Outcome::Ok | Outcome::HttpStatus => format!("{} in {took}", attempt.http_status),
        outcome => format!("{} after {took}", Badge::of_attempt(outcome).word),
    }
}

#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage {
    shell: Shell,
    account: i64,
    filter: FilterView,
    rows: Vec<Row>,
    /// The address of the live stream; empty where the page shows older deliveries.
    live: String,
    query: String,
    next: String,
    is_first: bool,
    message: String,
    is_filtered: bool,
    replay: String,
}

/// The filter as the form shows it.
pub(super) struct FilterView {
    pub(super) webhooks: Vec<(String, String, bool)>,
    pub(super) states: Vec<(&'static str, bool)>,
    pub(super) events: Vec<(EventName, bool)>,
    pub(super) statuses: Vec<(&'static str, &'static str, bool)>,
    pub(super) from: String,
    pub(super) until: String,
}

/// The states, by their words in addresses.
pub(super) const STATES: [(&str, State); 5] = [
    ("pending", State::Pending),
    ("retrying", State::Retrying),
    ("succeeded", State::Succeeded),
    ("failed", State::Failed),
    ("cancelled", State::Cancelled),
];

/// The results of the last attempt, by their words in addresses.
const STATUSES: [(&str, &str); 6] = [
    ("2xx", "2xx: accepted"),
    ("3xx", "3xx: redirect"),
    ("4xx", "4xx: refused"),
    ("5xx", "5xx: failed"),
    ("timeout", "no response in time"),
    ("none", "no connection"),
];

/// Reads the filter of an address.
pub(super) fn filter(account: i64, fields: &Fields) -> v1::ListDeliveriesRequest {
    let webhook = match fields.get("webhook") {
        "" => "-",
        id => id,
    };
    let (classes, outcomes): (Vec<i32>, Vec<Outcome>) = match fields.get("status") {
        "2xx" => (vec![2], vec![]),
        "3xx" => (vec![3], vec![]),
        "4xx" => (vec![4], vec![]),
        "5xx" => (vec![5], vec![]),
        "timeout" => (vec![], vec![Outcome::Timeout]),
        "none" => (vec![], vec![Outcome::Connect, Outcome::Io, Outcome::Blocked]),
        _ => (vec![], vec![]),
    };
    v1::ListDeliveriesRequest {
        parent: super::webhook_name(account, webhook),
        states: states(fields).into_iter().map(Into::into).collect(),
        event_types: view::event_type(fields.get("event")).map(Into::into).into_iter().collect(),
        http_status_classes: classes,
        outcomes: outcomes.into_iter().map(Into::into).collect(),
        start_time: view::timestamp(fields.get("from")),
        end_time: view::timestamp(fields.get("until")),
        ..Default::default()
    }
}

pub(super) fn states(fields: &Fields) -> Vec<State> {
    let asked: Vec<_> = fields.all("state").collect();
    STATES.iter().filter(|(word, _)| asked.contains(word)).map(|(_, state)| *state).collect()
}

pub(super) async fn filter_view(
    visitor: &Visitor,
    account: i64,
    fields: &Fields,
) -> Result<FilterView, Failure> {
    const WEBHOOKS_OFFERED: i32 = 200;
    let request = v1::ListSubscriptionsRequest {
        parent: format!("accounts/{account}"),
        page_size: WEBHOOKS_OFFERED,
        ..Default::default()
    };
    let listed =
        visitor.api.subscriptions().list_subscriptions(visitor.api.request(request)).await?.into_inner();
    let chosen = fields.get("webhook");
    let mut webhooks: Vec<_> = listed
        .subscriptions
        .iter()
        .map(|webhook| {
            let id = view::last_part(&webhook.name).to_owned();
            let is_chosen = id == chosen;
            let title = if webhook.display_name.is_empty() { &webhook.url } else { &webhook.display_name };
            (id, shortened(&view::visible(title)), is_chosen)
        })
        .collect();
    if !chosen.is_empty() && !webhooks.iter().any(|(_, _, is_chosen)| *is_chosen) {
        webhooks.push((chosen.to_owned(), view::visible(chosen), true));
    }
    let states: Vec<_> = fields.all("state").collect();
    let (event, status) = (fields.get("event"), fields.get("status"));
    Ok(FilterView {
        webhooks,
        states: STATES.iter().map(|(word, _)| (*word, states.contains(word))).collect(),
        events: EventName::all()
            .into_iter()
            .map(|name| {
                let is_chosen = name.word == event;
                (name, is_chosen)
            })
            .collect(),
        statuses: STATUSES.iter().map(|(word, label)| (*word, *label, *word == status)).collect(),
        from: fields.get("from").to_owned(),
        until: fields.get("until").to_owned(),
    })
}

/// A text that fits into a field of choice.
fn shortened(text: &str) -> String {
    const CHARS: usize = 60;
    if text.chars().count() <= CHARS {
        text.to_owned()
    } else {
        text.chars().take(CHARS - 1).chain(['…']).collect()
    }
}

pub(super) async fn list(visitor: Visitor, Path(account): Path<i64>, fields: Fields) -> Shown {
    let mut request = filter(account, &fields);
    request.page_size = PAGE_SIZE;
    request.page_token = fields.get("page").to_owned();
    let is_first = request.page_token.is_empty();
    let listed = visitor.api.deliveries().list_deliveries(visitor.api.request(request)).await?.into_inner();
    let query = fields.query(&FILTER, &[]);
    let is_bounded = fields.has("until");
    Ok(page(&DeliveriesPage {
        shell: visitor.shell("Deliveries", "deliveries", Some(account)),
        account,
        filter: filter_view(&visitor, account, &fields).await?,
        rows: listed.deliveries.iter().map(Row::of).collect(),
        live: if is_first && !is_bounded {
            format!("/accounts/{account}/deliveries/live{query}")
        } else {
            String::new()
        },
        next: match listed.next_page_token.as_str() {
            "" => String::new(),
            token => format!("/accounts/{account}/deliveries{}", fields.query(&FILTER, &[("page", token)])),
        },
        is_first,
        message: changed(&fields),
        is_filtered: !query.is_empty(),
        replay: format!(
            "/accounts/{account}/deliveries/replay{}",
            fields.query(&["webhook", "event", "from", "until"], &[])
        ),
        query,
    }))
}

/// What came of the last form, from the numbers in the address.
fn changed(fields: &Fields) -> String {
    let count = |name: &str| fields.number::<i64>(name).filter(|count| *count >= 0);
    let (Some(done), Some(refused)) = (count("done"), count("refused")) else { return String::new() };
    let what = if fields.get("did") == "cancel" { "cancelled" } else { "queued for another attempt" };
    let mut text = format!("{} {what}.", view::counted(done, "delivery", "deliveries"));
    if refused > 0 {
        text.push_str(&format!(
            " {} could not be: over already, or changed meanwhile.",
            view::number(refused)
        ));
    }
    text
}

/// Retries or cancels the deliveries that are ticked.
pub(super) async fn change(
    visitor: Visitor,
    Path(account): Path<i64>,
    fields: Fields,
    Form(form): Form,
) -> Shown {
    let cancels = form.get("do") == "cancel";
    let (mut done, mut refused) = (0_u32, 0_u32);
    let prefix = format!("accounts/{account}/");
    for name in form.all("delivery").filter(|name| name.starts_with(&prefix)).take(CHANGES_MAX) {
        match change_one(&visitor, name, cancels).await {
            Ok(()) => done += 1,
            Err(status) if status.code() == tonic::Code::PermissionDenied => return Err(status.into()),
            Err(_) => refused += 1,
        }
    }
    let (done, refused) = (done.to_string(), refused.to_string());
    let did = if cancels { "cancel" } else { "retry" };
    let more = [("did", did), ("done", done.as_str()), ("refused", refused.as_str())];
    Ok(see_other(&format!("/accounts/{account}/deliveries{}", fields.query(&FILTER, &more))))
}

pub(super) async fn change_one(visitor: &Visitor, name: &str, cancels: bool) -> Result<(), tonic::Status> {
    let name = name.to_owned();
    let mut deliveries = visitor.api.deliveries();
    if cancels {
        deliveries.cancel_delivery(visitor.api.request(v1::CancelDeliveryRequest { name })).await?;
    } else {
        deliveries.retry_delivery(visitor.api.request(v1::RetryDeliveryRequest { name })).await?;
    }
    Ok(())
}

/// Its template escapes what others wrote.
impl askama::filters::HtmlSafe for Row {}
