//! Encryption of secrets at rest.
//!
//! A sealed secret is a version byte, the id of its key, a random nonce, and the ciphertext of
//! XChaCha20-Poly1305. Random nonces of this length do not collide. The context of the secret (its owner and
//! field) is authenticated as associated data.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::secret::Secret;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Most keys at a time: the current one and older ones.
pub const KEYS_MAX: usize = 8;

const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
/// The version of the format.
const VERSION: u8 = 1;
/// The header before the ciphertext: version, key id, nonce.
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES;

/// Identifies a key without revealing it. Shown as eight hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; KEY_ID_BYTES]);

/// A key that seals secrets. Its text is the base64 of 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey {
    id: KeyId,
    bytes: [u8; KEY_BYTES],
}

/// The available keys. The first one seals; all of them open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealingKeys(Vec<SealingKey>);

/// The owner and field of a secret. A sealed secret opens only in the context in which it was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealContext<'a> {
    /// The uid of the subscription, or of another owner.
    pub owner: Uuid,
    /// The field of the secret.
    pub field: &'a str,
}

/// The reason why a secret does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The bytes are not a sealed secret.
    #[error("is not a sealed secret")]
    Malformed,
    /// Its key is not available.
    #[error("is sealed with the unknown key {0}")]
    UnknownKey(KeyId),
    /// It was modified or copied from another record, or a different key has this id.
    #[error("failed authentication: modified, or copied from another record")]
    NotGenuine,
}

impl SealingKey {
    /// A new key.
    pub fn draw(random: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; KEY_BYTES];
        random.fill_bytes(&mut bytes);
        Self::of(bytes)
    }

    fn of(bytes: [u8; KEY_BYTES]) -> Self {
        let digest =
            Sha256::new().chain_update(b"tidings: id of a secrets key\0").chain_update(bytes).finalize();
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest[..KEY_ID_BYTES]);
        Self { id: KeyId(id), bytes }
    }

    /// Parses the text of a key; errors with the expected format.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self::of)
            .ok_or("must be the padded base64 of 32 bytes, as `openssl rand -base64 32` prints it")
    }

    /// Its text.
    pub fn to_text(&self) -> Secret {
        Secret::new(STANDARD.encode(self.bytes))
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.bytes.into())
    }
}

impl SealingKeys {
    /// This key only.
    pub fn one(key: SealingKey) -> Self {
        Self(vec![key])
    }

    /// Parses keys, one per line or separated by commas, the current one first. Empty lines and lines that
    /// begin with `#` are ignored.
    ///
    /// # Errors
    ///
    /// The problem, without any part of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let texts = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|text| !text.is_empty());
        let mut keys: Vec<SealingKey> = Vec::new();
        for (index, text) in texts.enumerate() {
            let key = SealingKey::parse(text).map_err(|rule| format!("key {} {rule}", index + 1))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(format!("key {} is a duplicate", index + 1));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err("it contains no key".to_owned()),
            1..=KEYS_MAX => Ok(Self(keys)),
            more => Err(format!("it contains {more} keys, more than {KEYS_MAX}")),
        }
    }

    /// The key that seals.
    pub fn first(&self) -> &SealingKey {
        &self.0[0]
    }

    /// All keys, the one that seals first.
    pub fn all(&self) -> &[SealingKey] {
        &self.0
    }

    /// These keys and a new one that seals from now on.
    pub fn after(&self, new: SealingKey) -> Self {
        Self(std::iter::once(new).chain(self.0.iter().cloned()).collect())
    }

    /// Seals a secret.
    pub fn seal(&self, secret: &Secret, context: SealContext<'_>, random: &mut impl CryptoRng) -> Vec<u8> {
        let key = self.first();
        let mut nonce = [0; NONCE_BYTES];
        random.fill_bytes(&mut nonce);
        let payload = Payload { msg: secret.expose().as_bytes(), aad: &context.associated() };
        let encrypted =
            key.cipher().encrypt(&XNonce::from(nonce), payload).expect("a secret is shorter than 256 GiB");
        let mut sealed = Vec::with_capacity(HEAD_BYTES + encrypted.len());
        sealed.push(VERSION);
        sealed.extend(key.id.0);
        sealed.extend(nonce);
        sealed.extend(encrypted);
        sealed
    }

    /// Opens a secret that one of the keys sealed in this context.
    ///
    /// # Errors
    ///
    /// None of the keys sealed it in this context.
    pub fn open(&self, sealed: &[u8], context: SealContext<'_>) -> Result<Secret, SealError> {
        let id = key_of(sealed)?;
        let key = self.0.iter().find(|key| key.id == id).ok_or(SealError::UnknownKey(id))?;
        let (head, encrypted) = sealed.split_first_chunk::<HEAD_BYTES>().ok_or(SealError::Malformed)?;
        let nonce: [u8; NONCE_BYTES] =
            head[1 + KEY_ID_BYTES..].try_into().expect("the head ends with the nonce");
        let payload = Payload { msg: encrypted, aad: &context.associated() };
        let opened =
            key.cipher().decrypt(&XNonce::from(nonce), payload).map_err(|_| SealError::NotGenuine)?;
        String::from_utf8(opened).map(Secret::new).map_err(|_| SealError::Malformed)
    }
}

