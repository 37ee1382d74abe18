//! Checks requests to publish: one event, or a batch.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    domain::{
        event_routing::EventAddress,
        field_violation::{FieldViolations, ViolationKind},
        ids::AccountId,
    },
    event::{FIELD_VIOLATIONS_MAX, dropped::DROPPED_FIELDS_MAX},
    gateway::{CheckedEvent, Gateway},
    grpc::{layers::auth::Grant, wire::request_fields::Fields},
    proto::v1,
};

/// Most requests of one batch, from the contract (`BatchPublishEventsRequest.requests`).
const BATCH_REQUESTS_MAX: usize = 1000;

/// Checks a request to publish one event. Its result has warnings of up to `warnings_max` fields for each form, unless
/// the request says otherwise. `prefix` is its path in the call, `batch` the parent of its batch, if that has one.
pub(super) fn check_publish(
    gateway: &Gateway,
    grant: &Grant,
    request: v1::PublishEventRequest,
    batch: Option<AccountId>,
    warnings_max: usize,
    prefix: &str,
) -> Result<CheckedEvent, FieldViolations> {
    let mut fields = Fields::by(grant.clone());
    let warnings_max = match request.include_warnings {
        Some(true) => DROPPED_FIELDS_MAX,
        Some(false) => 0,
        None => warnings_max,
    };
    // Most calls publish one event, whose paths have no prefix.
    let path = |field: &'static str| match prefix {
        "" => Cow::Borrowed(field),
        prefix => Cow::Owned(format!("{prefix}{field}")),
    };
    let parent = path("parent");
    let account = match batch {
        Some(batch) if request.parent.is_empty() => Some(batch),
        _ => fields.account(&parent, &request.parent),
    };
    if let (Some(account), Some(batch)) = (account, batch)
        && account != batch
    {
        fields.violations.push(ViolationKind::AccountMismatch, parent, "must be equal to the batch's parent");
    }
    let id = fields.optional(&path("event_id"), &request.event_id);
    let event_path = path("event");
    let checked = match (account, request.event) {
        (_, None) => {
            fields.violations.required(event_path);
            None
        }
        (Some(account), Some(event)) => gateway
            .check_event(EventAddress { account, id }, event, &event_path)
            .map_err(|violations| fields.violations.extend(violations))
            .ok(),
        (None, Some(event)) => {
            // Checks the event with a made-up account, to report all other violations together with the
            // parent's.
            let account = AccountId::new(1).expect("one is positive");
            let address = EventAddress { account, id: None };
            if let Err(violations) = gateway.check_event(address, event, &event_path) {
                for other in violations.iter().filter(|other| other.kind != ViolationKind::AccountMismatch) {
                    fields.violations.push(other.kind, &other.field, &other.description);
                }
            }
            None
        }
    };
    match checked {
        Some(checked) if fields.violations.is_empty() => Ok(checked.with_warnings(warnings_max)),
        _ => Err(fields.violations),
    }
}

/// Checks a batch. Also returns its `validate_only`.
pub(super) fn check_batch(
    gateway: &Gateway,
    grant: &Grant,
    request: v1::BatchPublishEventsRequest,
) -> Result<(Vec<CheckedEvent>, bool), FieldViolations> {
    let mut fields = Fields::by(grant.clone());
    let batch = match request.parent.as_str() {
        "" => None,
        parent => fields.account("parent", parent),
    };
    let count = request.requests.len();
    if count == 0 {
        fields.violations.required("requests");
    } else if count > BATCH_REQUESTS_MAX {
        fields.violations.invalid("requests", format_args!("must be at most {BATCH_REQUESTS_MAX}"));
    }
    let mut violations = fields.violations;
    if !violations.is_empty() {
        return Err(violations);
    }
    let validate_only = request.requests[0].validate_only;
    let mut events: Vec<CheckedEvent> = Vec::with_capacity(count);
    let mut first_with = HashMap::new();
    for (index, request) in request.requests.into_iter().enumerate() {
        let prefix = format!("requests[{index}].");
        if request.validate_only != validate_only {
            violations
                .invalid(format!("{prefix}validate_only"), "must be the same in all requests of a batch");
        }
        let event = match check_publish(gateway, grant, request, batch, 0, &prefix) {
            Ok(event) => event,
            Err(found) => {
                violations.extend(found);
                if violations.iter().len() >= FIELD_VIOLATIONS_MAX {
                    break;
                }
                continue;
            }
        };
        let EventAddress { account, id } = event.address().clone();
        if violations.is_empty() && id.is_some() {
            // While there are no violations, an event's position in `events` is its index in the batch.
            let first = *first_with.entry((account, id)).or_insert(index);
            if first != index && !events[first].is_same_event(&event) {
                let rule = format_args!("is that of another event, requests[{first}]");
                violations.invalid(format!("{prefix}event_id"), rule);
            }
        }
        events.push(event);
    }
    violations.into_result((events, validate_only))
}
