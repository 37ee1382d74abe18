//! Stored events, also those that no webhook wanted, and what became of each.

use askama::Template;
use axum::extract::Path;
use tonic::Code;

use super::{PAGE_SIZE, Shell, Shown, Visitor, deliveries, delivery, page, time};
use crate::{
    console::{
        forms::{Fields, segment, sentence},
        view::{self, EventName, Time},
    },
    proto::v1,
};

const FILTER: [&str; 3] = ["type", "from", "until"];

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    shell: Shell,
    account: i64,
    types: Vec<(EventName, bool)>,
    from: String,
    until: String,
    rows: Vec<Row>,
    /// The events of this page that the disk has lost.
    damaged: Vec<String>,
    next: String,
    is_first: bool,
    is_filtered: bool,
}

struct Row {
    id: String,
    href: String,
    event: EventName,
    /// Its own name, if it has no type.
    own_name: String,
    created: Option<Time>,
    happened: Option<Time>,
}

pub(super) async fn list(visitor: Visitor, Path(account): Path<i64>, fields: Fields) -> Shown {
    let chosen = fields.get("type");
    let request = v1::ListEventsRequest {
        parent: format!("accounts/{account}"),
        page_size: PAGE_SIZE,
        page_token: fields.get("page").to_owned(),
        types: view::event_type(chosen).map(Into::into).into_iter().collect(),
        start_time: view::timestamp(fields.get("from")),
        end_time: view::timestamp(fields.get("until")),
    };
    let is_first = request.page_token.is_empty();
    let listed = visitor.api.events().list_events(visitor.api.request(request)).await?.into_inner();
    let path = format!("/accounts/{account}/events");
    let rows = listed.events.iter().map(|event| {
        let id = view::last_part(&event.name);
        Row {
            id: id.to_owned(),
            href: format!("{path}/{}", segment(id)),
            event: EventName::of(event.r#type),
            own_name: kept(event).map(|other| view::visible(&other.name)).unwrap_or_default(),
            created: time(event.create_time),
            happened: time(event.occur_time),
        }
    });
    Ok(page(&EventsPage {
        shell: visitor.shell("Events", "events", Some(account)),
        account,
        types: EventName::all()
            .into_iter()
            .map(|name| {
                let is = name.word == chosen;
                (name, is)
            })
            .collect(),
        from: fields.get("from").to_owned(),
        until: fields.get("until").to_owned(),
        rows: rows.collect(),
        damaged: listed.damaged_events.iter().map(|name| view::last_part(name).to_owned()).collect(),
        next: match listed.next_page_token.as_str() {
            "" => String::new(),
            token => format!("{path}{}", fields.query(&FILTER, &[("page", token)])),
        },
        is_first,
        is_filtered: FILTER.iter().any(|name| fields.has(name)),
    }))
}

#[derive(Template)]
#[template(path = "event.html")]
struct EventPage {
    shell: Shell,
    account: i64,
    id: String,
    event: EventName,
    created: Option<Time>,
    happened: Option<Time>,
    /// Set if it has no type and is kept as it came.
    kept: Option<Kept>,
    rows: Vec<deliveries::Row>,
    forms: Vec<(&'static str, &'static str, bool)>,
    rendered: Option<delivery::RenderedView>,
    render_fault: String,
}

/// An event that is kept as it came.
struct Kept {
    name: String,
    reasons: Vec<String>,
}

fn kept(event: &v1::Event) -> Option<&v1::OtherEvent> {
    match event.payload.as_ref()? {
        v1::event::Payload::Other(other) => Some(other),
        _ => None,
    }
}

pub(super) async fn show(
    visitor: Visitor,
    Path((account, id)): Path<(i64, String)>,
    fields: Fields,
) -> Shown {
    let name = format!("accounts/{account}/events/{id}");
    let request = v1::GetEventRequest { name: name.clone() };
    let event = visitor
        .api
        .events()
        .get_event(visitor.api.request(request))
        .await?
        .into_inner()
        .event
        .unwrap_or_default();
    let request = v1::ListDeliveriesRequest {
        parent: format!("accounts/{account}/subscriptions/-"),
        page_size: PAGE_SIZE,
        event: name.clone(),
        ..Default::default()
    };
    let listed = visitor.api.deliveries().list_deliveries(visitor.api.request(request)).await?.into_inner();
    let (word, _, format) = delivery::FORMS
        .into_iter()
        .find(|(word, _, _)| *word == fields.get("form"))
        .unwrap_or(delivery::FORMS[0]);
    let (rendered, render_fault) = match delivery::render(&visitor, &name, None, format).await {
        Ok(rendered) => (Some(rendered), String::new()),
        Err(status) if status.code() == Code::PermissionDenied => {
            (None, "Your token may not have bodies rendered: that needs the scope manage.".to_owned())
        }
        Err(status) => (None, sentence(status.message())),
    };
    Ok(page(&EventPage {
        shell: visitor.shell(format!("Event {id}"), "events", Some(account)),
        account,
        id,
        event: EventName::of(event.r#type),
        created: time(event.create_time),
        happened: time(event.occur_time),
        kept: kept(&event).map(|other| Kept {
            name: view::visible(&other.name),
            reasons: other.reasons.iter().map(|reason| view::visible(reason)).collect(),
        }),
        rows: listed.deliveries.iter().map(deliveries::Row::of).collect(),
        forms: delivery::FORMS.iter().map(|(known, title, _)| (*known, *title, *known == word)).collect(),
        rendered,
        render_fault,
    }))
}

/// The body in one form, byte for byte, as a file.
pub(super) async fn raw(visitor: Visitor, Path((account, id)): Path<(i64, String)>, fields: Fields) -> Shown {
    let (_, _, format) = delivery::FORMS
        .into_iter()
        .find(|(word, _, _)| *word == fields.get("form"))
        .unwrap_or(delivery::FORMS[0]);
    let rendered =
        delivery::render(&visitor, &format!("accounts/{account}/events/{id}"), None, format).await?;
    Ok(delivery::attachment("body.json.txt", rendered.body))
}
