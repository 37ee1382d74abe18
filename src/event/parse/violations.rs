//! The violations of a body, each with its path in the body.

use std::fmt;

use super::path::Path;
use crate::{
    domain::{
        field_violation::{FieldViolations, ViolationKind},
        ids::AccountId,
    },
    event::{FIELD_VIOLATIONS_MAX, catalogue},
};

/// The violations of one body, up to [`FIELD_VIOLATIONS_MAX`].
pub(super) struct BodyViolations {
    account: AccountId,
    violations: FieldViolations,
}

impl BodyViolations {
    /// None yet, for a body of this account.
    pub(super) fn new(account: AccountId) -> Self {
        Self { account, violations: FieldViolations::default() }
    }

    /// Reports that the value at `path` is invalid.
    pub(super) fn invalid(&mut self, path: &Path<'_>, description: impl fmt::Display) {
        self.push(ViolationKind::Invalid, path, description);
    }

    /// Reports that there must be a value at `path`.
    pub(super) fn required(&mut self, path: &Path<'_>, description: impl fmt::Display) {
        self.push(ViolationKind::Required, path, description);
    }

    /// Checks the id of an account at `path`; 0 means unset.
    pub(super) fn account(&mut self, number: i64, path: &Path<'_>) {
        let account = self.account;
        if number != 0 && number != account.get() {
            let description = format_args!("must be {account}, the account that the body is imported into");
            self.push(ViolationKind::AccountMismatch, path, description);
        }
    }

    /// `value`, or the violations if there are any.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, FieldViolations> {
        self.violations.into_result(value)
    }

    fn push(&mut self, kind: ViolationKind, path: &Path<'_>, description: impl fmt::Display) {
        if self.violations.iter().len() < FIELD_VIOLATIONS_MAX {
            self.violations.push(kind, path.to_string(), description);
        }
    }
}

/// The violations of a parsed event, with their paths in the body. The contract has fields, such as
/// `conversation`, whose keys are the body's own.
pub(super) fn in_body(violations: &FieldViolations, event: &str) -> FieldViolations {
    let mut in_body = FieldViolations::default();
    for violation in violations.iter() {
        in_body.push(violation.kind, path_in_body(&violation.field, event), &violation.description);
    }
    in_body
}

fn path_in_body(field: &str, event: &str) -> String {
    let flattened = catalogue::by_name(event).and_then(|descriptor| descriptor.record.flattened_field());
    let within = field.strip_prefix("event.").unwrap_or(field);
    let within = within.strip_prefix(event).and_then(|within| within.strip_prefix('.')).unwrap_or(within);
    let is_key = |(depth, part): &(usize, &str)| match *part {
        "extra" => false,
        part => *depth > 0 || Some(part) != flattened,
    };
    let parts = within.split('.').enumerate().filter(is_key);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_an_event_has_its_path_in_the_body() {
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
