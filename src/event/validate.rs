//! Whether an event may be stored: every rule of the contract about a payload, and every fault at once.

use prost_types::Struct;

use self::{checker::Checker, path::Path};
use crate::{
    domain::{
        event_routing::{EventRouting, event_type},
        field_violation::FieldViolations,
        ids::AccountId,
    },
    proto::v1::{self, event::Payload},
};

mod checker;
mod path;
mod records;
mod reserved_keys;
mod routing;
mod values;

pub(super) use routing::order_key;

pub use self::{checker::FIELD_VIOLATIONS_MAX, records::NESTING_MAX, values::VALUE_NESTING_MAX};

/// Keys that settings of an inbox may not have, since they come out beside them.
const BESIDE_SETTINGS: [&str; 4] = ["event", "changed_attributes", "id", "name"];

/// Checks an event that is published to `account`, and completes it: what is output only is cleared, and a conversation
/// without an account id gets this account's, at every level.
///
/// `path` is where the event stands in the request, for example `event` or `requests[3].event`; it begins the path of
/// every fault. Errors with every field at fault, up to [`FIELD_VIOLATIONS_MAX`]; the event is half completed then.
pub fn check(event: &mut v1::Event, account: AccountId, path: &str) -> Result<EventRouting, FieldViolations> {
    event.name.clear();
    event.r#type = 0;
    event.create_time = None;

    let at = Path::Root(path);
    let mut checker = Checker::new(account);
    checker.time(event.occur_time.as_ref(), &at, "occur_time");
    match &mut event.payload {
        Some(payload) => checker.payload(payload, &at),
        None => checker.required(&at.field("payload")),
    }
    checker.into_result()?;

    let event_type = event_type(event).expect("the payload was just seen");
    let payload = event.payload.as_ref().expect("the payload was just seen");
    Ok(EventRouting {
        event_type,
        inbox_id: routing::inbox_id(payload),
        order_key: routing::order_key(payload),
    })
}

impl Checker {
    fn payload(&mut self, payload: &mut Payload, at: &Path<'_>) {
        match payload {
            Payload::ConversationCreated(e) => {
                self.top_conversation(&mut e.conversation, &at.field("conversation_created"));
            }
            Payload::ConversationUpdated(e) => {
                let at = &at.field("conversation_updated");
                self.top_conversation(&mut e.conversation, at);
                self.changes(&e.changed_attributes, at);
            }
            Payload::ConversationStatusChanged(e) => {
                let at = &at.field("conversation_status_changed");
                self.top_conversation(&mut e.conversation, at);
                self.changes(&e.changed_attributes, at);
            }
            Payload::MessageCreated(e) => self.top_message(&mut e.message, &at.field("message_created")),
            Payload::MessageUpdated(e) => {
                let at = &at.field("message_updated");
                self.top_message(&mut e.message, at);
                self.changes(&e.changed_attributes, at);
            }
            Payload::WebwidgetTriggered(e) => self.webwidget_triggered(e, &at.field("webwidget_triggered")),
            Payload::ContactCreated(e) => {
                self.required_contact(e.contact.as_ref(), &at.field("contact_created"));
            }
            Payload::ContactUpdated(e) => {
                let at = &at.field("contact_updated");
                self.required_contact(e.contact.as_ref(), at);
                self.changes(&e.changed_attributes, at);
            }
            Payload::InboxCreated(e) => {
                let at = &at.field("inbox_created");
                self.required_inbox(e.inbox.as_ref(), at);
                self.object(e.settings.as_ref(), &BESIDE_SETTINGS, &at.field("settings"));
            }
            Payload::InboxUpdated(e) => {
                let at = &at.field("inbox_updated");
                self.required_inbox(e.inbox.as_ref(), at);
                self.object(e.settings.as_ref(), &BESIDE_SETTINGS, &at.field("settings"));
                self.changes(&e.changed_attributes, at);
            }
            Payload::ConversationTypingOn(e) => {
                let at = &at.field("conversation_typing_on");
                self.typing(e.user.as_ref(), &mut e.conversation, e.extra.as_ref(), at);
            }
            Payload::ConversationTypingOff(e) => {
                let at = &at.field("conversation_typing_off");
                self.typing(e.user.as_ref(), &mut e.conversation, e.extra.as_ref(), at);
            }
        }
    }

    fn top_conversation(&mut self, conversation: &mut Option<v1::Conversation>, at: &Path<'_>) {
        let at = &at.field("conversation");
        match conversation {
            Some(conversation) => self.conversation(conversation, 1, at),
            None => self.required(at),
        }
    }

    fn top_message(&mut self, message: &mut Option<v1::Message>, at: &Path<'_>) {
        let at = &at.field("message");
        match message {
            Some(message) => self.message(message, 1, at),
            None => self.required(at),
        }
    }

    fn required_contact(&mut self, contact: Option<&v1::Contact>, at: &Path<'_>) {
        let at = &at.field("contact");
        match contact {
            Some(contact) => self.contact(contact, at),
            None => self.required(at),
        }
    }

    fn required_inbox(&mut self, inbox: Option<&v1::Inbox>, at: &Path<'_>) {
        let at = &at.field("inbox");
        match inbox {
            Some(inbox) => self.inbox(inbox, at),
            None => self.required(at),
        }
    }

    fn webwidget_triggered(&mut self, event: &mut v1::WebwidgetTriggered, at: &Path<'_>) {
        self.required_contact(event.contact.as_ref(), at);
        self.required_inbox(event.inbox.as_ref(), at);
        match &event.account {
            Some(account) => self.account(account, &at.field("account")),
            None => self.required(&at.field("account")),
        }
        if let Some(conversation) = &mut event.current_conversation {
            self.conversation(conversation, 1, &at.field("current_conversation"));
        }
        if let Some(info) = &event.event_info {
            let at = &at.field("event_info");
            self.browser_and_time(info.browser.as_ref(), info.initiated_at.as_ref(), at);
            self.object(info.extra.as_ref(), &reserved_keys::EVENT_INFO, &at.field("extra"));
        }
        self.object(event.extra.as_ref(), &reserved_keys::WEBWIDGET_TRIGGERED, &at.field("extra"));
    }

    fn typing(
        &mut self,
        user: Option<&v1::Sender>,
        conversation: &mut Option<v1::Conversation>,
        extra: Option<&Struct>,
        at: &Path<'_>,
    ) {
        match user {
            Some(user) => self.sender(user, &at.field("user")),
            None => self.required(&at.field("user")),
        }
        self.top_conversation(conversation, at);
        self.object(extra, &reserved_keys::TYPING, &at.field("extra"));
    }

    fn changes(&mut self, changes: &[v1::AttributeChange], at: &Path<'_>) {
        for (index, change) in changes.iter().enumerate() {
            let at = &at.item("changed_attributes", index);
            if change.name.is_empty() {
                self.required(&at.field("name"));
            }
            self.value(change.current_value.as_ref(), &at.field("current_value"));
            self.value(change.previous_value.as_ref(), &at.field("previous_value"));
        }
    }
}

#[cfg(test)]
mod tests;
