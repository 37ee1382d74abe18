//! Access tokens: what they are made of, what is kept of them, and when they count.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Rights;
use crate::domain::{ids::IdError, secret::Secret, time::UnixMicros};

/// Most accounts that a token may name, from the contract (`AccessToken.accounts`).
pub const ACCOUNTS_MAX: usize = 100;
/// Longest name for people in characters, from the contract (`AccessToken.display_name`).
pub const DISPLAY_NAME_CHARS_MAX: usize = 63;
/// Longest token in characters; a longer one is none.
pub const TOKEN_CHARS_MAX: usize = 256;
/// How long a token is remembered that counts no more, from the contract (`AccessToken.revoke_time`).
pub const TOKENS_REMEMBERED: Duration = Duration::from_hours(30 * 24);

/// Fewest characters of a token that an operator chooses. What is stored is a plain hash of it, and nobody may guess it.
const CONFIGURED_CHARS_MIN: usize = 32;
/// What every token starts with that is made here, so that it is known for one wherever it turns up.
const PREFIX: &str = "tdg_";
/// Bytes of randomness in a token that is made here.
const NEW_TOKEN_BYTES: usize = 32;
/// The id of the token of the configuration. No id that is made here is equal.
const CONFIGURED_ID: &str = "admin";

/// A new token: `tdg_` and the base64 of 32 random bytes.
pub fn new_secret(random: &mut impl CryptoRng) -> Secret {
    let mut bytes = [0; NEW_TOKEN_BYTES];
    random.fill_bytes(&mut bytes);
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Why a token of the configuration is none. Says nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must have {CONFIGURED_CHARS_MIN} to {TOKEN_CHARS_MAX} characters of A-Z, a-z, 0-9 and -._~+/=, such as \
     `openssl rand -hex 32` prints"
)]
pub struct ConfiguredTokenError;

/// The token that an operator chose, without the white space around it: the end of a file's line.
///
/// # Errors
///
/// It is too short to be safe, or could not be sent in a header.
pub fn check_configured(text: &str) -> Result<Secret, ConfiguredTokenError> {
    let text = text.trim();
    // The characters of a bearer token, RFC 6750 section 2.1.
    let sendable = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if (CONFIGURED_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&text.len()) && text.bytes().all(sendable) {
        Ok(Secret::new(text))
    } else {
        Err(ConfiguredTokenError)
    }
}

/// What is kept of a token's text: its SHA-256. The text has 256 bits that nobody can guess, so that no slower hash is needed.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token's text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// A hash that was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// As it is stored.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What it is looked up by: its first half. What is found must be compared as well.
    pub fn key(&self) -> u128 {
        u128::from_be_bytes(*self.0.first_chunk().expect("half of 32 bytes is 16"))
    }
}

impl PartialEq for TokenHash {
    /// In a time that does not depend on where they differ.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::domain::secret::REDACTED)
    }
}

/// The last part of a token's name, `accessTokens/{access_token}`: lower-case letters and digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(Arc<str>);

impl TokenId {
    /// The id that the server makes of 64 random bits.
    pub fn made_of(random: u64) -> Self {
        Self(format!("t{random:016x}").into())
    }

    /// The id of the token that the configuration has.
    pub fn configured() -> Self {
        Self(CONFIGURED_ID.into())
    }

    /// The id as it stands in names.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The whole name.
    pub fn name(&self) -> String {
        format!("{COLLECTION}{}", self.0)
    }
}

const COLLECTION: &str = "accessTokens/";

/// Longest id of a token in characters.
const ID_CHARS_MAX: usize = 63;

impl FromStr for TokenId {
    type Err = IdError;

