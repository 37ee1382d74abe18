//! The keys that verify webhooks, and the verdicts on their signatures.

use base64::{Engine, engine::general_purpose::STANDARD};
use uuid::Uuid;

use super::Received;
use crate::domain::{key_pair, secret::Secret, signature};

/// The prefix of a signature by HMAC in `webhook-signature`.
const HMAC_PREFIX: &str = "v1,";
/// The prefix of a signature by Ed25519 in `webhook-signature`.
const ED25519_PREFIX: &str = "v1a,";

/// The keys of a receiver. A webhook may be signed with any of them: during a rotation there are several.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// For `v1` signatures, and for `x-chatwoot-signature`.
    pub secrets: Vec<Secret>,
    /// For `v1a` signatures: `whpk_` and base64.
    pub public_keys: Vec<String>,
}

/// What the signatures of a header are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One of the `of` signatures is valid. More than one: the secret is being rotated.
    Valid {
        /// Signatures in the header.
        of: usize,
    },
    /// It does not match, but another header is valid and shows that there is a newer secret.
    NewerSecret,
    /// No signature is valid.
    Invalid,
    /// There is no signature.
    Missing,
    /// There is no key of this kind.
    NotChecked,
}

impl Verdict {
    /// Whether a signature is valid.
    pub fn is_valid(self) -> bool {
        matches!(self, Self::Valid { .. })
    }

    /// The verdict for people and programs.
    pub fn text(self) -> &'static str {
        match self {
            Self::Valid { of: 0 | 1 } => "valid",
            Self::Valid { .. } => "valid; the secret is being rotated",
            Self::NewerSecret => "made with a newer secret, which is unknown here",
            Self::Invalid => "INVALID",
            Self::Missing => "missing",
            Self::NotChecked => "not checked",
        }
    }
}

/// The verdicts on the two signatures of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signatures {
    /// `webhook-signature`: any of its signatures.
    pub standard: Verdict,
    /// `x-chatwoot-signature`.
    pub chatwoot: Verdict,
}

impl Keys {
    /// One secret.
    pub fn secret(secret: Secret) -> Self {
        Self { secrets: vec![secret], public_keys: Vec::new() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.public_keys.is_empty()
    }

    /// Whether a request has an Ed25519 signature and none that is valid: the key may be a newer one.
    pub fn may_lack_public_key(&self, received: &Received) -> bool {
        let header = received.headers.get("webhook-signature").and_then(|value| value.to_str().ok());
        let is_signed =
            header.is_some_and(|given| given.split(' ').any(|one| one.starts_with(ED25519_PREFIX)));
        is_signed && !self.check(received).standard.is_valid()
    }

    /// Verifies the signatures. A malformed header is not valid.
    pub fn check(&self, received: &Received) -> Signatures {
        let standard = self.standard(received);
        Signatures { standard, chatwoot: self.chatwoot(received, standard) }
    }

    fn standard(&self, received: &Received) -> Verdict {
        let header = |name: &str| received.headers.get(name)?.to_str().ok();
        let Some(given) = header("webhook-signature") else { return Verdict::Missing };
        let given: Vec<_> = given.split(' ').collect();
        let known = given.iter().any(|signature| self.has_key_for(signature));
        if !known {
            return Verdict::NotChecked;
        }
        let signed = || Some((header("webhook-id")?, header("webhook-timestamp")?.parse().ok()?));
        let Some((id, timestamp)) = signed() else { return Verdict::Invalid };
        let is_valid = |signature: &&str| self.signed(signature, id, timestamp, &received.body);
        if given.iter().any(is_valid) { Verdict::Valid { of: given.len() } } else { Verdict::Invalid }
    }

    fn has_key_for(&self, signature: &str) -> bool {
        if signature.starts_with(ED25519_PREFIX) {
            !self.public_keys.is_empty()
        } else {
            !self.secrets.is_empty()
        }
    }

    fn signed(&self, given: &str, id: &str, timestamp: i64, body: &[u8]) -> bool {
        if let Some(encoded) = given.strip_prefix(ED25519_PREFIX) {
            let Ok(signature) = STANDARD.decode(encoded) else { return false };
            let message = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
            return self.public_keys.iter().any(|key| key_pair::verifies(key, &message, &signature));
        }
        // The gateway's ids are UUIDs.
        let Ok(id) = Uuid::try_parse(id) else { return false };
        let by = |secret: &Secret| signature::standard(&[secret.clone().into()], id, timestamp, body);
        given.starts_with(HMAC_PREFIX) && self.secrets.iter().any(|secret| given == by(secret))
    }

    fn chatwoot(&self, received: &Received, standard: Verdict) -> Verdict {
        let header = |name: &str| received.headers.get(name)?.to_str().ok();
        let Some(given) = header("x-chatwoot-signature") else { return Verdict::Missing };
        if self.secrets.is_empty() {
            return Verdict::NotChecked;
        }
        let timestamp = header("x-chatwoot-timestamp").and_then(|text| text.parse().ok());
        let by = |secret: &Secret, timestamp| signature::chatwoot(secret, timestamp, &received.body);
        match timestamp {
            Some(timestamp) if self.secrets.iter().any(|secret| given == by(secret, timestamp)) => {
                Verdict::Valid { of: 1 }
            }
            // This header has room for one signature: that of the newest secret.
            Some(_) if matches!(standard, Verdict::Valid { of: 2.. }) => Verdict::NewerSecret,
            _ => Verdict::Invalid,
        }
    }
}
