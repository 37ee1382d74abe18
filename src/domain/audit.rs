//! Audit records of calls that change something: caller, address, subject and outcome.

use std::collections::BTreeMap;

use super::{
    ids::{AccountId, AccountScope},
    time::UnixMicros,
};

/// Longest text from outside in a record, in bytes: the subject of a certificate has no bound of its own.
pub const AUDIT_TEXT_BYTES_MAX: usize = 256;
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
}

impl AuditRecord {
    /// The record of a call that begins.
    pub fn begun(key: AuditKey, call: AuditedCall) -> Self {
        Self { key, call, ..Self::default() }
    }

    /// The same after the end of the call.
    pub fn ended(mut self, end: AuditEnd, time: UnixMicros) -> Self {
        let AuditEnd { outcome, code, reason, resource, parameters } = end;
        if let Some(resource) = resource {
            self.call.subject.resource = resource;
        }
        self.call.subject.parameters.extend(parameters);
        Self { outcome, code, reason, end_time: Some(time), ..self }
    }

    /// Its approximate size in bytes. The same for every engine.
    pub fn bytes(&self) -> u64 {
        let AuditedCall { principal, address, method, subject } = &self.call;
        let texts = [principal, address, method, &subject.resource, &self.reason];
        let texts = texts.into_iter().chain(&subject.fields);
        let texts = texts.chain(subject.parameters.iter().flat_map(|(name, value)| [name, value]));
        RECORD_BYTES + texts.map(|text| text.len() as u64).sum::<u64>()
    }

    /// The account of its resource, if any.
    pub fn account(&self) -> Option<AccountId> {
        audited_account(&self.call.subject.resource)
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
    fn a_long_text_is_kept_in_part() {
        assert_eq!(audit_text("CN=a"), "CN=a");
        assert_eq!(audit_text(&"ä".repeat(200)), "ä".repeat(128));
    }
}
