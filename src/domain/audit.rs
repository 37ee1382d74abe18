//! Audit records of calls that change something: caller, address, subject and outcome.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{
    ids::{AccountId, AccountScope},
    time::UnixMicros,
};

/// Longest text from outside in a record, in bytes: the subject of a certificate has no bound of its own.
pub const AUDIT_TEXT_BYTES_MAX: usize = 256;
/// How long repeats of a call that changed nothing are counted up in its record. A later one begins a record of its
/// own.
pub const AUDIT_REPEATS_FOR: Duration = Duration::from_hours(1);
/// How a caller of another account is shown to those who may not know it.
pub const FOREIGN_PRINCIPAL: &str = "another account";
/// Approximate size of a record in bytes without its texts.
const RECORD_BYTES: u64 = 64;

/// The position of a record in the audit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditKey {
    /// The time of the record; never before that of an earlier one.
    pub time: UnixMicros,
    /// Counts up from 1; never reused.
    pub number: u64,
}

/// A call that changes something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditedCall {
    /// The text of its [`super::caller::Principal`].
    pub principal: String,
    /// The caller's address, as IP:port; empty if the transport has none.
    pub address: String,
    /// For example `tidings.v1.SubscriptionService/DeleteSubscription`.
    pub method: String,
    /// Its subject.
    pub subject: AuditSubject,
    /// The account that the record counts for, if that is not the account of its resource: one of the caller's.
    pub account: Option<AccountId>,
}

/// The subject of a call: names, fields and numbers of the contract. Never a text that may be a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditSubject {
    /// The name of the resource; empty if the call has none.
    pub resource: String,
    /// The fields that an update changes.
    pub fields: Vec<String>,
    /// Further parameters, by the name of the request's or the response's field.
    pub parameters: BTreeMap<String, String>,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditOutcome {
    /// Unknown: the call is running, the gateway stopped before it ended, or it timed out or failed half-way.
    #[default]
    Unknown,
    /// The change was made.
    Ok,
    /// The call was refused and changed nothing.
    Refused,
}

/// The end of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEnd {
    /// Its outcome.
    pub outcome: AuditOutcome,
    /// The number of its `google.rpc.Code`.
    pub code: i32,
    /// The reason of its `google.rpc.ErrorInfo`; empty on success.
    pub reason: String,
    /// The name of the resource, if only the response has it.
    pub resource: Option<String>,
    /// More parameters, from the response.
    pub parameters: BTreeMap<String, String>,
    /// The call was made, and there was nothing to change.
    pub unchanged: bool,
    /// Further calls that ended the same way, if they were counted before they are recorded.
    pub repeats: u64,
}

/// The audit record of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its position and time.
    pub key: AuditKey,
    /// The call.
    pub call: AuditedCall,
    /// Its outcome.
    pub outcome: AuditOutcome,
    /// The number of its `google.rpc.Code`; 0 while it is unknown.
    pub code: i32,
    /// The reason of a refusal.
    pub reason: String,
    /// The end of the call; `None` while it is running, and if the gateway stopped before it ended.
    pub end_time: Option<UnixMicros>,
    /// Further calls like it that changed nothing either.
    pub repeats: u64,
    /// The end of the last of these.
    pub last_time: Option<UnixMicros>,
}

impl AuditRecord {
    /// The record of a call that begins.
    pub fn begun(key: AuditKey, call: AuditedCall) -> Self {
        Self { key, call, ..Self::default() }
    }

    /// The same after the end of the call.
    pub fn ended(mut self, end: AuditEnd, time: UnixMicros) -> Self {
        let AuditEnd { outcome, code, reason, resource, parameters, unchanged: _, repeats } = end;
        if let Some(resource) = resource {
            self.call.subject.resource = resource;
        }
        self.call.subject.parameters.extend(parameters);
        let last_time = (repeats > 0).then_some(time);
        Self { outcome, code, reason, end_time: Some(time), repeats, last_time, ..self }
    }

