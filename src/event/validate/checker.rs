//! What every part of the check shares: the account, the faults so far, and the rules for plain fields.

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

/// Most faults that are collected of one event. A caller with more hears of these first.
pub const FIELD_VIOLATIONS_MAX: usize = 100;

const NANOS_MAX: i32 = 999_999_999;

/// Collects the faults of one event.
pub(super) struct Checker {
    account: AccountId,
    faults: FieldViolations,
}

impl Checker {
    /// A check of an event that is published to `account`.
    pub(super) fn new(account: AccountId) -> Self {
        Self { account, faults: FieldViolations::default() }
    }

    /// The faults, if there are any.
    pub(super) fn into_result(self) -> Result<(), FieldViolations> {
        self.faults.into_result(())
    }

    /// The account that the event is published to.
    pub(super) fn account_number(&self) -> i64 {
        self.account.get()
    }

    /// Notes that the field at `at` must be set.
    pub(super) fn required(&mut self, at: &Path<'_>) {
        self.fault(ViolationKind::Required, at, "is required");
    }

    /// Notes that the field at `at` breaks `rule`.
    pub(super) fn invalid(&mut self, at: &Path<'_>, rule: impl fmt::Display) {
        self.fault(ViolationKind::Invalid, at, rule);
    }

    fn fault(&mut self, kind: ViolationKind, at: &Path<'_>, rule: impl fmt::Display) {
        if self.faults.iter().len() < FIELD_VIOLATIONS_MAX {
            self.faults.push(kind, at.to_string(), rule);
        }
    }

    /// The required field `id` of the record at `at`.
    pub(super) fn id(&mut self, id: i64, at: &Path<'_>) {
        match id {
            0 => self.required(&at.field("id")),
            ..0 => self.invalid(&at.field("id"), "must be positive"),
            1.. => {}
        }
    }

    /// An account id that must be the one that the event is published to.
    pub(super) fn same_account(&mut self, number: i64, at: &Path<'_>) {
        if number != self.account.get() {
            let account = self.account;
            let rule = format_args!("must be {account}, the account that the event is published to");
            self.fault(ViolationKind::AccountMismatch, at, rule);
        }
    }

    /// The time `name` of the record at `at`.
    pub(super) fn time(&mut self, time: Option<&Timestamp>, at: &Path<'_>, name: &'static str) {
        let Some(time) = time else { return };
        if !(FIRST_SECOND..=LAST_SECOND).contains(&time.seconds) {
            self.invalid(&at.field(name), "must lie within the years 1 to 9999");
        }
        if !(0..=NANOS_MAX).contains(&time.nanos) {
            self.invalid(&at.field(name), format_args!("must have nanos from 0 to {NANOS_MAX}"));
        }
    }
}
