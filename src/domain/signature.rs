//! Signatures of POSTs: `webhook-signature` of Standard Webhooks and `X-Chatwoot-Signature` of Chatwoot.
//!
//! During the overlap of a rotation there are several signers, the newest first.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use uuid::Uuid;

use super::{
    key_pair::{KeyPair, SIGNATURE_BYTES},
    secret::Secret,
};

/// Shortest signing secret in characters, from the contract (`CreateSubscriptionRequest.signing_secret`).
pub const SECRET_CHARS_MIN: usize = 16;
/// Longest signing secret in characters, from the contract (`CreateSubscriptionRequest.signing_secret`).
pub const SECRET_CHARS_MAX: usize = 256;
/// Fewest bytes in the base64 of a `whsec_` secret, from Standard Webhooks.
pub const SECRET_KEY_BYTES_MIN: usize = 24;
/// Most bytes in the base64 of a `whsec_` secret, from Standard Webhooks.
pub const SECRET_KEY_BYTES_MAX: usize = 64;

/// The prefix of secrets in base64.
const SECRET_PREFIX: &str = "whsec_";
/// Random bytes of a generated secret.
const NEW_SECRET_BYTES: usize = 32;
/// Characters of one signature of `webhook-signature` and the space before the next: `v1,`, base64 of 32
/// bytes, space.
const SIGNATURE_CHARS: usize = 3 + 44 + 1;
/// The same with Ed25519: `v1a,`, base64 of 64 bytes, space.
const ASYMMETRIC_SIGNATURE_CHARS: usize = 4 + SIGNATURE_BYTES.div_ceil(3) * 4 + 1;

/// A secret and its key pair, which sign POSTs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The secret: for `X-Chatwoot-Signature`, and for `webhook-signature` unless there is a key pair.
    pub secret: Secret,
    /// Signs `webhook-signature` if the scheme is Ed25519.
    pub key_pair: Option<KeyPair>,
}

impl From<Secret> for Signer {
    /// Signs by HMAC with this secret.
    fn from(secret: Secret) -> Self {
        Self { secret, key_pair: None }
    }
}

/// A new secret: `whsec_` and the base64 of 32 random bytes.
pub fn new_secret(random: &mut impl CryptoRng) -> Secret {
    let mut key = [0; NEW_SECRET_BYTES];
    random.fill_bytes(&mut key);
    Secret::new(format!("{SECRET_PREFIX}{}", STANDARD.encode(key)))
}

/// Checks a signing secret; errors with the rule that it violates.
///
/// It must be 16 to 256 printable ASCII characters. After `whsec_` it must be the padded base64 of 24 to 64
/// bytes: receivers' libraries decode it, and every signature would fail if they could not.
pub fn check_secret(secret: &str) -> Result<(), &'static str> {
    let printable = secret.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    if !printable || !(SECRET_CHARS_MIN..=SECRET_CHARS_MAX).contains(&secret.len()) {
        return Err("must be 16 to 256 printable ASCII characters");
    }
    let Some(encoded) = secret.strip_prefix(SECRET_PREFIX) else { return Ok(()) };
    match STANDARD.decode(encoded) {
        Ok(key) if (SECRET_KEY_BYTES_MIN..=SECRET_KEY_BYTES_MAX).contains(&key.len()) => Ok(()),
        _ => Err("must continue after whsec_ with the padded base64 of 24 to 64 bytes"),
    }
}

/// The secret as the libraries of Standard Webhooks take it: `whsec_` and the base64 of the key. They decode what they
/// are given, so that a secret of another form, whose key is its characters, needs this one.
pub fn for_libraries(secret: &Secret) -> Secret {
    if secret.expose().starts_with(SECRET_PREFIX) {
        return secret.clone();
    }
    Secret::new(format!("{SECRET_PREFIX}{}", STANDARD.encode(standard_key(secret))))
}

