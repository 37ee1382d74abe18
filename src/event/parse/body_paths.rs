//! Paths of an event's fields in the body that the event was parsed from.

use crate::{domain::field_violation::FieldViolations, event::catalogue};

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
