//! One delivery: every attempt with what was sent, what came back, and how long each step took.

use std::fmt::Write;

use askama::Template;
use axum::{
    extract::Path,
    http::{
        HeaderValue,
        header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use tonic::Code;

use super::{Shell, Shown, Visitor, deliveries, page, see_other, time, webhook};
use crate::{
    console::{
        api::{Api, Called},
        forms::{Fields, Form, segment},
        view::{self, Badge, EventName, Time},
    },
    proto::v1::{self, delivery::State, subscription::PayloadFormat},
};

/// A header as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

impl Header {
    pub(super) fn of(name: &str, value: &str) -> Self {
        Self { name: view::visible(name), value: view::visible(value) }
    }
}

/// One attempt as it is shown.
pub(super) struct AttemptView {
    pub(super) number: i32,
    pub(super) badge: Badge,
    pub(super) start: Option<Time>,
    pub(super) took: String,
    pub(super) http_status: i32,
    pub(super) error: String,
    pub(super) resent: i32,
    pub(super) url: String,
    pub(super) remote: String,
    pub(super) request_headers: Vec<Header>,
    pub(super) response_headers: Vec<Header>,
    pub(super) response_body: String,
    pub(super) steps: Vec<(&'static str, String)>,
}

impl AttemptView {
    pub(super) fn of(attempt: &v1::DeliveryAttempt) -> Self {
        let headers = |headers: &[v1::HttpHeader]| -> Vec<Header> {
            headers.iter().map(|header| Header::of(&header.name, &header.value)).collect()
        };
        let steps = [
            ("Name resolved", attempt.dns_duration),
            ("Connected", attempt.connect_duration),
            ("TLS", attempt.tls_duration),
            ("First byte", attempt.first_byte_duration),
        ];
        Self {
            number: attempt.number,
            badge: Badge::of_attempt(attempt.outcome()),
            start: time(attempt.start_time),
            took: view::proto_duration(attempt.duration),
            http_status: attempt.http_status,
            error: view::visible(&attempt.error),
            resent: attempt.resent,
            url: view::visible(&attempt.url),
            remote: attempt.remote_address.clone(),
            request_headers: headers(&attempt.request_headers),
            response_headers: headers(&attempt.response_headers),
            response_body: view::visible(&view::pretty(&attempt.response_body)),
            steps: steps
                .into_iter()
                .filter(|(_, step)| step.is_some())
                .map(|(label, step)| (label, view::proto_duration(step)))
                .collect(),
        }
    }
}

/// A body that was rendered, with its headers.
pub(super) struct RenderedView {
    pub(super) body: String,
    pub(super) pretty: String,
    pub(super) size: String,
    pub(super) headers: Vec<Header>,
}

#[derive(Template)]
#[template(path = "delivery.html")]
struct DeliveryPage {
    shell: Shell,
    account: i64,
    webhook_id: String,
    webhook_title: String,
    event_id: String,
    event: EventName,
    badge: Badge,
    may_retry: bool,
    may_cancel: bool,
    attempts: Vec<AttemptView>,
    attempt_count: i32,
    left_out: i32,
    next: Option<Time>,
    created: Option<Time>,
    updated: Option<Time>,
    rendered: Option<RenderedView>,
    render_fault: String,
    form: &'static str,
    forms: Vec<(&'static str, &'static str, bool)>,
    curl: String,
    is_over: bool,
}

/// The forms of a body, by their words in addresses.
pub(super) const FORMS: [(&str, &str, PayloadFormat); 3] = [
    ("documented", "Documented", PayloadFormat::Documented),
    ("sample", "Documentation's sample", PayloadFormat::Sample),
    ("chatwoot", "As Chatwoot 4 sends it", PayloadFormat::Chatwoot),
];

pub(super) async fn show(
    visitor: Visitor,
    Path((account, webhook_id, event_id)): Path<(i64, String, String)>,
    fields: Fields,
) -> Shown {
    let found = get(&visitor.api, account, &webhook_id, &event_id).await?;
    let subscription = webhook::get(&visitor.api, account, &webhook_id).await?;
    let asked = FORMS.iter().find(|(word, _, _)| *word == fields.get("form")).map(|(_, _, format)| *format);
    let format = asked.unwrap_or_else(|| known(subscription.payload_format()));
    let rendered = render(&visitor, &found.event, Some(&subscription.name), format).await;
    let (rendered, render_fault) = match rendered {
        Ok(rendered) => (Some(rendered), String::new()),
        Err(status) if status.code() == Code::PermissionDenied => {
            (None, "Your token may not have bodies rendered: that needs the scope manage.".to_owned())
        }
        Err(status) => (None, crate::console::forms::sentence(status.message())),
    };
    let state = found.state();
    let curl = rendered.as_ref().map(|rendered| curl(&subscription.url, rendered)).unwrap_or_default();
    Ok(page(&DeliveryPage {
        shell: visitor
            .shell(format!("Delivery of {event_id}"), "deliveries", Some(account))
            .saying(fields.get("done")),
        account,
        webhook_title: view::visible(if subscription.display_name.is_empty() {
            &subscription.url
        } else {
            &subscription.display_name
        }),
        webhook_id,
        event_id,
        event: EventName::of(found.event_type),
        badge: Badge::of_delivery(state),
        may_retry: visitor.may_manage() && !matches!(state, State::Succeeded),
        may_cancel: visitor.may_manage() && matches!(state, State::Pending | State::Retrying),
        left_out: found.attempt_count() - i32::try_from(found.attempts.len()).unwrap_or(0),
        attempts: found.attempts.iter().rev().map(AttemptView::of).collect(),
        attempt_count: found.attempt_count(),
        next: time(found.next_attempt_time),
        created: time(found.create_time),
        updated: time(found.update_time),
        rendered,
        render_fault,
        form: webhook::form_title(format),
        forms: FORMS.iter().map(|(word, title, known)| (*word, *title, *known == format)).collect(),
        curl,
        is_over: matches!(state, State::Succeeded | State::Failed | State::Cancelled),
    }))
}

fn known(format: PayloadFormat) -> PayloadFormat {
    if format == PayloadFormat::Unspecified { PayloadFormat::Documented } else { format }
}

async fn get(api: &Api, account: i64, webhook: &str, event: &str) -> Called<v1::Delivery> {
    let name = format!("accounts/{account}/subscriptions/{webhook}/deliveries/{event}");
    let response = api.deliveries().get_delivery(api.request(v1::GetDeliveryRequest { name })).await?;
    Ok(response.into_inner().delivery.unwrap_or_default())
}

/// The body of a stored event in one form, with the headers of one subscription.
pub(super) async fn render(
    visitor: &Visitor,
    event: &str,
    subscription: Option<&str>,
    format: PayloadFormat,
) -> Called<RenderedView> {
    let request = v1::RenderEventRequest {
        source: Some(v1::render_event_request::Source::Name(event.to_owned())),
        subscription: subscription.unwrap_or_default().to_owned(),
        payload_format: format.into(),
    };
    let rendered = visitor.api.events().render_event(visitor.api.request(request)).await?.into_inner();
    Ok(RenderedView {
        pretty: view::visible(&view::pretty(&rendered.body)),
        size: view::bytes(rendered.body.len() as u64),
        headers: rendered.headers.iter().map(|(name, value)| Header::of(name, value)).collect(),
        body: rendered.body,
    })
}

/// The request as a line for a shell: every value in single quotes, so that none of it is run.
fn curl(url: &str, rendered: &RenderedView) -> String {
    let mut line = format!("curl -sS -X POST {}", quoted(url));
    for header in &rendered.headers {
        write!(line, " \\\n  -H {}", quoted(&format!("{}: {}", header.name, header.value)))
            .expect("a string takes it");
    }
    write!(line, " \\\n  --data-binary {}", quoted(&rendered.body)).expect("a string takes it");
    line
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

pub(super) async fn change(
    visitor: Visitor,
    Path((account, webhook, event)): Path<(i64, String, String)>,
    Form(form): Form,
) -> Shown {
    let name = format!("accounts/{account}/subscriptions/{webhook}/deliveries/{event}");
    let cancels = form.get("do") == "cancel";
    deliveries::change_one(&visitor, &name, cancels).await?;
    let done = if cancels { "cancelled" } else { "retried" };
    Ok(see_other(&format!(
        "/accounts/{account}/deliveries/{}/{}?done={done}",
        segment(&webhook),
        segment(&event)
    )))
}

/// The body, byte for byte, as a file.
pub(super) async fn raw(
    visitor: Visitor,
    Path((account, webhook_id, event_id)): Path<(i64, String, String)>,
    fields: Fields,
) -> Shown {
    let subscription = webhook::get(&visitor.api, account, &webhook_id).await?;
    let event = format!("accounts/{account}/events/{event_id}");
    let asked = FORMS.iter().find(|(word, _, _)| *word == fields.get("form")).map(|(_, _, format)| *format);
    let format = asked.unwrap_or_else(|| known(subscription.payload_format()));
    let rendered = render(&visitor, &event, Some(&subscription.name), format).await?;
    Ok(attachment("body.json.txt", rendered.body))
}

/// Bytes of others: a file to save, never a page to look at.
pub(super) fn attachment(name: &'static str, body: String) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    let mut response =
        ([(CONTENT_TYPE, "text/plain; charset=utf-8"), (CONTENT_SECURITY_POLICY, "sandbox")], body)
            .into_response();
    if let Ok(value) = HeaderValue::try_from(disposition) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_body_is_run_by_the_shell() {
        let rendered = RenderedView {
            body: r#"{"a":"it's $(rm) `x`"}"#.to_owned(),
            pretty: String::new(),
            size: String::new(),
            headers: vec![Header::of("X-A", "b'c")],
        };
        assert_eq!(
            curl("https://a.example/?x=1&y='", &rendered),
            "curl -sS -X POST 'https://a.example/?x=1&y='\\''' \\\n  -H 'X-A: b'\\''c' \\\n  \
             --data-binary '{\"a\":\"it'\\''s $(rm) `x`\"}'"
        );
    }

    #[test]
    fn bytes_of_others_are_a_file_in_a_sandbox() {
        let response = attachment("body.txt", "<script>".to_owned());
        assert_eq!(response.headers()["content-security-policy"], "sandbox");
        assert_eq!(response.headers()["content-disposition"], "attachment; filename=\"body.txt\"");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    }
}
