//! One webhook: how it fares, what it is set to, and what can be done with it.

use std::time::Duration;

use askama::Template;
use axum::extract::Path;
use tonic::Code;

use super::{Shell, Shown, Visitor, deliveries, page, see_other, time, webhook_name};
use crate::{
    console::{
        api::{Api, Called},
        charts::Bars,
        forms::{Faults, Fields, Form, sentence},
        pages::{
            delivery::{AttemptView, Header},
            stats::{Stats, stats},
        },
        view::{self, Badge, EventName, Time},
    },
    proto::v1::{
        self, delivery::State as DeliveryState, get_delivery_stats_request::Period, subscription::State,
    },
};

/// Deliveries that the page of a webhook shows.
const LATEST: i32 = 10;

/// The settings of a webhook as its page shows them.
struct Webhook {
    name: String,
    id: String,
    title: String,
    url: String,
    badge: Badge,
    state: State,
    is_failing: bool,
    reason: String,
    since: Option<Time>,
    last_success: Option<Time>,
    last_failure: Option<Time>,
    last_error: String,
    owed: i64,
    events: Vec<EventName>,
    all_events: bool,
    inboxes: String,
    form: &'static str,
    signature: &'static str,
    public_key: String,
    headers: Vec<Header>,
    ordered: bool,
    timeout: String,
    max_in_flight: i32,
    rate_limit: String,
    retry: String,
    tls: Vec<String>,
    annotations: Vec<(String, String)>,
    created: Option<Time>,
    updated: Option<Time>,
}

impl Webhook {
    fn of(webhook: &v1::Subscription) -> Self {
        use v1::subscription::SignatureScheme;
        let inboxes: Vec<_> = webhook.inbox_ids.iter().map(ToString::to_string).collect();
        Self {
            name: webhook.name.clone(),
            id: view::last_part(&webhook.name).to_owned(),
            title: view::visible(&webhook.display_name),
            url: view::visible(&webhook.url),
            badge: Badge::of_webhook(webhook),
            state: webhook.state(),
            is_failing: view::is_failing(webhook),
            reason: view::visible(&webhook.state_reason),
            since: time(webhook.failing_since_time),
            last_success: time(webhook.last_success_time),
            last_failure: time(webhook.last_failure_time),
            last_error: view::visible(&webhook.last_error),
            owed: webhook.owed_count(),
            all_events: webhook.all_event_types,
            events: webhook.event_types.iter().map(|event| EventName::of(*event)).collect(),
            inboxes: inboxes.join(", "),
            form: form_title(webhook.payload_format()),
            signature: match webhook.signature_scheme() {
                SignatureScheme::Ed25519 => "Ed25519 (v1a): verify with the public key",
                _ => "HMAC-SHA256 (v1): verify with the signing secret",
            },
            public_key: webhook.public_key.clone(),
            headers: webhook.headers.iter().map(|(name, value)| Header::of(name, value)).collect(),
            ordered: webhook.ordered,
            timeout: view::proto_duration(webhook.timeout),
            max_in_flight: webhook.max_in_flight,
            rate_limit: webhook.rate_limit.map(rate_limit).unwrap_or_default(),
            retry: webhook.retry_policy.as_ref().map(retry).unwrap_or_default(),
            tls: webhook.tls.as_ref().map(tls).unwrap_or_default(),
            annotations: webhook
                .annotations
                .iter()
                .map(|(key, value)| (view::visible(key), view::visible(value)))
                .collect(),
            created: time(webhook.create_time),
            updated: time(webhook.update_time),
        }
    }

    /// How it is called: by its name for people, or by its address.
    fn heading(&self) -> &str {
        if self.title.is_empty() { &self.url } else { &self.title }
    }

    fn is_paused(&self) -> bool {
        self.state == State::Paused
    }

    fn is_suspended(&self) -> bool {
        self.state == State::Suspended
    }

    fn owed_shown(&self) -> String {
        view::counted(self.owed, "delivery", "deliveries")
    }
}

