//! What is wrong with a body, each with its path in the body.

use std::fmt;

use super::path::Path;
use crate::{
    domain::{
        field_violation::{FieldViolations, ViolationKind},
        ids::AccountId,
    },
    event::FIELD_VIOLATIONS_MAX,
};

/// The faults of one body, up to [`FIELD_VIOLATIONS_MAX`].
pub(super) struct Found {
    account: AccountId,
    faults: FieldViolations,
}

impl Found {
    /// Nothing yet, of a body of this account.
    pub(super) fn new(account: AccountId) -> Self {
        Self { account, faults: FieldViolations::default() }
    }

    /// Notes that the value at `path` breaks `rule`.
    pub(super) fn invalid(&mut self, path: &Path<'_>, rule: impl fmt::Display) {
        self.push(ViolationKind::Invalid, path, rule);
    }

    /// Notes that there must be a value at `path`.
    pub(super) fn required(&mut self, path: &Path<'_>, rule: impl fmt::Display) {
        self.push(ViolationKind::Required, path, rule);
    }

    /// Looks at an account's number, which is at `path`; 0 says none.
    pub(super) fn account(&mut self, number: i64, path: &Path<'_>) {
        let account = self.account;
        if number != 0 && number != account.get() {
            let rule = format_args!("must be {account}, the account that the body is read for");
            self.push(ViolationKind::AccountMismatch, path, rule);
        }
    }

    /// `value` if nothing was found, else the faults.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, FieldViolations> {
        self.faults.into_result(value)
    }

    fn push(&mut self, kind: ViolationKind, path: &Path<'_>, rule: impl fmt::Display) {
        if self.faults.iter().len() < FIELD_VIOLATIONS_MAX {
            self.faults.push(kind, path.to_string(), rule);
        }
    }
}

/// The faults of the event that was read, with their places in the body: where the contract has a field between a record and its
/// keys, the body has none.
pub(super) fn in_body(faults: &FieldViolations, event: &str) -> FieldViolations {
    let mut in_body = FieldViolations::default();
    for fault in faults.iter() {
        in_body.push(fault.kind, path_in_body(&fault.field, event), &fault.description);
    }
    in_body
}

fn path_in_body(field: &str, event: &str) -> String {
    let within = field.strip_prefix("event.").unwrap_or(field);
    let within = within.strip_prefix(event).and_then(|within| within.strip_prefix('.')).unwrap_or(within);
    let parts = within.split('.').enumerate().filter(|(place, part)| match *part {
        "conversation" | "message" | "contact" => *place > 0 || !is_record_of(part, event),
        "settings" => *place > 0,
        "extra" => false,
        _ => true,
    });
    let mut path: Vec<&str> = Vec::new();
    for (_, part) in parts {
        let is_sender = matches!(path.last(), Some(&("sender" | "user")));
        match part {
            "contact" | "user" | "agent_bot" | "captain_assistant" if is_sender => {}
            "assignee_agent_bot" => path.push("assignee"),
            "conversation_told" => path.push("conversation"),
            _ => path.push(part),
        }
    }
    path.join(".")
}

/// Whether the keys of this record are the body's own.
fn is_record_of(record: &str, event: &str) -> bool {
    event.starts_with(record) && !event.starts_with("conversation_typing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_an_event_has_its_place_in_the_body() {
        for (event, field, path) in [
            ("message_created", "event.message_created.message.id", "id"),
            ("message_created", "event.message_created.message.sender.contact.id", "sender.id"),
            ("message_updated", "event.message_updated.message.conversation.id", "conversation.id"),
            (
                "contact_updated",
                "event.contact_updated.changed_attributes[0].name",
                "changed_attributes[0].name",
            ),
            (
                "conversation_created",
                "event.conversation_created.conversation.meta.assignee_agent_bot.id",
                "meta.assignee.id",
            ),
            (
                "conversation_created",
                "event.conversation_created.conversation.messages[0].extra.a",
                "messages[0].a",
            ),
            ("conversation_typing_on", "event.conversation_typing_on.conversation.id", "conversation.id"),
            ("conversation_typing_off", "event.conversation_typing_off.user.contact.id", "user.id"),
            ("webwidget_triggered", "event.webwidget_triggered.contact", "contact"),
            ("inbox_created", "event.inbox_created.settings.id", "id"),
        ] {
            assert_eq!(path_in_body(field, event), path, "{field}");
        }
    }
}
