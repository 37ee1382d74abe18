//! Reads the fields of requests, and collects every violation under its path.
//!
//! Every name in a request is read here. This is the only place that checks whether the caller may name its
//! account.

use std::str::FromStr;

use prost_types::Timestamp;
use tonic::Request;
use uuid::Uuid;

use super::status::GrpcError;
use crate::{
    domain::{
        access::TokenId,
        field_violation::{FieldViolations, ViolationKind},
        ids::{
            AccountId, AccountScope, DeliveryName, EventId, EventName, IdError, NoticeSinkName,
            SubscriptionId, SubscriptionName, parse_account_name,
        },
        time::UnixMicros,
    },
    gateway::TimeRange,
    grpc::layers::auth::Grant,
    proto::v1::EventType,
};

/// The violations found so far. A reader returns `None` for an invalid field, or for an optional one that is
/// not set.
pub(in crate::grpc) struct Fields {
    pub(in crate::grpc) violations: FieldViolations,
    grant: Grant,
}

/// A name or id in a request.
pub(in crate::grpc) trait Name: FromStr<Err = IdError> {
    /// Its accounts; `None` if it names none, such as an id within another resource.
    fn accounts(&self) -> Option<AccountScope>;
}

impl Fields {
    /// A reader of a request's fields, with the grant of its caller.
    ///
    /// # Errors
    ///
    /// The caller's token has ended since the call began.
    pub(in crate::grpc) fn of<T>(request: &Request<T>) -> Result<Self, GrpcError> {
        Ok(Self::by(Grant::of(request)?))
    }

    /// A reader of fields from a caller with this grant.
    pub(in crate::grpc) fn by(grant: Grant) -> Self {
        Self { violations: FieldViolations::default(), grant }
    }

    /// The caller's grant.
    pub(in crate::grpc) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Whether the caller may name these accounts.
    pub(in crate::grpc) fn permit(&mut self, field: &str, accounts: AccountScope) -> bool {
        let permitted = self.grant.accounts().cover(accounts);
        if !permitted {
            if !self.violations.iter().any(|violation| violation.kind == ViolationKind::AccountDenied) {
                self.grant.count_denied();
            }
            self.violations.push(
                ViolationKind::AccountDenied,
                field,
                "is not of an account that the caller may use",
            );
        }
        permitted
    }

    /// A required name or id.
    pub(in crate::grpc) fn required<T: Name>(&mut self, field: &str, text: &str) -> Option<T> {
        let name = self.parse(field, text, str::parse::<T>)?;
        name.accounts().is_none_or(|accounts| self.permit(field, accounts)).then_some(name)
    }

    /// An optional name or id.
    pub(in crate::grpc) fn optional<T: Name>(&mut self, field: &str, text: &str) -> Option<T> {
        if text.is_empty() { None } else { self.required(field, text) }
    }

    /// A required `accounts/{account}`.
    pub(in crate::grpc) fn account(&mut self, field: &str, text: &str) -> Option<AccountId> {
        let account = self.parse(field, text, parse_account_name)?;
        self.permit(field, AccountScope::One(account)).then_some(account)
    }

    /// An optional UUID.
    pub(in crate::grpc) fn uuid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        if text.is_empty() {
            return None;
        }
        let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil());
        if uuid.is_none() {
            self.violations.invalid(field, "must be a UUID");
        }
        uuid
    }

    /// Numbers of an enum, except 0.
    pub(in crate::grpc) fn choices<W: TryFrom<i32>, T>(
        &mut self,
        field: &str,
        numbers: &[i32],
        choose: impl Fn(W) -> Option<T>,
    ) -> Vec<T> {
        let mut chosen = Vec::with_capacity(numbers.len().min(16));
        for (index, number) in numbers.iter().enumerate() {
            match W::try_from(*number).ok().and_then(&choose) {
                Some(choice) => chosen.push(choice),
                None => self.violations.invalid(format!("{field}[{index}]"), "is not a known value"),
            }
        }
        chosen
    }

    /// An optional event type.
    pub(in crate::grpc) fn event_type(&mut self, field: &str, number: i32) -> Option<EventType> {
        match EventType::try_from(number) {
            Ok(EventType::Unspecified) => None,
            Ok(known) => Some(known),
            Err(_) => {
                self.violations.invalid(field, "is not a known event type");
                None
            }
        }
    }

    /// `start_time` and `end_time`.
    pub(in crate::grpc) fn time_range(
        &mut self,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
    ) -> TimeRange {
        let range = TimeRange {
            start: start.and_then(|time| self.time("start_time", time)),
            end: end.and_then(|time| self.time("end_time", time)),
        };
        if let (Some(start), Some(end)) = (range.start, range.end)
            && end < start
        {
            self.violations.invalid("end_time", "must not be before start_time");
        }
        range
    }

    /// `value`, unless there are violations.
    pub(in crate::grpc) fn finish<T>(self, value: Option<T>) -> Result<T, GrpcError> {
        match value {
            Some(value) if self.violations.is_empty() => Ok(value),
            _ => Err(self.violations.into()),
        }
    }

    fn parse<T>(&mut self, field: &str, text: &str, parse: impl Fn(&str) -> Result<T, IdError>) -> Option<T> {
        if text.is_empty() {
            self.violations.required(field);
            return None;
        }
        parse(text).map_err(|rule| self.violations.invalid(field, rule)).ok()
    }

    /// A time, rounded up to a microsecond: stored times are whole ones, and a limit between two of them
    /// means the later one.
    pub(in crate::grpc) fn time(&mut self, field: &str, time: Timestamp) -> Option<UnixMicros> {
        /// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the range of `google.protobuf.Timestamp`.
        const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        if !SECONDS.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
            self.violations
                .invalid(field, "must be a time from year 1 to 9999, with nanos from 0 to 999,999,999");
            return None;
        }
        Some(UnixMicros(time.seconds * 1_000_000 + (i64::from(time.nanos) + 999) / 1000))
    }
}

impl Name for AccountScope {
    fn accounts(&self) -> Option<AccountScope> {
        Some(*self)
    }
}

impl Name for SubscriptionName {
    fn accounts(&self) -> Option<AccountScope> {
        Some(self.account.scope())
    }
}

impl Name for NoticeSinkName {
    fn accounts(&self) -> Option<AccountScope> {
        Some(self.0.account.scope())
    }
}

impl Name for EventName {
    fn accounts(&self) -> Option<AccountScope> {
        Some(AccountScope::One(self.account))
    }
}

impl Name for DeliveryName {
    fn accounts(&self) -> Option<AccountScope> {
        Some(self.subscription.account.scope())
    }
}

impl Name for SubscriptionId {
    fn accounts(&self) -> Option<AccountScope> {
        None
    }
}

impl Name for EventId {
    fn accounts(&self) -> Option<AccountScope> {
        None
    }
}

/// Access tokens belong to no account. The gateway decides which of them a caller sees.
impl Name for TokenId {
    fn accounts(&self) -> Option<AccountScope> {
        None
    }
}
