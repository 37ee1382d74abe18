//! The form that adds a webhook and the one that changes it: the same fields.

use std::collections::BTreeMap;

use askama::Template;
use axum::{extract::Path, http::StatusCode, response::Response};

use super::{Shell, Shown, Visitor, page, page_with, see_other, webhook, webhook_name};
use crate::{
    console::{
        forms::{Faults, Fields, Form},
        view::{self, EventName},
    },
    proto::v1::{self, subscription::PayloadFormat, subscription::SignatureScheme},
};

/// A secret stays as it is stored.
const KEPT: &str = "***";

/// The fields of the contract that the form changes.
const MASK: [&str; 12] = [
    "display_name",
    "url",
    "event_types",
    "all_event_types",
    "inbox_ids",
    "payload_format",
    "headers",
    "retry_policy",
    "timeout",
    "max_in_flight",
    "ordered",
    "signature_scheme",
];

/// The paths of the contract and the names of the form's fields; a path may go deeper than its entry.
const NAMES: [(&str, &str); 15] = [
    ("subscription_id", "id"),
    ("signing_secret", "secret"),
    ("subscription.display_name", "name"),
    ("subscription.url", "url"),
    ("subscription.event_types", "event"),
    ("subscription.inbox_ids", "inboxes"),
    ("subscription.payload_format", "format"),
    ("subscription.headers", "headers"),
    ("subscription.retry_policy.max_attempts", "attempts"),
    ("subscription.retry_policy.min_backoff", "first_wait"),
    ("subscription.retry_policy.give_up_statuses", "give_up"),
    ("subscription.retry_policy", "longest_wait"),
    ("subscription.timeout", "timeout"),
    ("subscription.max_in_flight", "in_flight"),
    ("subscription.signature_scheme", "signature"),
];

#[derive(Template)]
#[template(path = "webhook_form.html")]
struct FormPage {
    shell: Shell,
    account: i64,
    /// The webhook that is changed; empty for a new one.
    id: String,
    etag: String,
    request_id: String,
    name: String,
    url: String,
    events: Vec<Choice>,
    /// Every type is wanted, whatever is chosen of `events`.
    all_events: bool,
    format: &'static str,
    inboxes: String,
    headers: String,
    ordered: bool,
    timeout: String,
    in_flight: String,
    attempts: String,
    first_wait: String,
    longest_wait: String,
    give_up: String,
    signature: &'static str,
    chosen_id: String,
    faults: Faults,
    /// The fields that most people leave alone are shown.
    is_open: bool,
}

struct Choice {
    event: EventName,
    is_chosen: bool,
}

impl FormPage {
    /// Whether the form is for a new webhook.
    fn is_new(&self) -> bool {
        self.id.is_empty()
    }

    fn back(&self) -> String {
        if self.is_new() {
            format!("/accounts/{}/webhooks", self.account)
        } else {
            format!("/accounts/{}/webhooks/{}", self.account, self.id)
        }
    }
}

pub(super) async fn ask_new(visitor: Visitor, Path(account): Path<i64>, fields: Fields) -> Response {
    // The address can fill the form in, as a colleague may have done.
    page(&filled(&visitor, account, "", &fields, Faults::default()))
}

