//! Violations of a request, field by field: `google.rpc.BadRequest` as values.

use std::fmt;

/// The kind of a violation. The stable `reason` of `google.rpc.ErrorInfo` is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// A required field is not set. `FIELD_REQUIRED`
    Required,
    /// The value of a field is not allowed. `FIELD_INVALID`
    Invalid,
    /// An account id differs from the parent's. `ACCOUNT_MISMATCH`
    AccountMismatch,
    /// The field names an account that the caller has no access to. `ACCOUNT_DENIED`
    AccountDenied,
}

/// One invalid field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path from the request, for example `event.message_created.message.id`.
    pub field: String,
    /// Why it is invalid, without the name of the field.
    pub description: String,
    /// The kind of the violation.
    pub kind: ViolationKind,
}

/// Every violation of a request, so that a caller sees all of them at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldViolations(Vec<FieldViolation>);

impl FieldViolations {
    /// Adds that `field` must be set.
    pub fn required(&mut self, field: impl Into<String>) {
        self.push(ViolationKind::Required, field, "is required");
    }

    /// Adds that the value of `field` is not allowed.
    pub fn invalid(&mut self, field: impl Into<String>, description: impl fmt::Display) {
        self.push(ViolationKind::Invalid, field, description);
    }

    /// Adds a violation of any kind.
    pub fn push(&mut self, kind: ViolationKind, field: impl Into<String>, description: impl fmt::Display) {
        self.0.push(FieldViolation { field: field.into(), description: description.to_string(), kind });
    }

    /// Adds the violations of a part of the request.
    pub fn extend(&mut self, others: FieldViolations) {
        self.0.extend(others.0);
    }

    /// Whether there are no violations.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The violations in the order in which they were found.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &FieldViolation> {
        self.0.iter()
    }

    /// `value`, or the violations if there are any.
    pub fn into_result<T>(self, value: T) -> Result<T, FieldViolations> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}