/// The form of the body, in words.
pub(super) fn form_title(format: v1::subscription::PayloadFormat) -> &'static str {
    use v1::subscription::PayloadFormat;
    match format {
        PayloadFormat::Sample => "Documentation's sample",
        PayloadFormat::Chatwoot => "As Chatwoot 4 sends it",
        _ => "Documented",
    }
}

fn retry(policy: &v1::RetryPolicy) -> String {
    let mut parts = Vec::new();
    if policy.max_attempts > 0 {
        parts.push(format!("{} attempts", policy.max_attempts));
    }
    for (label, wait) in [("first wait up to", policy.min_backoff), ("longest wait", policy.max_backoff)] {
        if wait.is_some() {
            parts.push(format!("{label} {}", view::proto_duration(wait)));
        }
    }
    if !policy.give_up_statuses.is_empty() {
        parts.push(format!("never after {}", policy.give_up_statuses.join(", ")));
    }
    parts.join("; ")
}

fn rate_limit(limit: v1::RateLimit) -> String {
    let interval = view::proto_duration(limit.interval);
    format!("{} events in {interval}, {} at once", limit.events, limit.burst)
}

fn tls(options: &v1::TlsOptions) -> Vec<String> {
    let mut lines = Vec::new();
    if !options.server_name.is_empty() {
        lines.push(format!("Certificate must be for {}", view::visible(&options.server_name)));
    }
    if !options.ca_certificates.is_empty() {
        lines.push("Own certificate authorities".to_owned());
    }
    if !options.client_certificate.is_empty() {
        lines.push("Client certificate".to_owned());
    }
    lines
}

pub(super) async fn get(api: &Api, account: i64, id: &str) -> Called<v1::Subscription> {
    let request = v1::GetSubscriptionRequest { name: webhook_name(account, id) };
    let response = api.subscriptions().get_subscription(api.request(request)).await?;
    Ok(response.into_inner().subscription.unwrap_or_default())
}

#[derive(Template)]
#[template(path = "webhook.html")]
struct WebhookPage {
    shell: Shell,
    account: i64,
    webhook: Webhook,
    chart: Bars,
    hour: Stats,
    counts: Vec<Count>,
    rows: Vec<deliveries::Row>,
}

/// How many deliveries are in a state.
struct Count {
    badge: Badge,
    count: String,
    href: String,
}

pub(super) async fn show(
    visitor: Visitor,
    Path((account, id)): Path<(i64, String)>,
    fields: Fields,
) -> Shown {
    let found = get(&visitor.api, account, &id).await?;
    let hour = stats(&visitor.api, &found.name, Period::Hour).await?;
    let counts = counts(&visitor.api, account, &found.name).await?;
    let request =
        v1::ListDeliveriesRequest { parent: found.name.clone(), page_size: LATEST, ..Default::default() };
    let latest = visitor.api.deliveries().list_deliveries(visitor.api.request(request)).await?.into_inner();
    let webhook = Webhook::of(&found);
    Ok(page(&WebhookPage {
        shell: visitor.shell(webhook.heading(), "webhooks", Some(account)).saying(fields.get("done")),
        account,
        webhook,
        chart: hour.bars("Attempts in the last hour"),
        hour,
        counts,
        rows: latest.deliveries.iter().map(deliveries::Row::of).collect(),
    }))
}

async fn counts(api: &Api, account: i64, parent: &str) -> Called<Vec<Count>> {
    let request = v1::SummarizeDeliveriesRequest { parent: parent.to_owned() };
    let summary = api.deliveries().summarize_deliveries(api.request(request)).await?.into_inner();
    let id = view::last_part(parent);
    Ok(summary
        .counts
        .iter()
        .filter(|count| count.state() != DeliveryState::Unspecified)
        .map(|count| {
            let badge = Badge::of_delivery(count.state());
            let href = format!("/accounts/{account}/deliveries?webhook={id}&state={}", badge.word);
            Count { badge, count: view::number(count.count()), href }
        })
        .collect())
}

