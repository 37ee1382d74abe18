//! Queues stored events again for one webhook: the count first, of everything that the filter matches.

use askama::Template;
use axum::extract::Path;

use super::{Shell, Shown, Visitor, deliveries, page, webhook_name};
use crate::{
    console::{
        api::Called,
        forms::{Faults, Fields, Form},
        view,
    },
    proto::v1,
};

/// Events that one call counts or queues: the contract's most.
const PER_CALL: i32 = 10_000;
/// Most calls for one form. Beyond them the page says "at least", and offers to go on.
const CALLS_MAX: usize = 20;

#[derive(Template)]
#[template(path = "replay.html")]
struct ReplayPage {
    shell: Shell,
    account: i64,
    filter: deliveries::FilterView,
    states: Vec<(&'static str, &'static str, bool)>,
    faults: Faults,
    /// The number of events that would be queued, once it was counted.
    count: Option<String>,
    is_none: bool,
    /// How many were queued.
    queued: Option<String>,
    /// Where to go on.
    page_token: String,
    webhook: String,
    fields: Vec<(String, String)>,
}

/// The deliveries that can be queued again: the word in the address, and in words.
const STATES: [(&str, &str); 4] = [
    ("", "missed, failed or cancelled"),
    ("failed", "failed"),
    ("cancelled", "cancelled"),
    ("succeeded", "succeeded before: they are sent again"),
];

pub(super) async fn ask(visitor: Visitor, Path(account): Path<i64>, fields: Fields) -> Shown {
    let mut made = prepared(&visitor, account, &fields).await?;
    if fields.has("count") && made.faults.is_empty() {
        match run(&visitor, account, &fields, true).await {
            Ok((count, rest)) => {
                let at_least = if rest.is_empty() { "" } else { "at least " };
                made.is_none = count == 0;
                made.count = Some(format!("{at_least}{}", view::counted(count, "event", "events")));
            }
            Err(status) => made.faults = Faults::from_status(status, name)?,
        }
    }
    Ok(page(&made))
}

pub(super) async fn start(visitor: Visitor, Path(account): Path<i64>, Form(form): Form) -> Shown {
    let mut made = prepared(&visitor, account, &form).await?;
    if made.faults.is_empty() {
        match run(&visitor, account, &form, false).await {
            Ok((count, rest)) => {
                made.queued = Some(view::counted(count, "event was queued", "events were queued"));
                made.page_token = rest;
            }
            Err(status) => made.faults = Faults::from_status(status, name)?,
        }
    }
    Ok(page(&made))
}

async fn prepared(visitor: &Visitor, account: i64, fields: &Fields) -> Result<ReplayPage, super::Failure> {
    let mut faults = Faults::default();
    if (fields.has("count") || fields.has("page_token") || fields.has("start")) && !fields.has("webhook") {
        faults.push("webhook", "Choose the webhook that gets the events.");
    }
    for name in ["from", "until"] {
        if fields.has(name) && view::timestamp(fields.get(name)).is_none() {
            faults.push(name, "Must be a time such as 2026-11-30T14:12.");
        }
    }
    let state = fields.get("state");
    let kept = ["webhook", "event", "state", "from", "until"];
    Ok(ReplayPage {
        shell: visitor.shell("Replay", "deliveries", Some(account)),
        account,
        filter: deliveries::filter_view(visitor, account, fields).await?,
        states: STATES.iter().map(|(word, label)| (*word, *label, *word == state)).collect(),
        faults,
        count: None,
        is_none: false,
        queued: None,
        page_token: String::new(),
        webhook: fields.get("webhook").to_owned(),
        fields: kept
            .iter()
            .filter(|name| fields.has(name))
            .map(|name| ((*name).to_owned(), fields.get(name).to_owned()))
            .collect(),
    })
}

/// Counts or queues, call after call. Returns how many, and where to go on if that was not all.
async fn run(visitor: &Visitor, account: i64, fields: &Fields, counts_only: bool) -> Called<(i64, String)> {
    let states = deliveries::states(fields).into_iter().map(Into::into).collect();
    let mut request = v1::ReplayDeliveriesRequest {
        parent: webhook_name(account, fields.get("webhook")),
        start_time: view::timestamp(fields.get("from")),
        end_time: view::timestamp(fields.get("until")),
        event_types: view::event_type(fields.get("event")).map(Into::into).into_iter().collect(),
        states,
        page_size: PER_CALL,
        page_token: fields.get("page_token").to_owned(),
        validate_only: counts_only,
    };
    let mut count = 0;
    for _ in 0..CALLS_MAX {
        let replayed =
            visitor.api.deliveries().replay_deliveries(visitor.api.request(request.clone())).await?;
        let replayed = replayed.into_inner();
        count += i64::from(replayed.replayed_count());
        request.page_token = replayed.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    Ok((count, request.page_token))
}

fn name(path: &str) -> Option<&'static str> {
    match path {
        "parent" => Some("webhook"),
        "start_time" => Some("from"),
        "end_time" => Some("until"),
        _ => None,
    }
}
