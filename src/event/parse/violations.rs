//! The violations of a body, each with its path in the body.

use std::fmt;

use super::path::Path;
use crate::{
    domain::{
        field_violation::{FieldViolations, ViolationKind},
        ids::AccountId,
        payload_format::PayloadFormat,
    },
    event::FIELD_VIOLATIONS_MAX,
};

/// The violations of one body, up to [`FIELD_VIOLATIONS_MAX`].
pub(super) struct BodyViolations {
    /// The form that the body is read in.
    pub(super) form: PayloadFormat,
    account: AccountId,
    violations: FieldViolations,
}

impl BodyViolations {
    /// None yet, for a body of this form and account.
    pub(super) fn new(form: PayloadFormat, account: AccountId) -> Self {
        Self { form, account, violations: FieldViolations::default() }
    }

    /// Reports that the value at `path` is invalid.
    pub(super) fn invalid(&mut self, path: &Path<'_>, description: impl fmt::Display) {
        self.push(ViolationKind::Invalid, path, description);
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
