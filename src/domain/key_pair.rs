//! Ed25519 key pairs for the asymmetric signatures of Standard Webhooks, `v1a`. Receivers get the public key
//! only.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use rand::CryptoRng;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::secret::Secret;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
const KEY_BYTES: usize = 32;

const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";

/// A private key and the public one that belongs to it.
#[derive(Clone)]
pub struct KeyPair {
    private: Secret,
    pair: Arc<Ed25519KeyPair>,
}

impl KeyPair {
    /// Generates a key pair.
    pub fn draw(random: &mut impl CryptoRng) -> Self {
        let mut seed = [0; KEY_BYTES];
        random.fill_bytes(&mut seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a private key");
        let mut both = seed.to_vec();
        both.extend(pair.public_key().as_ref());
        let private = Secret::new(format!("{PRIVATE_PREFIX}{}", STANDARD.encode(both)));
        Self { private, pair: Arc::new(pair) }
    }

    /// Parses a private key: `whsk_` and the base64 of its 32 bytes followed by those of the public key.
    ///
    /// # Errors
    ///
    /// The expected format.
    pub fn parse(private: &Secret) -> Result<Self, &'static str> {
        const RULE: &str =
            "must be whsk_ and the padded base64 of a private key of Ed25519 and its public key";
        let encoded = private.expose().strip_prefix(PRIVATE_PREFIX).ok_or(RULE)?;
        let both = STANDARD.decode(encoded).map_err(|_| RULE)?;
        let (seed, public) = both.split_at_checked(KEY_BYTES).ok_or(RULE)?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| RULE)?;
        Ok(Self { private: private.clone(), pair: Arc::new(pair) })
    }

    /// The private key, in the format of [`KeyPair::parse`].
    pub fn private(&self) -> &Secret {
        &self.private
    }

    /// The public key: `whpk_` and the base64 of its 32 bytes.
    pub fn public(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.pair.public_key()))
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(message);
        signature.as_ref().try_into().expect("a signature of Ed25519 has 64 bytes")
    }
}

/// Whether this is a public key: `whpk_` and the base64 of its 32 bytes.
pub fn is_public(text: &str) -> bool {
    let key = text.strip_prefix(PUBLIC_PREFIX).and_then(|encoded| STANDARD.decode(encoded).ok());
    key.is_some_and(|key| key.len() == KEY_BYTES)
}

/// Whether `signature` is valid for `message` and the public key `public`, `whpk_…`.
pub fn verifies(public: &str, message: &[u8], signature: &[u8]) -> bool {
    let key = public.strip_prefix(PUBLIC_PREFIX).and_then(|encoded| STANDARD.decode(encoded).ok());
    key.is_some_and(|key| UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok())
}

impl PartialEq for KeyPair {
    fn eq(&self, other: &Self) -> bool {
        self.private == other.private
    }
}

impl Eq for KeyPair {}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    /// The pair that the server of Svix, who wrote Standard Webhooks, is tested with.
    pub(crate) const PRIVATE: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

    #[test]
    fn the_published_pair_signs_as_published() {
        let pair = KeyPair::parse(&Secret::new(PRIVATE)).unwrap();
        assert_eq!(pair.public(), PUBLIC);
        let message = br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
        let expected =
            "hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        assert_eq!(STANDARD.encode(pair.sign(message)), expected);
    }

    #[test]
    fn a_new_pair_is_read_back_and_is_new() {
        let mut random = StdRng::seed_from_u64(1);
        let (one, other) = (KeyPair::draw(&mut random), KeyPair::draw(&mut random));
        assert_eq!(KeyPair::parse(one.private()), Ok(one.clone()));
        assert_ne!(one.public(), other.public());
        let signature = one.sign(b"message");
        assert!(verifies(&one.public(), b"message", &signature));
        assert!(!verifies(&one.public(), b"massage", &signature));
        assert!(!verifies(&other.public(), b"message", &signature));
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        let whole = STANDARD.decode(&PRIVATE[PRIVATE_PREFIX.len()..]).unwrap();
        let mut of_another = whole.clone();
        of_another[40] ^= 1;
        let with = |bytes: &[u8]| format!("{PRIVATE_PREFIX}{}", STANDARD.encode(bytes));
        for text in [
            String::new(),
            PUBLIC.to_owned(),
            PRIVATE.replace("whsk_", "whsec_"),
            with(&whole[..32]),
            with(&whole[..63]),
            with(&of_another),
            with(&[]),
        ] {
            assert!(KeyPair::parse(&Secret::new(text.clone())).is_err(), "{text}");
        }
    }

    #[test]
    fn the_private_key_is_not_printed() {
        let pair = KeyPair::parse(&Secret::new(PRIVATE)).unwrap();
        assert_eq!(format!("{pair:?}"), format!("KeyPair({PUBLIC})"));
    }
}