/// The id of the key that sealed a secret.
///
/// # Errors
///
/// The bytes are not a sealed secret.
pub fn key_of(sealed: &[u8]) -> Result<KeyId, SealError> {
    match sealed.split_first_chunk::<{ 1 + KEY_ID_BYTES }>() {
        Some(([VERSION, id @ ..], _)) => Ok(KeyId(*id)),
        _ => Err(SealError::Malformed),
    }
}

impl SealContext<'_> {
    /// The associated data. The uid has a fixed length, so it is unique to the context.
    fn associated(self) -> Vec<u8> {
        let mut associated = Vec::with_capacity(1 + 16 + self.field.len());
        associated.push(VERSION);
        associated.extend(self.owner.as_bytes());
        associated.extend(self.field.as_bytes());
        associated
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const HERE: SealContext<'_> = SealContext { owner: Uuid::from_u128(7), field: "signing_secret" };

    fn random() -> StdRng {
        StdRng::seed_from_u64(1)
    }

    fn keys() -> SealingKeys {
        SealingKeys::one(SealingKey::draw(&mut random()))
    }

    #[test]
    fn a_secret_opens_in_its_context_only() {
        let (keys, secret) = (keys(), Secret::new("whsec_something"));
        let sealed = keys.seal(&secret, HERE, &mut random());
        assert_eq!(keys.open(&sealed, HERE), Ok(secret));
        let elsewhere = [
            SealContext { owner: Uuid::from_u128(8), ..HERE },
            SealContext { field: "signing_secre", ..HERE },
            SealContext { field: "headers.x", ..HERE },
        ];
        for context in elsewhere {
            assert_eq!(keys.open(&sealed, context), Err(SealError::NotGenuine), "{context:?}");
        }
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let keys = keys();
        let sealed = keys.seal(&Secret::new("secret"), HERE, &mut random());
        for bit in 0..8 * sealed.len() {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.open(&changed, HERE).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(keys.open(&sealed[..len], HERE).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn the_same_secret_seals_to_other_bytes_each_time_and_is_not_visible() {
        let (keys, mut random) = (keys(), random());
        let secret = Secret::new("a-secret-that-must-not-show");
        let (one, other) = (keys.seal(&secret, HERE, &mut random), keys.seal(&secret, HERE, &mut random));
        assert_ne!(one[HEAD_BYTES..], other[HEAD_BYTES..]);
        assert!(!one.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn an_older_key_opens_and_the_first_one_seals() {
        let mut random = random();
        let old = SealingKeys::one(SealingKey::draw(&mut random));
        let sealed = old.seal(&Secret::new("secret"), HERE, &mut random);
        let both = old.after(SealingKey::draw(&mut random));
        assert_eq!(both.open(&sealed, HERE), Ok(Secret::new("secret")));
        let resealed = both.seal(&Secret::new("secret"), HERE, &mut random);
        assert_eq!(key_of(&resealed), Ok(both.first().id()));
        assert_eq!(old.open(&resealed, HERE), Err(SealError::UnknownKey(both.first().id())));
    }

    #[test]
    fn secrets_of_earlier_versions_open() {
        // Computed with another implementation: see docs/security.md for the layout.
        let key = SealingKey::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        assert_eq!(key.id().to_string(), KNOWN_ID);
        let sealed = STANDARD.decode(KNOWN_SEALED).unwrap();
        assert_eq!(SealingKeys::one(key).open(&sealed, HERE), Ok(Secret::new("whsec_c2VjcmV0")));
    }

    const KNOWN_ID: &str = "b85a1a6c";
    const KNOWN_SEALED: &str =
        "AbhaGmxkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ensLG4rVnHHqsNFa/lLwX3FCDvp5NjbybOkzI4yFXyA=";

    #[test]
    fn keys_are_read_from_lines_and_lists() {
        let (one, other) = (keys(), SealingKeys::one(SealingKey::of([9; KEY_BYTES])));
        let text = |keys: &SealingKeys| keys.first().to_text().expose().to_owned();
        let both = other.after(one.first().clone());
        assert_eq!(
            SealingKeys::parse(&format!("# a key, and another\n\n {} \n", text(&one))),
            Ok(one.clone())
        );
        assert_eq!(SealingKeys::parse(&format!("{}\n{}", text(&one), text(&other))), Ok(both.clone()));
        assert_eq!(SealingKeys::parse(&format!("{}, {},", text(&one), text(&other))), Ok(both));

        let wrong = |text: String, expected: &str| {
            let problem = SealingKeys::parse(&text).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        wrong(String::new(), "no key");
        wrong("# only this\n".to_owned(), "no key");
        wrong(format!("{}\n{}", text(&one), text(&one)), "key 2 is a duplicate");
        wrong(format!("{},short", text(&one)), "key 2 must be the padded base64 of 32 bytes");
        wrong(STANDARD.encode([1; 31]), "key 1 must");
        wrong(STANDARD.encode([1; 33]), "key 1 must");
        let many: Vec<_> = (0..=8_u8).map(|n| STANDARD.encode([n; KEY_BYTES])).collect();
        wrong(many.join("\n"), "9 keys, more than 8");
    }

    #[test]
    fn no_key_is_printed() {
        let keys = keys();
        let printed = format!("{keys:?}");
        assert!(printed.contains(&keys.first().id().to_string()), "{printed}");
        assert!(!printed.contains(keys.first().to_text().expose()), "{printed}");
        let bytes = format!("{:?}", keys.first().bytes);
        assert!(!printed.contains(bytes.trim_matches(['[', ']'])), "{printed}");
    }
}
