//! Notices: what happened to an endpoint, as the JSON body that sinks receive. `docs/notices.md` describes it.
//!
//! A notice is stored as an event without a type and with the exact bytes of its body, so that it is delivered
//! as any other.

use bytes::Bytes;
use prost::Message;
use serde::{Serialize, Serializer};

use super::EventContent;
use crate::{
    domain::{
        event_routing::OrderTag,
        notice::{FailureStreak, NoticeKind},
        subscription::{Subscription, origin_of},
        time::UnixMicros,
    },
    proto::v1::EventType,
};

/// The type of the events that notices are stored as: published events have one.
pub const NOTICE_TYPE: EventType = EventType::Unspecified;

/// A notice.
#[derive(Clone, Debug, Serialize)]
pub struct Notice {
    #[serde(rename = "type", serialize_with = "kind_name")]
    kind: NoticeKind,
    timestamp: Time,
    data: Data,
}

#[derive(Clone, Debug, Serialize)]
struct Data {
    account: String,
    subscription: String,
    display_name: String,
    endpoint: String,
    #[serde(flatten)]
    facts: NoticeFacts,
}

/// What a notice says besides its subject; one form for each [`NoticeKind`].
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum NoticeFacts {
    /// Every attempt has failed for a while.
    EndpointFailing {
        /// The beginning of the failures.
        failing_since: Time,
        /// Failed attempts since then.
        failed_attempts: u32,
        /// The error of the latest one.
        last_error: String,
        /// Deliveries that are pending or retrying.
        owed_count: u64,
    },
    /// The subscription is suspended.
    EndpointSuspended {
        /// Why.
        reason: String,
        /// Deliveries that are pending or retrying.
        owed_count: u64,
    },
    /// The endpoint works again.
    EndpointRecovered {
        /// Whether it was suspended, or else failing.
        was_suspended: bool,
        /// Deliveries that are pending or retrying.
        owed_count: u64,
    },
    /// Deliveries failed for good.
    DeliveryFailed {
        /// How many.
        count: u64,
        /// The first of them.
        first: FailedDelivery,
        /// The last of them.
        last: FailedDelivery,
    },
    /// The subscription is owed many deliveries.
    BacklogGrowing {
        /// Deliveries that are pending or retrying.
        owed_count: u64,
        /// The setting `notice_backlog`.
        notice_backlog: u64,
    },
}

/// A delivery that failed for good, as far as the store still has it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FailedDelivery {
    /// Its name, and that of its event.
    pub delivery: String,
    /// The name of its event.
    pub event: String,
    /// Attempts made.
    pub attempt_count: u32,
    /// The status of the last one; 0 without a response.
    pub http_status: u16,
    /// The error of the last one.
    pub error: String,
}

/// A time, in JSON as RFC 3339.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub UnixMicros);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&prost_types::Timestamp::from(self.0))
    }
}