pub(super) async fn pause(visitor: Visitor, Path((account, id)): Path<(i64, String)>) -> Shown {
    let request = v1::PauseSubscriptionRequest { name: webhook_name(account, &id) };
    visitor.api.subscriptions().pause_subscription(visitor.api.request(request)).await?;
    Ok(see_other(&format!("/accounts/{account}/webhooks/{id}?done=paused")))
}

pub(super) async fn resume(visitor: Visitor, Path((account, id)): Path<(i64, String)>) -> Shown {
    let request = v1::ResumeSubscriptionRequest { name: webhook_name(account, &id) };
    visitor.api.subscriptions().resume_subscription(visitor.api.request(request)).await?;
    Ok(see_other(&format!("/accounts/{account}/webhooks/{id}?done=resumed")))
}

#[derive(Template)]
#[template(path = "webhook_delete.html")]
struct DeletePage {
    shell: Shell,
    account: i64,
    webhook: Webhook,
    counts: Vec<Count>,
    etag: String,
    faults: Faults,
}

pub(super) async fn ask_delete(visitor: Visitor, Path((account, id)): Path<(i64, String)>) -> Shown {
    deletion(&visitor, account, &id, Faults::default()).await
}

async fn deletion(visitor: &Visitor, account: i64, id: &str, faults: Faults) -> Shown {
    let found = get(&visitor.api, account, id).await?;
    let counts = counts(&visitor.api, account, &found.name).await?;
    let webhook = Webhook::of(&found);
    let shell = visitor.shell("Delete webhook", "webhooks", Some(account));
    Ok(page(&DeletePage { shell, account, webhook, counts, etag: found.etag, faults }))
}

pub(super) async fn delete(
    visitor: Visitor,
    Path((account, id)): Path<(i64, String)>,
    Form(form): Form,
) -> Shown {
    let request = v1::DeleteSubscriptionRequest {
        name: webhook_name(account, &id),
        etag: form.get("etag").to_owned(),
        force: form.has("force"),
    };
    match visitor.api.subscriptions().delete_subscription(visitor.api.request(request)).await {
        Ok(_) => Ok(see_other(&format!("/accounts/{account}/webhooks?done=deleted"))),
        Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::Aborted) => {
            let faults = Faults::beyond_fields(sentence(status.message()));
            deletion(&visitor, account, &id, faults).await
        }
        Err(status) => Err(status.into()),
    }
}

#[derive(Template)]
#[template(path = "webhook_rotate.html")]
struct RotatePage {
    shell: Shell,
    account: i64,
    webhook: Webhook,
    request_id: String,
    overlaps: [(&'static str, &'static str); 5],
    faults: Faults,
}

/// The choices of how long the old secret signs too: seconds, and words.
const OVERLAPS: [(&str, &str); 5] = [
    ("86400", "24 hours"),
    ("172800", "2 days"),
    ("604800", "7 days"),
    ("2592000", "30 days"),
    ("0", "not at all: the old secret has leaked"),
];

pub(super) async fn ask_rotate(visitor: Visitor, Path((account, id)): Path<(i64, String)>) -> Shown {
    rotation(&visitor, account, &id, &Fields::default(), Faults::default()).await
}

async fn rotation(visitor: &Visitor, account: i64, id: &str, form: &Fields, faults: Faults) -> Shown {
    let webhook = Webhook::of(&get(&visitor.api, account, id).await?);
    let shell = visitor.shell("Rotate signing secret", "webhooks", Some(account));
    let request_id = form.request_id();
    Ok(page(&RotatePage { shell, account, webhook, request_id, overlaps: OVERLAPS, faults }))
}

/// The page that shows a secret: once, as the response of the POST that made it.
#[derive(Template)]
#[template(path = "secret.html")]
pub(super) struct SecretPage {
    pub(super) shell: Shell,
    pub(super) account: i64,
    pub(super) id: String,
    pub(super) url: String,
    pub(super) secret: String,
    /// The secret is one of the user's own, in the form that libraries take.
    pub(super) is_own_secret: bool,
    pub(super) public_key: String,
    /// Until when the previous secret signs as well; `None` after a creation.
    pub(super) old_until: Option<Time>,
    pub(super) is_new: bool,
}