    /// The same after another call that [`is_repeated_by`](Self::is_repeated_by).
    pub fn counting(mut self, other: &Self) -> Self {
        self.repeats += 1 + other.repeats;
        self.last_time = other.last_time.or(other.end_time).max(self.last_time);
        self
    }

    /// Whether another call, which changed nothing either, only repeats this one: the same caller at the same IP
    /// address, method, subject and outcome, within [`AUDIT_REPEATS_FOR`].
    pub fn is_repeated_by(&self, other: &Self) -> bool {
        self.identity() == other.identity()
            && self.end_time.is_some()
            && other.key.time.since(self.key.time) <= AUDIT_REPEATS_FOR
    }

    /// What equal calls have in common: texts in a fixed order.
    pub fn identity(&self) -> Vec<String> {
        let AuditedCall { principal, address, method, subject, account } = &self.call;
        let ip = address
            .parse::<SocketAddr>()
            .map_or_else(|_| address.clone(), |address| address.ip().to_string());
        let texts = [principal, &ip, method, &subject.resource, &self.reason].map(String::clone);
        let numbers = [
            subject.fields.len().to_string(),
            account.map_or(0, AccountId::get).to_string(),
            format!("{:?} {}", self.outcome, self.code),
        ];
        let parameters = subject.parameters.iter().flat_map(|(name, value)| [name.clone(), value.clone()]);
        texts.into_iter().chain(numbers).chain(subject.fields.iter().cloned()).chain(parameters).collect()
    }

    /// Its approximate size in bytes. The same for every engine.
    pub fn bytes(&self) -> u64 {
        let AuditedCall { principal, address, method, subject, account: _ } = &self.call;
        let texts = [principal, address, method, &subject.resource, &self.reason];
        let texts = texts.into_iter().chain(&subject.fields);
        let texts = texts.chain(subject.parameters.iter().flat_map(|(name, value)| [name, value]));
        RECORD_BYTES + texts.map(|text| text.len() as u64).sum::<u64>()
    }

    /// The account whose list has it: that of its resource, or without a resource that of its caller.
    pub fn account(&self) -> Option<AccountId> {
        let resource = &self.call.subject.resource;
        audited_account(resource).or_else(|| self.call.account.filter(|_| resource.is_empty()))
    }

    /// The account whose share of the records it takes: one of the caller's; `None` for the operator's share.
    pub fn charged_account(&self) -> Option<AccountId> {
        self.call.account.or_else(|| audited_account(&self.call.subject.resource))
    }

    /// Whether its caller may not use the account of its resource, so that users of that account may not know it.
    pub fn is_of_foreign_caller(&self) -> bool {
        let of_resource = audited_account(&self.call.subject.resource);
        let differs =
            self.call.account.is_some() && of_resource.is_some() && self.call.account != of_resource;
        // Records of earlier versions have the reason only.
        differs || self.reason == "ACCOUNT_DENIED"
    }

    /// Whether its resource belongs to these accounts. A resource without an account belongs to no single
    /// account.
    pub fn is_of(&self, scope: AccountScope) -> bool {
        match scope {
            AccountScope::All => true,
            AccountScope::One(account) => self.account() == Some(account),
        }
    }

