//! A subscription as it is on disk, and the stored result of a create request.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use url::Url;
use uuid::Uuid;

use super::{AccessTokenRecord, RecordError, micros, unreadable};
use crate::{
    domain::{
        give_up::GiveUpStatuses,
        ids::{Seq, SubscriptionKey, SubscriptionName},
        key_pair::KeyPair,
        notice::{NoticeKinds, Noticed, Trouble},
        payload_format::PayloadFormat,
        rate_limit::RateLimit,
        secret::Secret,
        signature::Signer,
        subscription::{
            EventTypes, Health, OlderSecret, RetryOverrides, Settings, SignatureScheme, SigningSecrets,
            State, Subscription, TlsOptions, TlsProfile,
        },
        time::UnixMicros,
    },
    proto::v1::EventType,
};

mod sealed;

pub use sealed::SealedRecord;

/// The use of a request id.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestRecord {
    /// When, in microseconds since the epoch.
    #[prost(int64, tag = "1")]
    pub time: i64,
    /// Digest of the request.
    #[prost(bytes = "vec", tag = "2")]
    pub fingerprint: Vec<u8>,
    /// The result, if it is a subscription.
    #[prost(message, optional, tag = "3")]
    pub subscription: Option<SubscriptionRecord>,
    /// The result, if it is an access token.
    #[prost(message, optional, tag = "4")]
    pub token: Option<AccessTokenRecord>,
    // Earlier versions kept the text of that token, sealed, with tag 5.
}

/// A subscription. On disk its secrets are in [`SealedRecord`] only: see [`SubscriptionRecord::seal`].
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct SubscriptionRecord {
    #[prost(uint64, tag = "1")]
    key: u64,
    #[prost(bytes = "vec", tag = "2")]
    uid: Vec<u8>,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(string, tag = "4")]
    name: String,
    /// 1 active, 2 paused, 3 suspended.
    #[prost(uint32, tag = "5")]
    state: u32,
    #[prost(string, tag = "6")]
    state_reason: String,
    #[prost(string, tag = "7")]
    signing_secret: String,
    #[prost(int64, tag = "8")]
    create_time: i64,
    #[prost(int64, tag = "9")]
    update_time: i64,
    #[prost(string, tag = "10")]
    display_name: String,
    #[prost(string, tag = "11")]
    url: String,
    #[prost(enumeration = "EventType", repeated, tag = "12")]
    event_types: Vec<i32>,
    #[prost(int64, repeated, tag = "13")]
    inbox_ids: Vec<i64>,
    /// See [`PayloadFormat::to_disk`].
    #[prost(uint32, tag = "14")]
    payload_format: u32,
    #[prost(btree_map = "string, string", tag = "15")]
    headers: BTreeMap<String, String>,
    #[prost(uint32, optional, tag = "16")]
    max_attempts: Option<u32>,
    #[prost(uint64, optional, tag = "17")]
    min_backoff: Option<u64>,
    #[prost(uint64, optional, tag = "18")]
    max_backoff: Option<u64>,
    #[prost(uint64, optional, tag = "19")]
    timeout: Option<u64>,
    #[prost(uint32, optional, tag = "20")]
    max_in_flight: Option<u32>,
    #[prost(bool, tag = "21")]
    ordered: bool,
    #[prost(btree_map = "string, string", tag = "22")]
    annotations: BTreeMap<String, String>,
    #[prost(int64, optional, tag = "23")]
    failing_since: Option<i64>,
    #[prost(uint32, tag = "24")]
    failures: u32,
    #[prost(uint64, optional, tag = "25")]
    probed: Option<u64>,
    #[prost(uint32, tag = "26")]
    probes: u32,
    /// The newest first. Rows from before secrets could be rotated have none.
    #[prost(message, repeated, tag = "27")]
    older_secrets: Vec<OlderSecretRecord>,
    /// Rows from before there were any have none.
    #[prost(message, optional, tag = "28")]
    tls: Option<TlsRecord>,
    /// None in rows from before secrets were sealed.
    #[prost(message, optional, tag = "29")]
    sealed: Option<SealedRecord>,
    /// 1 HMAC-SHA256, 2 Ed25519; 0 in rows from before there was a choice, for the first.
    #[prost(uint32, tag = "30")]
    signature_scheme: u32,
    /// The private key; empty if there is none.
    #[prost(string, tag = "31")]
    key_pair: String,
    /// Every type is wanted. `event_types` is empty then.
    #[prost(bool, tag = "32")]
    all_event_types: bool,
    /// See [`GiveUpStatuses::texts`].
    #[prost(string, repeated, tag = "42")]
    give_up: Vec<String>,
    /// Rows from before there were notices have none.
    #[prost(message, optional, tag = "60")]
    notices: Option<NoticesRecord>,
    #[prost(message, optional, tag = "43")]
    rate_limit: Option<RateLimitRecord>,
}