/// The value of `webhook-signature`, one signature of `id.timestamp.body` for each signer, a space between
/// two: `v1,` and the base64 of the HMAC-SHA256, or `v1a,` and that of the Ed25519 signature. `timestamp` is
/// in seconds since the epoch, as in `webhook-timestamp`.
pub fn standard(signers: &[Signer], id: Uuid, timestamp: i64, body: &[u8]) -> String {
    let mut buffer = Uuid::encode_buffer();
    let head = format!("{}.{timestamp}.", id.hyphenated().encode_lower(&mut buffer));
    let mut signatures = String::with_capacity(signers.iter().map(signature_chars).sum());
    for signer in signers {
        if !signatures.is_empty() {
            signatures.push(' ');
        }
        match &signer.key_pair {
            None => {
                signatures.push_str("v1,");
                let key = standard_key(&signer.secret);
                STANDARD.encode_string(hmac_sha256(&key, &head, body), &mut signatures);
            }
            Some(key_pair) => {
                signatures.push_str("v1a,");
                STANDARD.encode_string(key_pair.sign(&[head.as_bytes(), body].concat()), &mut signatures);
            }
        }
    }
    signatures
}

fn signature_chars(signer: &Signer) -> usize {
    if signer.key_pair.is_none() { SIGNATURE_CHARS } else { ASYMMETRIC_SIGNATURE_CHARS }
}

