//! The state of a check: the account, the violations so far, and the rules for plain fields.

use std::fmt;

use prost_types::Timestamp;

use super::path::Path;
use crate::{
    domain::{
        field_violation::{FieldViolations, ViolationKind},
        ids::AccountId,
    },
    event::render::{FIRST_SECOND, LAST_SECOND},
};

/// Most violations that are reported of one event; a caller with more sees these first.
pub const FIELD_VIOLATIONS_MAX: usize = 100;

const NANOS_MAX: i32 = 999_999_999;

/// The rule for texts. Of the control characters this one is no text to PostgreSQL, among others: a receiver that
/// stores what it gets would refuse the event for ever.
pub(super) const NULL_CHARACTER: &str =
    "must not contain the character U+0000: many receivers cannot store it";

/// Whether a text contains U+0000.
pub(super) fn has_null(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

/// Collects the violations of one event.
pub(super) struct Checker {
    account: AccountId,
    violations: FieldViolations,
}

impl Checker {
    /// For an event that is published to `account`.
    pub(super) fn new(account: AccountId) -> Self {
        Self { account, violations: FieldViolations::default() }
    }

    /// Errors with the violations if there are any.
    pub(super) fn into_result(self) -> Result<(), FieldViolations> {
        self.violations.into_result(())
    }

    /// Reports that the field at `at` must be set.
    pub(super) fn required(&mut self, at: &Path<'_>) {
        self.violation(ViolationKind::Required, at, "is required");
    }

    /// Reports that the field at `at` is invalid.
    pub(super) fn invalid(&mut self, at: &Path<'_>, description: impl fmt::Display) {
        self.violation(ViolationKind::Invalid, at, description);
    }

    fn violation(&mut self, kind: ViolationKind, at: &Path<'_>, description: impl fmt::Display) {
        if self.violations.iter().len() < FIELD_VIOLATIONS_MAX {
            self.violations.push(kind, at.to_string(), description);
        }
    }

    /// Checks texts of the record at `at`, each with the name of its field.
    pub(super) fn texts<'t>(
        &mut self,
        at: &Path<'_>,
        texts: impl IntoIterator<Item = (&'static str, &'t str)>,
    ) {
        for (name, _) in texts.into_iter().filter(|(_, text)| has_null(text)) {
            self.null_character(&at.field(name));
        }
    }

    /// Reports that the text at `at` contains U+0000.
    pub(super) fn null_character(&mut self, at: &Path<'_>) {
        self.invalid(at, NULL_CHARACTER);
    }

    /// Checks the required field `id` of the record at `at`.
    pub(super) fn id(&mut self, id: i64, at: &Path<'_>) {
        match id {
            0 => self.required(&at.field("id")),
            ..0 => self.invalid(&at.field("id"), "must be positive"),
            1.. => {}
        }
    }

    /// Checks an account id: it must be the one that the event is published to.
    pub(super) fn same_account(&mut self, number: i64, at: &Path<'_>) {
        if number != self.account.get() {
            self.other_account(at);
        }
    }

    /// Reports that the account at `at` is not the one that the event is published to.
    pub(super) fn other_account(&mut self, at: &Path<'_>) {
        let account = self.account;
        let description = format_args!("must be {account}, the account that the event is published to");
        self.violation(ViolationKind::AccountMismatch, at, description);
    }

    /// The account that the event is published to.
    pub(super) fn published_to(&self) -> AccountId {
        self.account
    }

    /// Checks the time `name` of the record at `at`.
    pub(super) fn time(&mut self, time: Option<&Timestamp>, at: &Path<'_>, name: &'static str) {
        let Some(time) = time else { return };
        if !(FIRST_SECOND..=LAST_SECOND).contains(&time.seconds) {
            self.invalid(&at.field(name), "must be in the years 1 to 9999");
        }
        if !(0..=NANOS_MAX).contains(&time.nanos) {
            self.invalid(&at.field(name), format_args!("must have nanos from 0 to {NANOS_MAX}"));
        }
    }
}