pub(super) async fn rotate(
    visitor: Visitor,
    Path((account, id)): Path<(i64, String)>,
    Form(form): Form,
) -> Shown {
    let seconds = if form.get("overlap").is_empty() { Some(86_400) } else { form.number("overlap") };
    let Some(seconds) = seconds else {
        let mut faults = Faults::default();
        faults.push("overlap", "must be one of the choices");
        return rotation(&visitor, account, &id, &form, faults).await;
    };
    let request = v1::RotateSigningSecretRequest {
        name: webhook_name(account, &id),
        overlap: Some(prost_types::Duration { seconds, nanos: 0 }),
        request_id: form.get("request_id").to_owned(),
    };
    let rotated = match visitor.api.subscriptions().rotate_signing_secret(visitor.api.request(request)).await
    {
        Ok(response) => response.into_inner(),
        Err(status) => {
            let faults = Faults::from_status(status, |path| (path == "overlap").then_some("overlap"))?;
            return rotation(&visitor, account, &id, &form, faults).await;
        }
    };
    let found = get(&visitor.api, account, &id).await?;
    Ok(page(&SecretPage {
        shell: visitor.shell("New signing secret", "webhooks", Some(account)),
        account,
        id,
        url: view::visible(&found.url),
        secret: rotated.signing_secret,
        is_own_secret: false,
        public_key: rotated.public_key,
        old_until: time(rotated.old_secret_expire_time),
        is_new: false,
    }))
}

#[derive(Template)]
#[template(path = "webhook_test.html")]
struct TestPage {
    shell: Shell,
    account: i64,
    webhook: Webhook,
    chosen: String,
    result: Option<TestResult>,
    fault: String,
}

struct TestResult {
    is_ok: bool,
    attempt: AttemptView,
    body: String,
    pretty: String,
}

pub(super) async fn ask_test(visitor: Visitor, Path((account, id)): Path<(i64, String)>) -> Shown {
    let webhook = Webhook::of(&get(&visitor.api, account, &id).await?);
    let shell = visitor.shell("Send a test", "webhooks", Some(account));
    Ok(page(&TestPage { shell, account, webhook, chosen: String::new(), result: None, fault: String::new() }))
}

pub(super) async fn test(
    visitor: Visitor,
    Path((account, id)): Path<(i64, String)>,
    Form(form): Form,
) -> Shown {
    let chosen = form.get("event").to_owned();
    let event_type = view::event_type(&chosen).unwrap_or_default().into();
    let request = v1::TestSubscriptionRequest { name: webhook_name(account, &id), event_type };
    let tested = visitor.api.subscriptions().test_subscription(visitor.api.request(request)).await;
    let webhook = Webhook::of(&get(&visitor.api, account, &id).await?);
    let shell = visitor.shell("Test of the webhook", "webhooks", Some(account));
    let (result, fault) = match tested {
        Ok(response) => {
            let tested = response.into_inner();
            let attempt = tested.attempt.unwrap_or_else(|| v1::DeliveryAttempt {
                duration: tested.duration,
                http_status: tested.http_status,
                error: tested.error.clone(),
                response_body: tested.response_body.clone(),
                url: webhook.url.clone(),
                ..Default::default()
            });
            let result = TestResult {
                is_ok: tested.error.is_empty(),
                attempt: AttemptView::of(&attempt),
                pretty: view::visible(&view::pretty(&tested.request_body)),
                body: tested.request_body,
            };
            (Some(result), String::new())
        }
        Err(status) if status.code() == Code::PermissionDenied => return Err(status.into()),
        Err(status) => (None, sentence(status.message())),
    };
    Ok(page(&TestPage { shell, account, webhook, chosen, result, fault }))
}

/// How long the contract says that something took, if it says so.
pub(super) fn took(duration: Option<prost_types::Duration>) -> Option<Duration> {
    duration.and_then(|duration| Duration::try_from(duration).ok())
}