    /// Reads the whole name.
    fn from_str(text: &str) -> Result<Self, IdError> {
        const FORM: IdError = IdError::new("must be accessTokens/{access_token}");
        let id = text.strip_prefix(COLLECTION).ok_or(FORM)?;
        let fits = (1..=ID_CHARS_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits { Ok(Self(id.into())) } else { Err(FORM) }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// Its name.
    pub id: TokenId,
    /// For people.
    pub display_name: String,
    /// What its text is known by.
    pub hash: TokenHash,
    /// What its holder may do.
    pub rights: Rights,
    /// When it was made.
    pub create_time: UnixMicros,
    /// From when on it counts no more.
    pub expire_time: Option<UnixMicros>,
    /// When it was revoked.
    pub revoke_time: Option<UnixMicros>,
    /// When a call was last made with it, as far as it was written down.
    pub last_use_time: Option<UnixMicros>,
}

/// Whether a token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl AccessToken {
    /// Whether it counts at `now`.
    pub fn state(&self, now: UnixMicros) -> TokenState {
        if self.revoke_time.is_some() {
            TokenState::Revoked
        } else if self.expire_time.is_some_and(|expire_time| expire_time <= now) {
            TokenState::Expired
        } else {
            TokenState::Active
        }
    }

    /// Whether it has counted no more for so long that it is forgotten.
    pub fn is_forgotten(&self, now: UnixMicros) -> bool {
        let ended = [self.revoke_time, self.expire_time].into_iter().flatten().min();
        ended.is_some_and(|ended| now.since(ended) > TOKENS_REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn a_new_token_is_known_for_one_and_never_the_same() {
        let mut random = StdRng::seed_from_u64(1);
        let (one, other) = (new_secret(&mut random), new_secret(&mut random));
        assert_eq!(one.expose().len(), "tdg_".len() + 43);
        assert!(one.expose().starts_with("tdg_") && one != other);
        assert_eq!(check_configured(one.expose()), Ok(one.clone()), "it can be configured as well");
        assert_eq!(TokenHash::of(one.expose()), TokenHash::of(one.expose()));
        assert_ne!(TokenHash::of(one.expose()), TokenHash::of(other.expose()));
        assert_eq!(format!("{:?} {one:?}", TokenHash::of(one.expose())), "*** ***");
    }

    #[test]
    fn a_hash_is_the_sha_256_of_the_text() {
        // From FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hex: String = TokenHash::of("abc").as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, abc);
    }

    #[test]
    fn a_configured_token_is_long_and_can_be_sent() {
        let fits = "a".repeat(CONFIGURED_CHARS_MIN);
        assert_eq!(check_configured(&format!("  {fits}\r\n")), Ok(Secret::new(fits.as_str())));
        for text in [
            "",
            "\n",
            &fits[1..],
            &format!("{fits} {fits}"),
            &format!("{fits}ä"),
            &format!("{fits}\n{fits}"),
            &"a".repeat(TOKEN_CHARS_MAX + 1),
        ] {
            let error = check_configured(text).unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn names_come_back_and_others_are_refused() {
        let id = TokenId::made_of(0xabc);
        assert_eq!(id.name(), "accessTokens/t0000000000000abc");
        assert_eq!(id.name().parse::<TokenId>().unwrap(), id);
        assert_ne!(TokenId::configured(), TokenId::made_of(u64::MAX));
        for text in ["", "t1", "accessTokens/", "accessTokens/T", "accessTokens/a/b", "accounts/1"] {
            assert!(text.parse::<TokenId>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_token_counts_until_it_expires_or_is_revoked_and_is_forgotten_later() {
        let at = |seconds: i64| UnixMicros(seconds * 1_000_000);
        let token = AccessToken {
            id: TokenId::made_of(1),
            display_name: String::new(),
            hash: TokenHash::of("x"),
            rights: Rights::all(),
            create_time: at(0),
            expire_time: Some(at(10)),
            revoke_time: None,
            last_use_time: None,
        };
        assert_eq!(
            [9, 10, 11].map(|now| token.state(at(now))),
            [TokenState::Active, TokenState::Expired, TokenState::Expired]
        );
        let remembered = i64::try_from(TOKENS_REMEMBERED.as_secs()).unwrap();
        assert_eq!([10, 11].map(|end| token.is_forgotten(at(end + remembered))), [false, true]);
        let revoked = AccessToken { revoke_time: Some(at(2)), ..token.clone() };
        assert_eq!(revoked.state(at(1)), TokenState::Revoked);
        assert!(revoked.is_forgotten(at(3 + remembered)));
        let endless = AccessToken { expire_time: None, ..token };
        assert_eq!(endless.state(UnixMicros(i64::MAX)), TokenState::Active);
        assert!(!endless.is_forgotten(UnixMicros(i64::MAX)));
    }
}