pub(super) async fn create(visitor: Visitor, Path(account): Path<i64>, Form(form): Form) -> Shown {
    let mut faults = Faults::default();
    let subscription = subscription(&form, &mut faults);
    let request = v1::CreateSubscriptionRequest {
        parent: format!("accounts/{account}"),
        subscription: Some(subscription),
        subscription_id: form.get("id").to_owned(),
        request_id: form.get("request_id").to_owned(),
        validate_only: !faults.is_empty(),
        signing_secret: form.get("secret").to_owned(),
    };
    let response = visitor.api.subscriptions().create_subscription(visitor.api.request(request)).await;
    let created = match response.map(tonic::Response::into_inner) {
        Ok(created) if faults.is_empty() => created,
        Ok(_) => return Ok(refused(&filled(&visitor, account, "", &form, faults))),
        Err(status) => {
            let faults = merged(faults, Faults::from_status(status, name)?);
            return Ok(refused(&filled(&visitor, account, "", &form, faults)));
        }
    };
    let subscription = created.subscription.unwrap_or_default();
    Ok(page(&webhook::SecretPage {
        shell: visitor.shell("Webhook created", "webhooks", Some(account)).saying("created"),
        account,
        id: view::last_part(&subscription.name).to_owned(),
        url: view::visible(&subscription.url),
        is_own_secret: !form.get("secret").is_empty() && form.get("secret") != created.signing_secret,
        secret: created.signing_secret,
        public_key: subscription.public_key,
        old_until: None,
        is_new: true,
    }))
}

pub(super) async fn ask_edit(visitor: Visitor, Path((account, id)): Path<(i64, String)>) -> Shown {
    let found = webhook::get(&visitor.api, account, &id).await?;
    let mut form = filled(&visitor, account, &id, &Fields::default(), Faults::default());
    let retry = found.retry_policy.clone().unwrap_or_default();
    form.is_open = !found.inbox_ids.is_empty()
        || !found.headers.is_empty()
        || found.ordered
        || found.timeout.is_some()
        || retry != v1::RetryPolicy::default();
    form.etag = found.etag.clone();
    form.name = found.display_name.clone();
    form.url = found.url.clone();
    for choice in &mut form.events {
        choice.is_chosen =
            found.event_types().any(|event| view::event_type(&choice.event.word) == Some(event));
    }
    form.all_events = found.all_event_types;
    form.format = match found.payload_format() {
        PayloadFormat::Sample => "sample",
        PayloadFormat::Chatwoot => "chatwoot",
        _ => "documented",
    };
    form.inboxes = found.inbox_ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    form.headers = found.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    form.ordered = found.ordered;
    form.timeout = seconds(found.timeout);
    form.in_flight = positive(found.max_in_flight);
    form.attempts = positive(retry.max_attempts);
    form.first_wait = seconds(retry.min_backoff);
    form.longest_wait = seconds(retry.max_backoff);
    form.give_up = retry.give_up_statuses.join(", ");
    form.signature = if found.signature_scheme() == SignatureScheme::Ed25519 { "ed25519" } else { "hmac" };
    Ok(page(&form))
}

pub(super) async fn update(
    visitor: Visitor,
    Path((account, id)): Path<(i64, String)>,
    Form(form): Form,
) -> Shown {
    let mut faults = Faults::default();
    let mut subscription = subscription(&form, &mut faults);
    subscription.name = webhook_name(account, &id);
    subscription.etag = form.get("etag").to_owned();
    let request = v1::UpdateSubscriptionRequest {
        subscription: Some(subscription),
        update_mask: Some(prost_types::FieldMask { paths: MASK.map(str::to_owned).into() }),
        validate_only: !faults.is_empty(),
    };
    let response = visitor.api.subscriptions().update_subscription(visitor.api.request(request)).await;
    match response {
        Ok(_) if faults.is_empty() => {
            Ok(see_other(&format!("/accounts/{account}/webhooks/{id}?done=updated")))
        }
        Ok(_) => Ok(refused(&filled(&visitor, account, &id, &form, faults))),
        Err(status) => {
            let faults = merged(faults, Faults::from_status(status, name)?);
            Ok(refused(&filled(&visitor, account, &id, &form, faults)))
        }
    }
}

fn refused(form: &FormPage) -> Response {
    page_with(StatusCode::UNPROCESSABLE_ENTITY, form)
}

/// Faults that the form found itself come first.
fn merged(own: Faults, other: Faults) -> Faults {
    if own.is_empty() { other } else { own }
}

/// The name of the form's field for a path of the contract.
fn name(path: &str) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| path.starts_with(known)).map(|(_, name)| *name)
}

