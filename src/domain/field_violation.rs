//! What is wrong with a request, field by field.

use std::fmt;

/// Why a field is at fault. The stable `reason` of `google.rpc.ErrorInfo` is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// A field that must be set is not. `FIELD_REQUIRED`
    Required,
    /// A field has a value that its rule does not allow. `FIELD_INVALID`
    Invalid,
    /// An account id differs from the parent's. `ACCOUNT_MISMATCH`
    AccountMismatch,
    /// It names an account that the caller may not name. `ACCOUNT_DENIED`
    AccountDenied,
}

/// One field at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path from the request, for example `event.message_created.message.id`.
    pub field: String,
    /// The rule that it breaks, without naming the field again.
    pub rule: String,
    /// What sort of fault it is.
    pub kind: ViolationKind,
}

/// Every field of a request that is at fault, collected so that a caller hears of all of them at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldViolations(Vec<FieldViolation>);

impl FieldViolations {
    /// Notes that `field` must be set.
    pub fn required(&mut self, field: impl Into<String>) {
        self.push(ViolationKind::Required, field, "is required");
    }

    /// Notes that `field` breaks `rule`.
    pub fn invalid(&mut self, field: impl Into<String>, rule: impl fmt::Display) {
        self.push(ViolationKind::Invalid, field, rule);
    }

    /// Notes a fault of any kind.
    pub fn push(&mut self, kind: ViolationKind, field: impl Into<String>, rule: impl fmt::Display) {
        self.0.push(FieldViolation { field: field.into(), rule: rule.to_string(), kind });
    }

    /// Takes over the faults of a part.
    pub fn extend(&mut self, others: FieldViolations) {
        self.0.extend(others.0);
    }

    /// Whether nothing is at fault.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The faults in the order in which they were found.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &FieldViolation> {
        self.0.iter()
    }

    /// `value` if nothing is at fault, else the faults.
    pub fn into_result<T>(self, value: T) -> Result<T, FieldViolations> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}
