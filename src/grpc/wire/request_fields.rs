//! Reads the fields of requests, noting every fault under its path.
//!
//! Every name in a request is read here, and here alone it is seen to that its account is one that the caller may name.

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
            AccountId, AccountScope, DeliveryName, EventId, EventName, IdError, SubscriptionId,
            SubscriptionName, parse_account_name,
        },
        time::UnixMicros,
    },
    gateway::TimeRange,
    grpc::layers::auth::Grant,
    proto::v1::EventType,
};

/// The faults found so far. A reader returns `None` for a field at fault, or for one that is optional and not set.
pub(crate) struct Fields {
    pub(crate) faults: FieldViolations,
    grant: Grant,
}

/// A name or id in a request.
pub(crate) trait Name: FromStr<Err = IdError> {
    /// The accounts that it is of; `None` if it has none, as what stands within something else.
    fn accounts(&self) -> Option<AccountScope>;
}

impl Fields {
    /// For the fields of a request, by the caller that makes it.
    ///
    /// # Errors
    ///
    /// The caller's token has ended since the call began.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, GrpcError> {
        Ok(Self::by(Grant::of(request)?))
    }

    /// For fields that a caller with this grant fills in.
    pub(crate) fn by(grant: Grant) -> Self {
        Self { faults: FieldViolations::default(), grant }
    }

    /// What the caller may do.
    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Whether the caller may name these accounts.
    pub(crate) fn permit(&mut self, field: &str, accounts: AccountScope) -> bool {
        let permitted = self.grant.accounts().cover(accounts);
        if !permitted {
            if !self.faults.iter().any(|fault| fault.kind == ViolationKind::AccountDenied) {
                self.grant.count_denied();
            }
            self.faults.push(
                ViolationKind::AccountDenied,
                field,
                "is not of an account that the access token is for",
            );
        }
        permitted
    }

    /// A name or id that must be set.
    pub(crate) fn required<T: Name>(&mut self, field: &str, text: &str) -> Option<T> {
        let name = self.parse(field, text, str::parse::<T>)?;
        name.accounts().is_none_or(|accounts| self.permit(field, accounts)).then_some(name)
    }

    /// A name or id that may be unset.
    pub(crate) fn optional<T: Name>(&mut self, field: &str, text: &str) -> Option<T> {
        if text.is_empty() { None } else { self.required(field, text) }
    }

    /// `accounts/{account}`, which must be set.
    pub(crate) fn account(&mut self, field: &str, text: &str) -> Option<AccountId> {
        let account = self.parse(field, text, parse_account_name)?;
        self.permit(field, AccountScope::One(account)).then_some(account)
    }

    /// A UUID that may be unset.
    pub(crate) fn uuid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        if text.is_empty() {
            return None;
        }
        let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil());
        if uuid.is_none() {
            self.faults.invalid(field, "must be a UUID");
        }
        uuid
    }

    /// Numbers of an enum, of which 0 is not one to ask for.
    pub(crate) fn choices<W: TryFrom<i32>, T>(
        &mut self,
        field: &str,
        numbers: &[i32],
        choose: impl Fn(W) -> Option<T>,
    ) -> Vec<T> {
        let mut chosen = Vec::with_capacity(numbers.len().min(16));
        for (index, number) in numbers.iter().enumerate() {
            match W::try_from(*number).ok().and_then(&choose) {
                Some(choice) => chosen.push(choice),
                None => self.faults.invalid(format!("{field}[{index}]"), "is not a known value"),
            }
        }
        chosen
    }

    /// An event type that may be unset.
    pub(crate) fn event_type(&mut self, field: &str, number: i32) -> Option<EventType> {
        match EventType::try_from(number) {
            Ok(EventType::Unspecified) => None,
            Ok(known) => Some(known),
            Err(_) => {
                self.faults.invalid(field, "is not a known event type");
                None
            }
        }
    }

    /// `start_time` and `end_time`.
    pub(crate) fn time_range(&mut self, start: Option<Timestamp>, end: Option<Timestamp>) -> TimeRange {
        let range = TimeRange {
            start: start.and_then(|time| self.time("start_time", time)),
            end: end.and_then(|time| self.time("end_time", time)),
        };
        if let (Some(start), Some(end)) = (range.start, range.end)
            && end < start
        {
            self.faults.invalid("end_time", "must not be before start_time");
        }
        range
    }

    /// `value`, unless it or anything else is at fault.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, GrpcError> {
        match value {
            Some(value) if self.faults.is_empty() => Ok(value),
            _ => Err(self.faults.into()),
        }
    }

    fn parse<T>(&mut self, field: &str, text: &str, parse: impl Fn(&str) -> Result<T, IdError>) -> Option<T> {
        if text.is_empty() {
            self.faults.required(field);
            return None;
        }
        parse(text).map_err(|rule| self.faults.invalid(field, rule)).ok()
    }

    /// Rounded up to a microsecond: times are stored in whole ones, and a bound between two of them is the later one.
    pub(crate) fn time(&mut self, field: &str, time: Timestamp) -> Option<UnixMicros> {
        /// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the range of `google.protobuf.Timestamp`.
        const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        if !SECONDS.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
            self.faults
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
        Some(AccountScope::One(self.account))
    }
}

impl Name for EventName {
    fn accounts(&self) -> Option<AccountScope> {
        Some(AccountScope::One(self.account))
    }
}

impl Name for DeliveryName {
    fn accounts(&self) -> Option<AccountScope> {
        Some(AccountScope::One(self.subscription.account))
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

/// Tokens are of no account; which of them a caller sees is the gateway's to say.
impl Name for TokenId {
    fn accounts(&self) -> Option<AccountScope> {
        None
    }
}
