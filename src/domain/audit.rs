//! What is written down of a call that changes something: who made it, from where, what it was about, and what came of it.

use std::collections::BTreeMap;

use super::{
    ids::{AccountId, AccountScope},
    time::UnixMicros,
};

/// Longest text of a record that comes from outside, in bytes: the subject of a certificate has no bound of its own.
pub const AUDIT_TEXT_BYTES_MAX: usize = 256;
/// What a record takes up beside its texts, in bytes: about that much.
const RECORD_BYTES: u64 = 64;

/// Where a record is: in the order in which calls were written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditKey {
    /// When the call was written down. Never before that of an earlier record.
    pub time: UnixMicros,
    /// Counts up from 1; no number is given away twice.
    pub number: u64,
}

/// A call that is to change something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditedCall {
    /// Who made it, as [`super::caller::Principal`] is written.
    pub principal: String,
    /// From where, as IP:port; empty where the transport does not tell.
    pub address: String,
    /// For example `tidings.v1.SubscriptionService/DeleteSubscription`.
    pub method: String,
    /// What it was about.
    pub subject: AuditSubject,
}

/// What a call was about. Made of what the contract knows: names, fields, numbers. Never of a text that may be a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditSubject {
    /// The name of the resource; empty if the call named none.
    pub resource: String,
    /// Which fields an update changes.
    pub fields: Vec<String>,
    /// What else was asked, by the name of the request's field; and what came of it, by that of the answer's.
    pub parameters: BTreeMap<String, String>,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditOutcome {
    /// Nobody knows: it is under way, the gateway ended before it did, or it was too slow or failed half-way.
    #[default]
    Unknown,
    /// It was done.
    Ok,
    /// It was refused and changed nothing.
    Refused,
}

/// How a call ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEnd {
    /// What came of it.
    pub outcome: AuditOutcome,
    /// The number of its `google.rpc.Code`.
    pub code: i32,
    /// The reason of its `google.rpc.ErrorInfo`; empty if it was done.
    pub reason: String,
    /// The name of the resource, where only the answer has it.
    pub resource: Option<String>,
    /// More parameters, from the answer.
    pub parameters: BTreeMap<String, String>,
}

/// What is kept of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRecord {
    /// Where it is, and when it was written down.
    pub key: AuditKey,
    /// The call.
    pub call: AuditedCall,
    /// What came of it.
    pub outcome: AuditOutcome,
    /// The number of its `google.rpc.Code`; 0 as long as nobody knows.
    pub code: i32,
    /// The reason of a refusal.
    pub reason: String,
    /// When it ended; `None` as long as it is under way, and if the gateway ended before it did.
    pub end_time: Option<UnixMicros>,
}

impl AuditRecord {
    /// The record of a call that begins.
    pub fn begun(key: AuditKey, call: AuditedCall) -> Self {
        Self { key, call, ..Self::default() }
    }

    /// The same once the call has ended.
    pub fn ended(mut self, end: AuditEnd, time: UnixMicros) -> Self {
        let AuditEnd { outcome, code, reason, resource, parameters } = end;
        if let Some(resource) = resource {
            self.call.subject.resource = resource;
        }
        self.call.subject.parameters.extend(parameters);
        Self { outcome, code, reason, end_time: Some(time), ..self }
    }

    /// About how many bytes it takes up. The same for every engine.
    pub fn bytes(&self) -> u64 {
        let AuditedCall { principal, address, method, subject } = &self.call;
        let texts = [principal, address, method, &subject.resource, &self.reason];
        let texts = texts.into_iter().chain(&subject.fields);
        let texts = texts.chain(subject.parameters.iter().flat_map(|(name, value)| [name, value]));
        RECORD_BYTES + texts.map(|text| text.len() as u64).sum::<u64>()
    }

    /// The account that its resource belongs to, if it belongs to one.
    pub fn account(&self) -> Option<AccountId> {
        audited_account(&self.call.subject.resource)
    }

    /// Whether its resource is of these accounts. One of no account is in no single account's list.
    pub fn is_of(&self, scope: AccountScope) -> bool {
        match scope {
            AccountScope::All => true,
            AccountScope::One(account) => self.account() == Some(account),
        }
    }

    /// Whether it is about this resource, or about something that belongs to it.
    pub fn is_about(&self, resource: &str) -> bool {
        let rest = self.call.subject.resource.strip_prefix(resource);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The account that a resource of this name belongs to, if it belongs to one.
pub fn audited_account(resource: &str) -> Option<AccountId> {
    let mut parts = resource.split('/');
    if parts.next() == Some("accounts") { parts.next()?.parse().ok() } else { None }
}

/// The start of a text from outside, as much as a record keeps of it.
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