/// The form as it was sent.
fn filled(visitor: &Visitor, account: i64, id: &str, form: &Fields, faults: Faults) -> FormPage {
    let is_new = id.is_empty();
    let chosen: Vec<_> = form.all("event").collect();
    let advanced = [
        "inboxes",
        "headers",
        "ordered",
        "timeout",
        "in_flight",
        "attempts",
        "first_wait",
        "longest_wait",
        "give_up",
        "id",
        "secret",
    ];
    FormPage {
        shell: visitor.shell(
            if is_new { "Add new webhook" } else { "Edit webhook" },
            "webhooks",
            Some(account),
        ),
        account,
        id: id.to_owned(),
        etag: form.get("etag").to_owned(),
        request_id: form.request_id(),
        name: form.get("name").to_owned(),
        url: form.get("url").to_owned(),
        events: EventName::all()
            .into_iter()
            .map(|event| Choice { is_chosen: chosen.contains(&event.word.as_str()), event })
            .collect(),
        all_events: form.has("all_events"),
        format: match form.get("format") {
            "sample" => "sample",
            "chatwoot" => "chatwoot",
            _ => "documented",
        },
        inboxes: form.get("inboxes").to_owned(),
        headers: form.get("headers").to_owned(),
        ordered: form.has("ordered"),
        timeout: form.get("timeout").to_owned(),
        in_flight: form.get("in_flight").to_owned(),
        attempts: form.get("attempts").to_owned(),
        first_wait: form.get("first_wait").to_owned(),
        longest_wait: form.get("longest_wait").to_owned(),
        give_up: form.get("give_up").to_owned(),
        signature: if form.get("signature") == "ed25519" { "ed25519" } else { "hmac" },
        chosen_id: form.get("id").to_owned(),
        is_open: advanced.iter().any(|name| form.has(name) || !faults.at(name).is_empty()),
        faults,
    }
}

/// The subscription that a form describes. Texts that are no numbers are faults; the services check the rest.
fn subscription(form: &Fields, faults: &mut Faults) -> v1::Subscription {
    let format = match form.get("format") {
        "sample" => PayloadFormat::Sample,
        "chatwoot" => PayloadFormat::Chatwoot,
        _ => PayloadFormat::Documented,
    };
    let scheme = match form.get("signature") {
        "ed25519" => SignatureScheme::Ed25519,
        _ => SignatureScheme::HmacSha256,
    };
    let retry = v1::RetryPolicy {
        max_attempts: number(form, faults, "attempts").unwrap_or_default(),
        min_backoff: wait(form, faults, "first_wait"),
        max_backoff: wait(form, faults, "longest_wait"),
        give_up_statuses: listed(form, "give_up").map(str::to_owned).collect(),
    };
    v1::Subscription {
        display_name: form.get("name").to_owned(),
        url: form.get("url").to_owned(),
        event_types: match form.has("all_events") {
            true => Vec::new(),
            false => form.all("event").filter_map(view::event_type).map(Into::into).collect(),
        },
        all_event_types: form.has("all_events"),
        inbox_ids: inboxes(form, faults),
        payload_format: format.into(),
        headers: headers(form, faults),
        retry_policy: (retry != v1::RetryPolicy::default()).then_some(retry),
        timeout: wait(form, faults, "timeout"),
        max_in_flight: number(form, faults, "in_flight").unwrap_or_default(),
        ordered: form.has("ordered"),
        signature_scheme: scheme.into(),
        ..Default::default()
    }
}

fn number(form: &Fields, faults: &mut Faults, name: &str) -> Option<i32> {
    let text = form.get(name);
    if text.is_empty() {
        return None;
    }
    let number = text.parse().ok();
    if number.is_none() {
        faults.push(name, "Must be a whole number.");
    }
    number
}

/// Seconds, with a fraction where wanted.
fn wait(form: &Fields, faults: &mut Faults, name: &str) -> Option<prost_types::Duration> {
    let text = form.get(name);
    if text.is_empty() {
        return None;
    }
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=1e9).contains(seconds));
    let duration = seconds.map(std::time::Duration::from_secs_f64).and_then(|time| time.try_into().ok());
    if duration.is_none() {
        faults.push(name, "Must be a number of seconds.");
    }
    duration
}

