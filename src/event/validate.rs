//! The check of an event before it is stored: every rule of the contract about a payload, and every violation
//! at once.

use self::{checker::Checker, path::Path};
use super::{
    catalogue::{self, Parts, Record, Typing},
    other::{Outline, has_null_character},
};
use crate::{
    domain::{event_routing::EventRouting, field_violation::FieldViolations, ids::AccountId},
    proto::v1,
};

mod checker;
mod complete;
mod path;
mod records;
mod reserved_keys;
mod routing;
mod values;

pub(super) use routing::order_key;

pub use self::{checker::FIELD_VIOLATIONS_MAX, records::NESTING_MAX, values::VALUE_NESTING_MAX};

/// Checks an event that is published to `account`, and completes it: output-only fields are cleared, and
/// every conversation without an account id gets this account's, at every level.
///
/// `path` is the path of the event in the request, for example `event` or `requests[3].event`. It begins the
/// path of every violation. Errors with every violation, up to [`FIELD_VIOLATIONS_MAX`]; the event is
/// completed then as well.
pub fn check(event: &mut v1::Event, account: AccountId, path: &str) -> Result<EventRouting, FieldViolations> {
    event.name.clear();
    event.r#type = 0;
    event.create_time = None;
    if let Some(payload) = &mut event.payload {
        complete::payload(payload, account);
    }

    let at = Path::Root(path);
    let mut checker = Checker::new(account);
    checker.time(event.occur_time.as_ref(), &at, "occur_time");
    let parts = event.payload.as_ref().map(catalogue::parts);
    match &parts {
        Some(parts) => checker.payload(parts, &at),
        None => checker.required(&at.field("payload")),
    }
    checker.into_result()?;

    let parts = parts.expect("an event without a payload has a violation");
    Ok(EventRouting {
        event_type: parts.descriptor.event_type,
        inbox_id: routing::inbox_id(&parts.record),
        order_key: routing::order_key(&parts.record),
    })
}

impl Checker {
    fn payload(&mut self, parts: &Parts<'_>, at: &Path<'_>) {
        let at = &at.field(parts.descriptor.name);
        match &parts.record {
            Record::Conversation(conversation) => self.required_conversation(*conversation, at),
            Record::Message(message) => {
                let at = &at.field("message");
                match message {
                    Some(message) => self.message(message, 1, at),
                    None => self.required(at),
                }
            }
            Record::Contact(contact) => self.required_contact(*contact, at),
            Record::Inbox { inbox, settings } => {
                if let Some(inbox) = inbox {
                    self.inbox(inbox, &at.field("inbox"));
                }
                self.object(*settings, &reserved_keys::SETTINGS, &at.field("settings"));
            }
            Record::Typing(typing) => self.typing(typing, at),
            Record::Widget(event) => self.webwidget_triggered(event, at),
            Record::Other(other) => self.other(other, at),
        }
        self.changes(parts.changes, at);
    }

    fn required_conversation(&mut self, conversation: Option<&v1::Conversation>, at: &Path<'_>) {
        let at = &at.field("conversation");
        match conversation {
            Some(conversation) => self.conversation(conversation, 1, at),
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

    fn webwidget_triggered(&mut self, event: &v1::WebwidgetTriggered, at: &Path<'_>) {
        self.texts(at, [("source_id", &*event.source_id)]);
        self.required_contact(event.contact.as_ref(), at);
        self.required_inbox(event.inbox.as_ref(), at);
        match &event.account {
            Some(account) => self.account(account, &at.field("account")),
            None => self.required(&at.field("account")),
        }
        if let Some(conversation) = &event.current_conversation {
            self.conversation(conversation, 1, &at.field("current_conversation"));
        }
        if let Some(info) = &event.event_info {
            let at = &at.field("event_info");
            let texts = [
                ("referer", &*info.referer),
                ("widget_language", &info.widget_language),
                ("browser_language", &info.browser_language),
            ];
            self.texts(at, texts);
            self.browser_and_time(info.browser.as_ref(), info.initiated_at.as_ref(), at);
            self.object(info.extra.as_ref(), &reserved_keys::EVENT_INFO, &at.field("extra"));
        }
        self.object(event.extra.as_ref(), &reserved_keys::WEBWIDGET_TRIGGERED, &at.field("extra"));
    }

    fn typing(&mut self, typing: &Typing<'_>, at: &Path<'_>) {
        match typing.user {
            Some(user) => self.sender(user, &at.field("user")),
            None => self.required(&at.field("user")),
        }
        self.required_conversation(typing.conversation, at);
        self.object(typing.extra, &reserved_keys::TYPING, &at.field("extra"));
    }

    fn other(&mut self, other: &v1::OtherEvent, at: &Path<'_>) {
        let json = &at.field("json");
        if other.json.is_empty() {
            return self.required(json);
        }
        match Outline::read(&other.json) {
            Err(rule) => self.invalid(json, rule),
            Ok(outline) => {
                if outline.name != other.name {
                    self.invalid(&at.field("name"), "must be the text of \"event\" in json, or unset");
                }
                let account = self.published_to();
                for path in outline.other_accounts(account) {
                    self.other_account(&json.key(path));
                }
            }
        }
        if has_null_character(&other.json) {
            self.null_character(json);
        }
    }

    fn changes(&mut self, changes: &[v1::AttributeChange], at: &Path<'_>) {
        for (index, change) in changes.iter().enumerate() {
            let at = &at.item("changed_attributes", index);
            if change.name.is_empty() {
                self.required(&at.field("name"));
            }
            self.texts(at, [("name", &*change.name)]);
            self.value(change.current_value.as_ref(), &at.field("current_value"));
            self.value(change.previous_value.as_ref(), &at.field("previous_value"));
        }
    }
}

#[cfg(test)]
mod tests;
