//! Parses Chatwoot's own webhook JSON into events: the reverse of `PAYLOAD_FORMAT_CHATWOOT`.
//!
//! No value is lost: the event is rendered in Chatwoot's form and compared with the input. A value that does
//! not come out again is a violation, and the whole body is refused; [`other`](super::other) can keep it.

use serde_json::Value;

use self::{fields::Fields, path::Path, violations::BodyViolations};
use super::{catalogue, render};
use crate::{
    domain::{field_violation::FieldViolations, ids::AccountId, payload_format::PayloadFormat},
    event,
    proto::v1::{self, event::Payload},
};

mod body_paths;
mod bounded_json;
pub(super) mod fields;
mod numbers;
mod path;
mod records;
mod roundtrip;
mod violations;

/// Parses the body of a webhook of this account. The event has passed the [`check`](event::check).
///
/// # Errors
///
/// The body is not a JSON object, has an unknown event name, belongs to another account, or has a value that
/// an event cannot represent. Every violation has its path in the body; there are up to
/// [`FIELD_VIOLATIONS_MAX`](event::FIELD_VIOLATIONS_MAX).
pub fn read(body: &[u8], account: AccountId) -> Result<v1::Event, FieldViolations> {
    let mut violations = BodyViolations::new(account);
    let input = bounded_json::parse(body, &mut violations).unwrap_or_else(|error| {
        violations.invalid(&Path::Top, format_args!("is not valid JSON: {error}"));
        Value::Null
    });
    if !input.is_object() {
        violations.invalid(&Path::Top, "must be a JSON object");
    }
    let Value::Object(object) = input.clone() else { return violations.into_result(v1::Event::default()) };
    let payload = payload(Fields::new(object, &mut violations));
    violations.into_result(())?;
    let mut event = v1::Event { payload, ..v1::Event::default() };
    let name = input["event"].as_str().unwrap_or_default();
    event::check(&mut event, account, "event").map_err(|checked| body_paths::in_body(&checked, name))?;

    let mut violations = BodyViolations::new(account);
    let output = render::render(&event, PayloadFormat::Chatwoot);
    let output = serde_json::from_slice(&output).expect("a rendered body is JSON");
    roundtrip::compare(&input, &output, &Path::Top, &mut violations);
    violations.into_result(event)
}

fn payload(mut fields: Fields<'_>) -> Option<Payload> {
    let name = fields.text("event");
    let changed_attributes = fields.changes("changed_attributes");
    match catalogue::by_name(&name) {
        Some(descriptor) => Some((descriptor.parse)(fields, changed_attributes)),
        None => {
            fields.invalid("event", "is not a known event name");
            None
        }
    }
}

#[cfg(test)]
mod tests;
