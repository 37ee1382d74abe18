//! The secrets of a subscription on disk, each sealed for its own field. A record is sealed right before it
//! is encoded and opened right after it is decoded. Rows from before sealing have their secrets in the clear
//! and are read as they are.

use std::{collections::BTreeMap, mem};

use rand::CryptoRng;
use uuid::Uuid;

use super::{OlderSecretRecord, RequestRecord, SubscriptionRecord};
use crate::{
    domain::{
        seal::{SealContext, SealingKeys},
        secret::Secret,
        subscription::origin_of,
    },
    store::disk::records::{RecordError, unreadable},
};

/// The secrets of a subscription, sealed. A new secret needs a field here, a name below, and a line in
/// [`SubscriptionRecord::seal`] and [`SubscriptionRecord::open`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct SealedRecord {
    #[prost(bytes = "vec", tag = "1")]
    signing_secret: Vec<u8>,
    /// Values by name.
    #[prost(btree_map = "string, bytes", tag = "2")]
    headers: BTreeMap<String, Vec<u8>>,
    /// The newest first.
    #[prost(message, repeated, tag = "3")]
    older_secrets: Vec<SealedOlderRecord>,
    /// Empty if there is none.
    #[prost(bytes = "vec", tag = "4")]
    key_pair: Vec<u8>,
    /// The key of the client certificate; empty if there is none.
    #[prost(bytes = "vec", tag = "5")]
    tls_client_key: Vec<u8>,
    /// The whole URL, of which only the origin is in the clear. Empty in rows from before it was sealed.
    #[prost(bytes = "vec", tag = "6")]
    url: Vec<u8>,
}

/// An older secret that still signs for a while, sealed together with its time.
#[derive(Clone, PartialEq, prost::Message)]
struct SealedOlderRecord {
    #[prost(bytes = "vec", tag = "1")]
    secret: Vec<u8>,
    #[prost(int64, tag = "2")]
    until: i64,
    /// Empty if there is none.
    #[prost(bytes = "vec", tag = "3")]
    key_pair: Vec<u8>,
}

impl SubscriptionRecord {
    /// Seals every secret: none is left in the clear.
    pub fn seal(&mut self, keys: &SealingKeys, random: &mut impl CryptoRng) -> Result<(), RecordError> {
        let mut sealer = Sealer { owner: self.owner()?, keys, random };
        let headers = mem::take(&mut self.headers).into_iter();
        let older = mem::take(&mut self.older_secrets).into_iter();
        let origin = origin_of(&self.url).to_owned();
        let url = mem::replace(&mut self.url, origin);
        let client_key = self.tls.as_mut().map(|tls| mem::take(&mut tls.client_key)).unwrap_or_default();
        self.sealed = Some(SealedRecord {
            signing_secret: sealer.seal(SIGNING_SECRET, mem::take(&mut self.signing_secret)),
            headers: headers
                .map(|(name, value)| {
                    let value = sealer.seal(&header_field(&name), value);
                    (name, value)
                })
                .collect(),
            older_secrets: older
                .map(|OlderSecretRecord { secret, until, key_pair }| SealedOlderRecord {
                    secret: sealer.seal(&older_field(until, SIGNING_SECRET), secret),
                    until,
                    key_pair: sealer.seal_if_any(&older_field(until, KEY_PAIR), key_pair),
                })
                .collect(),
            key_pair: sealer.seal_if_any(KEY_PAIR, mem::take(&mut self.key_pair)),
            tls_client_key: sealer.seal_if_any(TLS_CLIENT_KEY, client_key),
            url: sealer.seal(URL, url),
        });
        Ok(())
    }

    /// Opens what is sealed. A row from before secrets were sealed stays as it is.
    pub fn open(&mut self, keys: &SealingKeys) -> Result<(), RecordError> {
        let Some(sealed) = self.sealed.take() else { return Ok(()) };
        let owner = self.owner()?;
        let open = |field: &str, sealed: &[u8]| {
            let opened = keys.open(sealed, SealContext { owner, field });
            opened.map(|secret| secret.expose().to_owned()).map_err(|why| unreadable(field, why))
        };
        let maybe = |field: &str, sealed: &[u8]| {
            if sealed.is_empty() { Ok(String::new()) } else { open(field, sealed) }
        };
        self.signing_secret = open(SIGNING_SECRET, &sealed.signing_secret)?;
        self.key_pair = maybe(KEY_PAIR, &sealed.key_pair)?;
        if !sealed.url.is_empty() {
            self.url = open(URL, &sealed.url)?;
        }
        if let Some(tls) = self.tls.as_mut().filter(|_| !sealed.tls_client_key.is_empty()) {
            tls.client_key = open(TLS_CLIENT_KEY, &sealed.tls_client_key)?;
        }
        for (name, value) in sealed.headers {
            let value = open(&header_field(&name), &value)?;
            self.headers.insert(name, value);
        }
        for SealedOlderRecord { secret, until, key_pair } in sealed.older_secrets {
            self.older_secrets.push(OlderSecretRecord {
                secret: open(&older_field(until, SIGNING_SECRET), &secret)?,
                until,
                key_pair: maybe(&older_field(until, KEY_PAIR), &key_pair)?,
            });
        }
        Ok(())
    }

    fn owner(&self) -> Result<Uuid, RecordError> {
        Uuid::from_slice(&self.uid).map_err(|e| unreadable("uid", e))
    }
}

/// Seals secrets of one owner.
struct Sealer<'a, R> {
    owner: Uuid,
    keys: &'a SealingKeys,
    random: &'a mut R,
}

impl<R: CryptoRng> Sealer<'_, R> {
    fn seal(&mut self, field: &str, text: String) -> Vec<u8> {
        self.keys.seal(&Secret::new(text), SealContext { owner: self.owner, field }, self.random)
    }

    fn seal_if_any(&mut self, field: &str, text: String) -> Vec<u8> {
        if text.is_empty() { Vec::new() } else { self.seal(field, text) }
    }
}

impl RequestRecord {
    /// Seals every secret of the result with the first of the keys.
    pub fn reseal(&mut self, keys: &SealingKeys, random: &mut impl CryptoRng) -> Result<(), RecordError> {
        if let Some(subscription) = &mut self.subscription {
            subscription.open(keys)?;
            subscription.seal(keys, random)?;
        }
        Ok(())
    }
}

const SIGNING_SECRET: &str = "signing_secret";
const KEY_PAIR: &str = "key_pair";
const TLS_CLIENT_KEY: &str = "tls.client_key";
const URL: &str = "url";

fn header_field(name: &str) -> String {
    format!("headers.{name}")
}

/// The time is part of the sealed context: nobody can extend the life of an older secret.
fn older_field(until: i64, field: &str) -> String {
    format!("older_secrets.{until}.{field}")
}

#[cfg(test)]
impl SubscriptionRecord {
    /// Seals it as versions did that left URLs in the clear.
    pub fn seal_but_url(&mut self, keys: &SealingKeys, random: &mut impl CryptoRng) {
        let url = self.url.clone();
        self.seal(keys, random).expect("it has an owner");
        self.url = url;
        self.sealed.as_mut().expect("it is sealed").url.clear();
    }

    /// Has the sealed secrets of another record.
    pub fn take_sealed_of(&mut self, other: Self) {
        self.sealed = other.sealed;
    }

    /// How many older secrets it has.
    pub fn older_count(&self) -> usize {
        self.sealed.as_ref().expect("it is sealed").older_secrets.len() + self.older_secrets.len()
    }
}
