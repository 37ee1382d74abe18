//! Chatwoot's own webhook JSON as events: what `PAYLOAD_FORMAT_CHATWOOT` writes, read again.
//!
//! Nothing is lost on the way: what was read is rendered in Chatwoot's form and compared with what came. A value that does
//! not come out again is a fault, and the whole is refused.

use serde_json::Value;

use self::fields::Fields;
use super::{event, fault::Faults, ids::AccountId, json, subscription::PayloadFormat};
use crate::proto::v1::{self, event::Payload};

mod fields;
mod lossless;
mod records;

/// Reads the body of one of Chatwoot's webhooks, of this account. The event has passed the [`check`](event::check).
///
/// # Errors
///
/// It is no JSON object, or none of the twelve events, or it has something that an event cannot say: each with its path.
pub fn read(body: &[u8], account: AccountId) -> Result<v1::Event, Faults> {
    let mut faults = Faults::default();
    let object = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => {
            faults.invalid("body", "must be a JSON object");
            return Err(faults);
        }
        Err(error) => {
            faults.invalid("body", format_args!("is not JSON: {error}"));
            return Err(faults);
        }
    };
    let payload = payload(Fields::new(object.clone(), String::new(), &mut faults));
    let mut event = v1::Event { payload, ..v1::Event::default() };
    faults.into_result(())?;
    event::check(&mut event, account, "event")?;

    let mut faults = Faults::default();
    let rendered = json::render(&event, PayloadFormat::Chatwoot);
    let rendered = serde_json::from_slice(&rendered).expect("what is rendered is JSON");
    lossless::compare(&Value::Object(object), &rendered, "", &mut faults);
    faults.into_result(event)
}

fn payload(mut fields: Fields<'_>) -> Option<Payload> {
    let event = fields.text("event");
    let changed_attributes = fields.changes("changed_attributes");
    Some(match event.as_str() {
        "conversation_created" => {
            Payload::ConversationCreated(v1::ConversationCreated { conversation: Some(fields.into_conversation()) })
        }
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
        "message_updated" => {
            Payload::MessageUpdated(v1::MessageUpdated { message: Some(fields.into_message()) })
        }
        "webwidget_triggered" => Payload::WebwidgetTriggered(v1::WebwidgetTriggered {
            id: fields.integer("id"),
            contact: fields.record("contact").map(Fields::into_contact),
            inbox: fields.record("inbox").map(Fields::into_inbox),
            account: fields.record("account").map(Fields::into_account),
            current_conversation: fields.record("current_conversation").map(Fields::into_conversation),
            source_id: fields.text("source_id"),
            event_info: fields.record("event_info").map(Fields::into_event_info),
        }),
        "contact_created" => {
            Payload::ContactCreated(v1::ContactCreated { contact: Some(fields.into_contact()) })
        }
        "contact_updated" => Payload::ContactUpdated(v1::ContactUpdated {
            contact: Some(fields.into_contact()),
            changed_attributes,
        }),
        "inbox_created" => Payload::InboxCreated(v1::InboxCreated {
            inbox: Some(v1::Inbox { id: fields.inbox_of_hours(), name: String::new() }),
            settings: fields.rest(),
        }),
        "inbox_updated" => Payload::InboxUpdated(v1::InboxUpdated {
            inbox: Some(v1::Inbox { id: fields.inbox_of_hours(), name: String::new() }),
            settings: fields.rest(),
            changed_attributes,
        }),
        "conversation_typing_on" => Payload::ConversationTypingOn(v1::ConversationTypingOn {
            user: fields.record("user").and_then(Fields::into_sender),
            conversation: fields.record("conversation").map(Fields::into_conversation),
            is_private: fields.boolean("is_private"),
        }),
        "conversation_typing_off" => Payload::ConversationTypingOff(v1::ConversationTypingOff {
            user: fields.record("user").and_then(Fields::into_sender),
            conversation: fields.record("conversation").map(Fields::into_conversation),
            is_private: fields.boolean("is_private"),
        }),
        _ => {
            fields.fault("event", "is none of the twelve events");
            return None;
        }
    })
}
