//! Paths of an event's fields in the body that the event was parsed from.

use crate::{
    domain::{field_violation::FieldViolations, payload_format::PayloadFormat},
    event::catalogue::{self, RecordKind},
};

/// The violations of a parsed event, with their paths in the body. The contract has fields, such as
/// `conversation`, whose keys are the body's own.
pub(super) fn in_body(violations: &FieldViolations, event: &str, form: PayloadFormat) -> FieldViolations {
    let mut in_body = FieldViolations::default();
    for violation in violations.iter() {
        let path = path_in_body(&violation.field, event, form);
        // The sample has the contact once; an event may have it as the author as well.
        if in_body.iter().all(|known| known.field != path || known.description != violation.description) {
            in_body.push(violation.kind, path, &violation.description);
        }
    }
    in_body
}

fn path_in_body(field: &str, event: &str, form: PayloadFormat) -> String {
    let record = catalogue::by_name(event).map(|descriptor| descriptor.record);
    let flattened = record.and_then(RecordKind::flattened_field);
    // As documented, the keys of the inbox are the body's own as well.
    let inbox = (record == Some(RecordKind::Inbox) && form != PayloadFormat::Chatwoot).then_some("inbox");
    let within = field.strip_prefix("event.").unwrap_or(field);
    let within = within.strip_prefix(event).and_then(|within| within.strip_prefix('.')).unwrap_or(within);
    let is_key = |(depth, part): &(usize, &str)| match *part {
        "extra" => false,
        part => *depth > 0 || Some(part) != flattened && Some(part) != inbox,
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
    let path = path.join(".");
    let is_sample = form == PayloadFormat::Sample && record == Some(RecordKind::Message);
    if is_sample { sample_path(field, path) } else { path }
}

/// The path in the sample form of a field whose path is `documented` in the documented one.
fn sample_path(field: &str, documented: String) -> String {
    let is_contact = field.contains(".message.sender.contact");
    for (record, key, applies) in [
        ("conversation.meta.sender", "contact", true),
        ("sender", "contact", is_contact),
        ("conversation.id", "conversation.display_id", true),
        (INITIATED_AT, "conversation.additional_attributes.initiated_at", true),
    ] {
        if let Some(rest) = documented.strip_prefix(record).filter(|_| applies) {
            return format!("{key}{rest}");
        }
    }
    documented
}

/// A string in the sample form.
const INITIATED_AT: &str = "conversation.additional_attributes.initiated_at.timestamp";

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
            assert_eq!(path_in_body(field, event, PayloadFormat::Chatwoot), path, "{field}");
        }
    }

    #[test]
    fn other_forms_have_keys_of_their_own() {
        for (form, event, field, path) in [
            (PayloadFormat::Documented, "inbox_created", "event.inbox_created.inbox.id", "id"),
            (PayloadFormat::Documented, "inbox_created", "event.inbox_created.settings.a", "a"),
            (PayloadFormat::Sample, "inbox_created", "event.inbox_created.inbox.id", "id"),
            (
                PayloadFormat::Documented,
                "message_created",
                "event.message_created.message.inbox.id",
                "inbox.id",
            ),
            (
                PayloadFormat::Sample,
                "message_created",
                "event.message_created.message.sender.user.id",
                "sender.id",
            ),
            (
                PayloadFormat::Sample,
                "message_created",
                "event.message_created.message.sender.contact.id",
                "contact.id",
            ),
            (
                PayloadFormat::Sample,
                "message_created",
                "event.message_created.message.conversation.meta.sender.id",
                "contact.id",
            ),
            (
                PayloadFormat::Sample,
                "message_created",
                "event.message_created.message.conversation.id",
                "conversation.display_id",
            ),
        ] {
            assert_eq!(path_in_body(field, event, form), path, "{field}");
        }
    }
}
