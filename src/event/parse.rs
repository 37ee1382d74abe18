//! Parses webhook JSON into events, in each of the payload formats: the reverse of [`render`].
//!
//! No value is lost: the event is rendered in the form of the body and compared with the input. A value that does
//! not come out again is a violation, and the whole body is refused; [`other`](super::other) can keep one of
//! Chatwoot's own.

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
mod sample;
mod violations;

/// The forms that [`read_any`] tries. Chatwoot's comes first, because it has the most fields.
const FORMS: [PayloadFormat; PayloadFormat::COUNT] =
    [PayloadFormat::Chatwoot, PayloadFormat::Documented, PayloadFormat::Sample];

/// Parses the body of a webhook that Chatwoot sent: [`read_form`] of [`PayloadFormat::Chatwoot`].
///
/// # Errors
///
/// Those of [`read_form`].
pub fn read(body: &[u8], account: AccountId) -> Result<v1::Event, FieldViolations> {
    read_form(PayloadFormat::Chatwoot, body, account)
}

/// Parses a body of this form and account. The event has passed the [`check`](event::check). A missing key is an
/// unset field.
///
/// # Errors
///
/// The body is not a JSON object, has an unknown event name, belongs to another account, or has a value that
/// an event cannot represent. Every violation has its path in the body; there are up to
/// [`FIELD_VIOLATIONS_MAX`](event::FIELD_VIOLATIONS_MAX).
pub fn read_form(form: PayloadFormat, body: &[u8], account: AccountId) -> Result<v1::Event, FieldViolations> {
    let mut violations = BodyViolations::new(form, account);
    let input = bounded_json::parse(body, &mut violations).unwrap_or_else(|error| {
        let hint = if is_at_comment(body, &error) { ". JSON has no comments: remove them" } else { "" };
        violations.invalid(&Path::Top, format_args!("is not valid JSON: {error}{hint}"));
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
    event::check(&mut event, account, "event")
        .map_err(|checked| body_paths::in_body(&checked, name, form))?;

    let mut violations = BodyViolations::new(form, account);
    let output = render::render(&event, form);
    let output = serde_json::from_slice(&output).expect("a rendered body is JSON");
    roundtrip::compare(&input, &output, &Path::Top, &mut violations);
    violations.into_result(event)
}

/// Parses a body in the first form that represents it without loss, in the order Chatwoot, documented, sample. Returns that form as well.
///
/// # Errors
///
/// No form does: the violations in the form with the fewest of them.
pub fn read_any(body: &[u8], account: AccountId) -> Result<(PayloadFormat, v1::Event), FieldViolations> {
    let mut fewest: Option<FieldViolations> = None;
    for form in FORMS {
        match read_form(form, body, account) {
            Ok(event) => return Ok((form, event)),
            Err(violations) => {
                let count = |violations: &FieldViolations| violations.iter().len();
                if fewest.as_ref().is_none_or(|fewest| count(&violations) < count(fewest)) {
                    fewest = Some(violations);
                }
            }
        }
    }
    Err(fewest.expect("there are forms"))
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

/// Whether the line of an error has a comment, as the examples of the documentation do.
fn is_at_comment(body: &[u8], error: &serde_json::Error) -> bool {
    let line = error.line().checked_sub(1).and_then(|line| body.split(|byte| *byte == b'\n').nth(line));
    line.is_some_and(|line| line.windows(3).any(|part| part == b" //") || line.starts_with(b"//"))
}

#[cfg(test)]
mod tests;