/// The value of `X-Chatwoot-Signature`: `sha256=` and the lower-case hex of the HMAC-SHA256 of
/// `timestamp.body`. The key is the text of the secret, including `whsec_`. The header has one signature:
/// that of the newest secret.
pub fn chatwoot(newest: &Secret, timestamp: i64, body: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = hmac_sha256(newest.expose().as_bytes(), &format!("{timestamp}."), body);
    let mut signature = String::with_capacity("sha256=".len() + 2 * digest.len());
    signature.push_str("sha256=");
    for byte in digest {
        signature.push(char::from(DIGITS[usize::from(byte >> 4)]));
        signature.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    signature
}

/// The key for Standard Webhooks: the decoded base64 after `whsec_`, or the bytes of any other secret.
fn standard_key(secret: &Secret) -> Vec<u8> {
    let text = secret.expose();
    // `check_secret` refused a secret with whsec_ that does not decode.
    text.strip_prefix(SECRET_PREFIX)
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .unwrap_or_else(|| text.as_bytes().to_vec())
}

fn hmac_sha256(key: &[u8], head: &str, body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(head.as_bytes());
    mac.update(body);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::domain::key_pair::{tests::PRIVATE, verifies};

    const KNOWN: &str =
        "v1a,C3d37Mta6AGrrOrEBv85rC+4jXFplb+zUI/SjCS86CFWxgroplSEAozaqGmA8hqtiHvPMGPcXq4qGm2DTd8bCw==";

    #[test]
    fn chatwoot_signs_the_timestamp_and_the_body_with_the_characters_of_the_secret() {
        let secret = Secret::new("test-secret");
        let signature = chatwoot(&secret, 1_700_000_000, br#"{"event":"message_created"}"#);
        assert_eq!(signature, "sha256=9dcdcaaadf7652a518bc7d9ec7403c6cbae2abfba9cf20f561683beec1e34b81");
    }

    #[test]
    fn a_whsec_secret_signs_with_the_bytes_that_its_base64_stands_for() {
        let key = b"0123456789abcdef0123456789abcdef";
        let encoded = Secret::new(format!("whsec_{}", STANDARD.encode(key)));
        let plain = Secret::new(String::from_utf8(key.to_vec()).unwrap());
        let sign = |secret: &Secret| standard(&[secret.clone().into()], Uuid::nil(), 1, b"{}");
        assert_eq!(sign(&encoded), sign(&plain));
        assert_ne!(chatwoot(&encoded, 1, b"{}"), chatwoot(&plain, 1, b"{}"));
    }

    #[test]
    fn a_secret_for_libraries_stands_for_the_same_key() {
        let mut random = StdRng::seed_from_u64(1);
        let generated = new_secret(&mut random);
        assert_eq!(for_libraries(&generated), generated);
        let own = Secret::new("a secret of our own");
        let shown = for_libraries(&own);
        assert!(shown.expose().starts_with("whsec_"));
        assert_eq!(standard_key(&shown), standard_key(&own));
    }

    #[test]
    fn standard_webhooks_signs_the_id_the_timestamp_and_the_body() {
        // Computed with `openssl dgst -sha256 -hmac test-secret-of-16 -binary | base64`.
        let secret = Secret::new("test-secret-of-16");
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let signature = standard(&[secret.into()], id, 1_700_000_000, br#"{"event":"message_created"}"#);
        assert_eq!(signature, "v1,jPOUVQbonUe1TmN+H6yeouptrSLqXIIZHxhQ+HogsQ4=");
    }

    #[test]
    fn two_secrets_give_two_signatures_the_newest_first() {
        let (new, old) = (Secret::new("the-newer-secret"), Secret::new("the-older-secret"));
        let one = |secret: &Secret| standard(&[secret.clone().into()], Uuid::nil(), 7, b"x");
        let both = standard(&[new.clone().into(), old.clone().into()], Uuid::nil(), 7, b"x");
        assert_eq!(both, format!("{} {}", one(&new), one(&old)));
    }

    #[test]
    fn a_key_pair_signs_the_same_in_place_of_the_secret() {
        let key_pair = KeyPair::parse(&Secret::new(PRIVATE)).unwrap();
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let body = br#"{"event":"message_created"}"#;
        let signer = Signer { secret: Secret::new("test-secret-of-16"), key_pair: Some(key_pair.clone()) };
        let signatures = standard(&[signer, Secret::new("the-older-secret").into()], id, 1_700_000_000, body);
        let (asymmetric, older) = signatures.split_once(' ').unwrap();
        assert_eq!(older, standard(&[Secret::new("the-older-secret").into()], id, 1_700_000_000, body));
        assert_eq!(signatures.len() + 1, ASYMMETRIC_SIGNATURE_CHARS + SIGNATURE_CHARS);
        // Computed with `crypto.sign` of Node.js.
        assert_eq!(asymmetric, KNOWN);
        let signature = STANDARD.decode(asymmetric.strip_prefix("v1a,").unwrap()).unwrap();
        let signed = br#"01234567-89ab-cdef-0123-456789abcdef.1700000000.{"event":"message_created"}"#;
        assert!(verifies(&key_pair.public(), signed, &signature));
    }

    #[test]
    fn a_new_secret_passes_its_own_check_and_is_new() {
        let mut random = StdRng::seed_from_u64(1);
        let (one, other) = (new_secret(&mut random), new_secret(&mut random));
        assert_eq!(check_secret(one.expose()), Ok(()));
        assert_ne!(one, other);
    }

    #[test]
    fn secrets_keep_to_their_rules() {
        let whsec = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        let taken = [
            "a".repeat(16),
            "a".repeat(256),
            "with spaces in it".to_owned(),
            whsec(24),
            whsec(32),
            whsec(64),
        ];
        for secret in &taken {
            assert_eq!(check_secret(secret), Ok(()), "{secret:?}");
        }
        let unpadded = whsec(32).trim_end_matches('=').to_owned();
        let refused = [
            String::new(),
            "a".repeat(15),
            "a".repeat(257),
            "sixteen letters ä".to_owned(),
            "sixteen letters\t!".to_owned(),
            "sixteen letters\n!".to_owned(),
            whsec(23),
            whsec(65),
            "whsec_not base64 at all!".to_owned(),
            unpadded,
        ];
        for secret in &refused {
            assert!(check_secret(secret).is_err(), "{secret:?} was taken");
        }
    }
}