    /// Whether it is about this resource or one below it.
    pub fn is_about(&self, resource: &str) -> bool {
        let rest = self.call.subject.resource.strip_prefix(resource);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The account of the resource with this name, if any.
pub fn audited_account(resource: &str) -> Option<AccountId> {
    let mut parts = resource.split('/');
    if parts.next() == Some("accounts") { parts.next()?.parse().ok() } else { None }
}

/// The part of a text from outside that a record keeps.
pub fn audit_text(text: &str) -> String {
    text[..text.floor_char_boundary(AUDIT_TEXT_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(resource: &str) -> AuditRecord {
        let subject = AuditSubject { resource: resource.to_owned(), ..AuditSubject::default() };
        AuditRecord::begun(AuditKey::default(), AuditedCall { subject, ..AuditedCall::default() })
    }

    #[test]
    fn a_record_is_of_its_resources_account_and_about_what_it_is_in() {
        let delivery = record("accounts/12/subscriptions/crm/deliveries/e.1");
        let account = |number| AccountScope::One(AccountId::new(number).unwrap());
        assert!(delivery.is_of(account(12)) && delivery.is_of(AccountScope::All));
        assert!(!delivery.is_of(account(1)) && !record("accessTokens/ci").is_of(account(1)));
        assert!(record("").is_of(AccountScope::All) && record("accounts/x").account().is_none());
        let by_one = |resource| {
            let mut record = record(resource);
            record.call.account = AccountId::new(1).ok();
            record
        };
        assert!(by_one("").is_of(account(1)) && !by_one("accessTokens/ci").is_of(account(1)));
        let foreign = by_one("accounts/12/subscriptions/crm");
        assert!(
            foreign.is_of(account(12)) && foreign.is_of_foreign_caller() && !delivery.is_of_foreign_caller()
        );
        let [of_one, of_twelve] = [1, 12].map(|number| AccountId::new(number).ok());
        assert_eq!((foreign.charged_account(), delivery.charged_account()), (of_one, of_twelve));
        for resource in ["accounts/12", "accounts/12/subscriptions/crm", &delivery.call.subject.resource] {
            assert!(delivery.is_about(resource), "{resource}");
        }
        for resource in ["accounts/1", "accounts/12/subscriptions/cr", "accounts/12/subscriptions/crm/d"] {
            assert!(!delivery.is_about(resource), "{resource}");
        }
    }

    #[test]
    fn the_end_adds_what_only_the_answer_tells() {
        let end = AuditEnd {
            outcome: AuditOutcome::Ok,
            resource: Some("accounts/1/subscriptions/made".into()),
            parameters: [("replayed_count".to_owned(), "3".to_owned())].into(),
            ..AuditEnd::default()
        };
        let begun = record("accounts/1");
        let ended = begun.clone().ended(end, UnixMicros(7));
        assert_eq!(ended.call.subject.resource, "accounts/1/subscriptions/made");
        assert_eq!(ended.call.subject.parameters["replayed_count"], "3");
        assert_eq!((ended.outcome, ended.end_time), (AuditOutcome::Ok, Some(UnixMicros(7))));
        assert!(ended.bytes() > begun.bytes());
    }

    #[test]
    fn a_repeat_is_the_same_call_by_the_same_caller_within_an_hour() {
        let refused = |address: &str, seconds: i64| {
            let mut record = record("accounts/1/subscriptions/a");
            record.call.address = address.to_owned();
            record.key.time = UnixMicros(seconds * 1_000_000);
            let end = AuditEnd { outcome: AuditOutcome::Refused, code: 5, ..AuditEnd::default() };
            let time = record.key.time;
            record.ended(end, time)
        };
        let first = refused("10.0.0.1:7", 0);
        let second = refused("10.0.0.1:8", 3600);
        assert!(first.is_repeated_by(&second) && !first.is_repeated_by(&refused("10.0.0.1:8", 3601)));
        assert!(!first.is_repeated_by(&refused("10.0.0.2:7", 0)));
        let mut other = second.clone();
        other.call.subject.parameters.insert("force".into(), "true".into());
        assert!(!first.is_repeated_by(&other));
        let counted = first.counting(&second).counting(&second);
        assert_eq!((counted.repeats, counted.last_time), (2, second.end_time));
    }

    #[test]
    fn a_long_text_is_kept_in_part() {
        assert_eq!(audit_text("CN=a"), "CN=a");
        assert_eq!(audit_text(&"ä".repeat(200)), "ä".repeat(128));
    }
}