fn kind_name<S: Serializer>(kind: &NoticeKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

/// A notice as it is stored. Its fields have numbers that the contract reserves in `Event`.
#[derive(Clone, PartialEq, Message)]
struct StoredNotice {
    /// The index of its kind, from 1 on.
    #[prost(uint32, tag = "101")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "102")]
    body: Bytes,
}

impl Notice {
    /// A notice about a subscription, at this time.
    pub fn new(subject: &Subscription, time: UnixMicros, facts: NoticeFacts) -> Self {
        let data = Data {
            account: format!("accounts/{}", subject.name.account),
            subscription: subject.name.to_string(),
            display_name: subject.settings.display_name.clone(),
            // The rest of the URL may be a secret.
            endpoint: origin_of(subject.settings.url.as_str()).to_owned(),
            facts,
        };
        Self { kind: data.facts.kind(), timestamp: Time(time), data }
    }

    /// A made-up notice of this kind.
    pub fn sample(kind: NoticeKind) -> Self {
        const TIME: UnixMicros = UnixMicros(1_767_225_600_000_000);
        let last_error = "answered 503 Service Unavailable".to_owned();
        let failed = |event: &str, error: &str| FailedDelivery {
            delivery: format!("accounts/1/subscriptions/crm/deliveries/{event}"),
            event: format!("accounts/1/events/{event}"),
            attempt_count: 12,
            http_status: 503,
            error: error.to_owned(),
        };
        let facts = match kind {
            NoticeKind::EndpointFailing => NoticeFacts::EndpointFailing {
                failing_since: Time(UnixMicros(TIME.0 - 600_000_000)),
                failed_attempts: 31,
                last_error,
                owed_count: 214,
            },
            NoticeKind::EndpointSuspended => NoticeFacts::EndpointSuspended {
                reason: "The endpoint answered 410 Gone at 2026-01-01T00:00:00Z.".to_owned(),
                owed_count: 214,
            },
            NoticeKind::EndpointRecovered => {
                NoticeFacts::EndpointRecovered { was_suspended: true, owed_count: 214 }
            }
            NoticeKind::DeliveryFailed => NoticeFacts::DeliveryFailed {
                count: 17,
                first: failed("message-1-created", &last_error),
                last: failed("message-9-created", &last_error),
            },
            NoticeKind::BacklogGrowing => {
                NoticeFacts::BacklogGrowing { owed_count: 104_310, notice_backlog: 100_000 }
            }
        };
        let data = Data {
            account: "accounts/1".to_owned(),
            subscription: "accounts/1/subscriptions/crm".to_owned(),
            display_name: "CRM".to_owned(),
            endpoint: "https://crm.example.com".to_owned(),
            facts,
        };
        Self { kind, timestamp: Time(TIME), data }
    }

    /// Its kind.
    pub fn kind(&self) -> NoticeKind {
        self.kind
    }

    /// Its body: compact JSON.
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are JSON")
    }

    /// The content of the event that it is stored as. Notices with the same tag are delivered in order.
    pub fn content(&self, order_tag: OrderTag) -> EventContent {
        let kind = u32::try_from(self.kind.index() + 1).expect("there are few kinds");
        let stored = StoredNotice { kind, body: self.body().into() };
        EventContent::new(NOTICE_TYPE, order_tag, stored.encode_to_vec().into())
    }
}

impl NoticeFacts {
    /// The facts of a streak of failures.
    pub fn failing(streak: FailureStreak, owed_count: u64) -> Self {
        let FailureStreak { since, attempts, error } = streak;
        Self::EndpointFailing {
            failing_since: Time(since),
            failed_attempts: attempts,
            last_error: error,
            owed_count,
        }
    }

    /// The kind of a notice that says this.
    pub fn kind(&self) -> NoticeKind {
        match self {
            Self::EndpointFailing { .. } => NoticeKind::EndpointFailing,
            Self::EndpointSuspended { .. } => NoticeKind::EndpointSuspended,
            Self::EndpointRecovered { .. } => NoticeKind::EndpointRecovered,
            Self::DeliveryFailed { .. } => NoticeKind::DeliveryFailed,
            Self::BacklogGrowing { .. } => NoticeKind::BacklogGrowing,
        }
    }
}

/// The body of a stored notice.
pub(super) fn body_of(encoded: &[u8]) -> Bytes {
    stored(encoded).body
}

/// The kind of a stored notice; `None` if it is of a later version.
pub(super) fn kind_of(encoded: &[u8]) -> Option<NoticeKind> {
    usize::try_from(stored(encoded).kind).ok()?.checked_sub(1).and_then(NoticeKind::from_index)
}

fn stored(encoded: &[u8]) -> StoredNotice {
    StoredNotice::decode(encoded).expect("it was encoded here, and records of the disk have a checksum")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::payload_format::PayloadFormat, proto::v1};

    #[test]
    fn a_stored_notice_has_the_bytes_of_its_body_in_every_form() {
        for kind in NoticeKind::all() {
            let notice = Notice::sample(kind);
            assert_eq!(notice.kind(), kind);
            let content = notice.content(OrderTag(7));
            let read = EventContent::new(content.event_type, content.order_tag, content.encoded);
            assert_eq!(kind_of(&read.encoded), Some(kind));
            assert_eq!(
                (read.hops(), read.decode()),
                (0, v1::Event::default()),
                "nothing of it is an event's"
            );
            assert!(PayloadFormat::all().all(|format| read.body(format) == notice.body()));
        }
    }

    #[test]
    fn the_documentation_has_the_body_of_each_kind() {
        let document = include_str!("../../docs/notices.md");
        let documented = document.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let documented: Vec<serde_json::Value> = documented
            .map(|text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")))
            .collect();
        let bodies: Vec<serde_json::Value> = NoticeKind::all()
            .map(|kind| serde_json::from_slice(&Notice::sample(kind).body()).unwrap())
            .collect();
        assert_eq!(documented, bodies);
        for kind in NoticeKind::all() {
            assert!(document.contains(&format!("`{}`", kind.name())), "{}", kind.name());
        }
    }
}
