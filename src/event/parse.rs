//! Chatwoot's own webhook JSON as events: what `PAYLOAD_FORMAT_CHATWOOT` writes, read again.
//!
//! Nothing is lost on the way: what was read is rendered in Chatwoot's form and compared with what came. A value that does
//! not come out again is a fault, and the whole is refused.

use serde_json::Value;

use self::{faults::Found, fields::Fields, path::Path};
use super::render;
use crate::{
    domain::{field_violation::FieldViolations, ids::AccountId, payload_format::PayloadFormat},
    event,
    proto::v1::{self, event::Payload},
};

mod faults;
mod fields;
mod parse;
mod path;
mod records;
mod roundtrip;

/// Reads the body of one of Chatwoot's webhooks, of this account. The event has passed the [`check`](event::check).
///
/// # Errors
///
/// It is no JSON object, or none of the twelve events, or of another account, or it has something that an event cannot say: each with
/// its path in the body, up to [`FIELD_VIOLATIONS_MAX`](event::FIELD_VIOLATIONS_MAX).
pub fn read(body: &[u8], account: AccountId) -> Result<v1::Event, FieldViolations> {
    let mut found = Found::new(account);
    let came = parse::parse(body).unwrap_or_else(|error| {
        found.invalid(&Path::Top, format_args!("is not JSON that can be read: {error}"));
        Value::Null
    });
    if !came.is_object() {
        found.invalid(&Path::Top, "must be a JSON object");
    }
    let Value::Object(object) = came.clone() else { return found.into_result(v1::Event::default()) };
    let payload = payload(Fields::new(object, &mut found));
    found.into_result(())?;
    let mut event = v1::Event { payload, ..v1::Event::default() };
    let name = came["event"].as_str().unwrap_or_default();
    event::check(&mut event, account, "event").map_err(|faults| faults::in_body(&faults, name))?;

    let mut found = Found::new(account);
    let goes = render::render(&event, PayloadFormat::Chatwoot);
    let goes = serde_json::from_slice(&goes).expect("what is rendered is JSON");
    roundtrip::compare(&came, &goes, &Path::Top, &mut found);
    found.into_result(event)
}

fn payload(mut fields: Fields<'_>) -> Option<Payload> {
    let event = fields.text("event");
    let changed_attributes = fields.changes("changed_attributes");
    Some(match event.as_str() {
        "conversation_created" => Payload::ConversationCreated(v1::ConversationCreated {
            conversation: Some(fields.into_conversation()),
        }),
        "conversation_updated" => Payload::ConversationUpdated(v1::ConversationUpdated {
            conversation: Some(fields.into_conversation()),
            changed_attributes,
        }),
        "conversation_status_changed" => Payload::ConversationStatusChanged(v1::ConversationStatusChanged {
            conversation: Some(fields.into_conversation()),
            changed_attributes,
        }),
        "message_created" => {
            Payload::MessageCreated(v1::MessageCreated { message: Some(fields.into_message()) })
        }
        "message_updated" => Payload::MessageUpdated(v1::MessageUpdated {
            message: Some(fields.into_message()),
            changed_attributes,
        }),
        "webwidget_triggered" => Payload::WebwidgetTriggered(v1::WebwidgetTriggered {
            id: fields.integer("id"),
            contact: fields.record("contact").map(Fields::into_contact),
            inbox: fields.record("inbox").map(Fields::into_inbox),
            account: fields.record("account").map(Fields::into_account),
            current_conversation: fields.record("current_conversation").map(Fields::into_conversation),
            source_id: fields.text("source_id"),
            event_info: fields.record("event_info").map(Fields::into_event_info),
            extra: fields.rest(),
        }),
        "contact_created" => {
            Payload::ContactCreated(v1::ContactCreated { contact: Some(fields.into_contact()) })
        }
        "contact_updated" => Payload::ContactUpdated(v1::ContactUpdated {
            contact: Some(fields.into_contact()),
            changed_attributes,
        }),
        "inbox_created" => Payload::InboxCreated(v1::InboxCreated {
            inbox: fields.inbox_of_settings(),
            settings: fields.rest(),
        }),
        "inbox_updated" => Payload::InboxUpdated(v1::InboxUpdated {
            inbox: fields.inbox_of_settings(),
            settings: fields.rest(),
            changed_attributes,
        }),
        "conversation_typing_on" => Payload::ConversationTypingOn(v1::ConversationTypingOn {
            user: fields.record("user").and_then(Fields::into_sender),
            conversation: fields.record("conversation").map(Fields::into_conversation),
            is_private: fields.boolean("is_private"),
            extra: fields.rest(),
        }),
        "conversation_typing_off" => Payload::ConversationTypingOff(v1::ConversationTypingOff {
            user: fields.record("user").and_then(Fields::into_sender),
            conversation: fields.record("conversation").map(Fields::into_conversation),
            is_private: fields.boolean("is_private"),
            extra: fields.rest(),
        }),
        _ => {
            fields.invalid("event", "is none of the twelve events");
            return None;
        }
    })
}

#[cfg(test)]
mod tests;