/// Texts with commas or spaces between them.
fn listed<'a>(form: &'a Fields, name: &str) -> impl Iterator<Item = &'a str> {
    form.get(name).split([',', ' ', '\n']).map(str::trim).filter(|text| !text.is_empty())
}

fn inboxes(form: &Fields, faults: &mut Faults) -> Vec<i64> {
    let numbers: Result<Vec<_>, _> = listed(form, "inboxes").map(str::parse).collect();
    numbers.unwrap_or_else(|_| {
        faults.push("inboxes", "Must be numbers of inboxes, with commas between them.");
        Vec::new()
    })
}

/// One header a line, as in HTTP.
fn headers(form: &Fields, faults: &mut Faults) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for line in form.get("headers").lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(':') {
            Some((name, value)) => {
                headers.insert(name.trim().to_owned(), value.trim().to_owned());
            }
            None => faults.push(
                "headers",
                format!("Each line must be a name, a colon and a value. {KEPT} keeps a stored value."),
            ),
        }
    }
    headers
}

fn seconds(duration: Option<prost_types::Duration>) -> String {
    webhook::took(duration).map(|duration| duration.as_secs_f64().to_string()).unwrap_or_default()
}

fn positive(number: i32) -> String {
    if number > 0 { number.to_string() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_a_subscription() {
        let form = Fields::parse(
            b"name=CRM&url=https%3A%2F%2Fa.example&event=message_created&event=contact_updated&format=chatwoot\
              &inboxes=1%2C+2&headers=X-Key%3A+a%3Ab%0D%0AY%3A&timeout=2.5&attempts=3&give_up=404%2C+5xx&ordered=on&signature=ed25519",
        );
        let mut faults = Faults::default();
        let made = subscription(&form, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!((made.display_name.as_str(), made.url.as_str()), ("CRM", "https://a.example"));
        assert_eq!(made.event_types, [4, 8]);
        assert_eq!(made.inbox_ids, [1, 2]);
        assert_eq!(made.headers, [("X-Key".into(), "a:b".into()), ("Y".into(), String::new())].into());
        assert_eq!(made.timeout, Some(prost_types::Duration { seconds: 2, nanos: 500_000_000 }));
        let retry = made.retry_policy.unwrap();
        assert_eq!((retry.max_attempts, retry.give_up_statuses), (3, vec!["404".into(), "5xx".into()]));
        assert!(made.ordered && made.payload_format == 3 && made.signature_scheme == 2);
        assert!(!made.all_event_types);
        let all = subscription(&Fields::parse(b"all_events=on&event=message_created"), &mut faults);
        assert!(all.all_event_types && all.event_types.is_empty());
    }

    #[test]
    fn texts_that_are_no_numbers_stand_beside_their_fields() {
        let form = Fields::parse(b"inboxes=a&headers=x&timeout=soon&attempts=1.5&first_wait=-1");
        let mut faults = Faults::default();
        subscription(&form, &mut faults);
        for field in ["inboxes", "headers", "timeout", "attempts", "first_wait"] {
            assert!(!faults.at(field).is_empty(), "{field}");
        }
        assert_eq!(faults.title(), "5 fields need other values.");
    }

    #[test]
    fn every_path_of_the_contract_finds_its_field() {
        for (path, field) in [
            ("subscription.url", "url"),
            ("subscription.event_types[1]", "event"),
            ("subscription.headers[\"X\"]", "headers"),
            ("subscription.retry_policy.min_backoff", "first_wait"),
            ("subscription.retry_policy.max_backoff", "longest_wait"),
            ("subscription.retry_policy.give_up_statuses[1]", "give_up"),
        ] {
            assert_eq!(name(path), Some(field));
        }
        assert_eq!(name("parent"), None);
    }
}