/// The kinds of a sink, or what sinks were told of a subscription.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct NoticesRecord {
    /// See [`NoticeKinds::bits`]; 0 unless it is a sink.
    #[prost(uint32, tag = "1")]
    kinds: u32,
    /// 0 none, 1 failing, 2 suspended.
    #[prost(uint32, tag = "2")]
    trouble: u32,
    #[prost(uint32, tag = "3")]
    backlog_level: u32,
    #[prost(uint64, tag = "4")]
    count: u64,
}

impl NoticesRecord {
    fn of(subscription: &Subscription) -> Self {
        let Noticed { trouble, backlog_level, count } = subscription.noticed;
        let trouble = match trouble {
            Trouble::None => 0,
            Trouble::Failing => 1,
            Trouble::Suspended => 2,
        };
        let kinds = subscription.settings.notices.map_or(0, NoticeKinds::bits);
        Self { kinds, trouble, backlog_level, count }
    }

    fn noticed(self) -> Result<Noticed, RecordError> {
        let trouble = match self.trouble {
            0 => Trouble::None,
            1 => Trouble::Failing,
            2 => Trouble::Suspended,
            other => return Err(unreadable("trouble of an endpoint", other)),
        };
        Ok(Noticed { trouble, backlog_level: self.backlog_level, count: self.count })
    }
}

impl SubscriptionRecord {
    /// The name of the subscription.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for SubscriptionRecord {
    /// Prints only the name: before sealing the record has secrets in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubscriptionRecord({})", self.name)
    }
}

/// A rate limit, its interval in microseconds.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct RateLimitRecord {
    #[prost(uint32, tag = "1")]
    events: u32,
    #[prost(uint64, tag = "2")]
    interval: u64,
    #[prost(uint32, tag = "3")]
    burst: u32,
}

/// TLS options of an owner; empty is unset.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct TlsRecord {
    #[prost(string, tag = "1")]
    server_name: String,
    #[prost(string, tag = "2")]
    ca_certificates: String,
    #[prost(string, tag = "3")]
    client_certificate: String,
    #[prost(string, tag = "4")]
    client_key: String,
}

impl fmt::Debug for TlsRecord {
    /// Prints only the server's name: before sealing the record has a key in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsRecord({})", self.server_name)
    }
}

/// An older secret that still signs for a while.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct OlderSecretRecord {
    #[prost(string, tag = "1")]
    secret: String,
    #[prost(int64, tag = "2")]
    until: i64,
    /// The private key; empty if there is none.
    #[prost(string, tag = "3")]
    key_pair: String,
}

impl From<&Subscription> for SubscriptionRecord {
    fn from(subscription: &Subscription) -> Self {
        let settings = &subscription.settings;
        Self {
            key: subscription.key.0,
            uid: subscription.uid.as_bytes().to_vec(),
            version: subscription.version,
            name: subscription.name.to_string(),
            state: match subscription.state {
                State::Active => 1,
                State::Paused => 2,
                State::Suspended => 3,
            },
            state_reason: subscription.state_reason.clone(),
            signing_secret: subscription.signing_secrets.newest.secret.expose().to_owned(),
            create_time: subscription.create_time.0,
            update_time: subscription.update_time.0,
            display_name: settings.display_name.clone(),
            url: settings.url.to_string(),
            event_types: settings.event_types.listed().iter().map(|&t| t.into()).collect(),
            all_event_types: settings.event_types == EventTypes::All,
            inbox_ids: settings.inbox_ids.clone(),
            payload_format: settings.payload_format.to_disk(),
            headers: settings.headers.iter().map(|(k, v)| (k.clone(), v.expose().to_owned())).collect(),
            max_attempts: settings.retry.max_attempts,
            min_backoff: settings.retry.min_backoff.map(micros),
            max_backoff: settings.retry.max_backoff.map(micros),
            timeout: settings.timeout.map(micros),
            max_in_flight: settings.max_in_flight.map(Into::into),
            ordered: settings.ordered,
            annotations: settings.annotations.clone(),
            failing_since: subscription.health.failing_since.map(|time| time.0),
            failures: subscription.health.failures,
            probed: subscription.health.probed.map(|seq| seq.0),
            probes: subscription.health.probes,
            older_secrets: subscription.signing_secrets.older.iter().map(OlderSecretRecord::from).collect(),
            tls: settings.tls.as_ref().map(|tls| TlsRecord::from(tls.options())),
            sealed: None,
            signature_scheme: match settings.signature_scheme {
                SignatureScheme::HmacSha256 => 1,
                SignatureScheme::Ed25519 => 2,
            },
            key_pair: private_key(&subscription.signing_secrets.newest),
            notices: Some(NoticesRecord::of(subscription))
                .filter(|notices| *notices != NoticesRecord::default()),
            give_up: settings.retry.give_up.texts(),
            rate_limit: settings.rate_limit.map(|RateLimit { events, interval, burst }| RateLimitRecord {
                events,
                interval: micros(interval),
                burst,
            }),
        }
    }
}

impl TryFrom<SubscriptionRecord> for Subscription {
    type Error = RecordError;

    fn try_from(record: SubscriptionRecord) -> Result<Self, RecordError> {
        let name = SubscriptionName::parse_any(&record.name).map_err(|e| unreadable("name", e))?;
        let notices = record.notices.unwrap_or_default();
        let event_types = record.event_types.iter().map(|&number| EventType::try_from(number));
        let mut give_up = GiveUpStatuses::NONE;
        for text in &record.give_up {
            give_up.insert(text).map_err(|e| unreadable("status", e))?;
        }
        let settings = Settings {
            display_name: record.display_name,
            url: Url::parse(&record.url).map_err(|e| unreadable("url", e))?,
            notices: NoticeKinds::from_bits(notices.kinds),
            event_types: match record.all_event_types {
                true => EventTypes::All,
                false => EventTypes::Only(
                    event_types.collect::<Result<_, _>>().map_err(|e| unreadable("event type", e))?,
                ),
            },
            inbox_ids: record.inbox_ids,
            payload_format: PayloadFormat::from_disk(record.payload_format)
                .ok_or_else(|| unreadable("payload format", record.payload_format))?,
            headers: record.headers.into_iter().map(|(k, v)| (k, Secret::new(v))).collect(),
            retry: RetryOverrides {
                max_attempts: record.max_attempts,
                min_backoff: record.min_backoff.map(Duration::from_micros),
                max_backoff: record.max_backoff.map(Duration::from_micros),
                give_up,
            },
            timeout: record.timeout.map(Duration::from_micros),
            max_in_flight: record
                .max_in_flight
                .map(u16::try_from)
                .transpose()
                .map_err(|e| unreadable("max_in_flight", e))?,
            rate_limit: record.rate_limit.map(|limit| RateLimit {
                events: limit.events.max(1),
                interval: Duration::from_micros(limit.interval),
                burst: limit.burst.max(1),
            }),
            ordered: record.ordered,
            annotations: record.annotations,
            tls: record.tls.map(TlsOptions::from).and_then(TlsProfile::new).map(Arc::new),
            signature_scheme: match record.signature_scheme {
                0 | 1 => SignatureScheme::HmacSha256,
                2 => SignatureScheme::Ed25519,
                other => return Err(unreadable("signature scheme", other)),
            },
        };
        Ok(Self {
            key: SubscriptionKey(record.key),
            uid: Uuid::from_slice(&record.uid).map_err(|e| unreadable("uid", e))?,
            version: record.version,
            name,
            settings,
            state: match record.state {
                1 => State::Active,
                2 => State::Paused,
                3 => State::Suspended,
                other => return Err(unreadable("state", other)),
            },
            state_reason: record.state_reason,
            health: Health {
                failing_since: record.failing_since.map(UnixMicros),
                failures: record.failures,
                probed: record.probed.map(Seq),
                probes: record.probes,
            },
            noticed: notices.noticed()?,
            signing_secrets: SigningSecrets {
                newest: signer(record.signing_secret, record.key_pair)?,
                older: record
                    .older_secrets
                    .into_iter()
                    .map(OlderSecret::try_from)
                    .collect::<Result<_, _>>()?,
            },
            create_time: UnixMicros(record.create_time),
            update_time: UnixMicros(record.update_time),
        })
    }
}

impl From<&OlderSecret> for OlderSecretRecord {
    fn from(older: &OlderSecret) -> Self {
        Self {
            secret: older.signer.secret.expose().to_owned(),
            until: older.until.0,
            key_pair: private_key(&older.signer),
        }
    }
}

impl TryFrom<OlderSecretRecord> for OlderSecret {
    type Error = RecordError;

    fn try_from(record: OlderSecretRecord) -> Result<Self, RecordError> {
        Ok(Self { signer: signer(record.secret, record.key_pair)?, until: UnixMicros(record.until) })
    }
}

impl From<&TlsOptions> for TlsRecord {
    fn from(options: &TlsOptions) -> Self {
        Self {
            server_name: options.server_name.clone(),
            ca_certificates: options.ca_certificates.clone(),
            client_certificate: options.client_certificate.clone(),
            client_key: options.client_key.as_ref().map_or("", Secret::expose).to_owned(),
        }
    }
}

impl From<TlsRecord> for TlsOptions {
    fn from(record: TlsRecord) -> Self {
        let TlsRecord { server_name, ca_certificates, client_certificate, client_key } = record;
        let client_key = Some(client_key).filter(|key| !key.is_empty()).map(Secret::new);
        Self { server_name, ca_certificates, client_certificate, client_key }
    }
}

impl fmt::Debug for OlderSecretRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OlderSecretRecord({})", self.until)
    }
}

fn private_key(signer: &Signer) -> String {
    signer.key_pair.as_ref().map_or_else(String::new, |pair| pair.private().expose().to_owned())
}

fn signer(secret: String, private_key: String) -> Result<Signer, RecordError> {
    let key_pair = (!private_key.is_empty()).then(|| KeyPair::parse(&Secret::new(private_key))).transpose();
    Ok(Signer { secret: Secret::new(secret), key_pair: key_pair.map_err(|e| unreadable("key pair", e))? })
}
