//! Access tokens: their generation, their hashes, and their validity.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Rights;
use crate::domain::{ids::IdError, secret::Secret, time::UnixMicros};

/// Most accounts that a token may name, from the contract (`AccessToken.accounts`).
pub const ACCOUNTS_MAX: usize = 100;
/// Longest display name in characters, from the contract (`AccessToken.display_name`).
pub const DISPLAY_NAME_CHARS_MAX: usize = 63;
/// Longest token in characters; a longer text is refused.
pub const TOKEN_CHARS_MAX: usize = 256;
/// How long an expired or revoked token is kept, from the contract (`AccessToken.revoke_time`).
pub const TOKENS_REMEMBERED: Duration = Duration::from_hours(30 * 24);

/// Fewest characters of a token in the configuration. Only a plain hash of it is stored, so it must be hard
/// to guess.
const CONFIGURED_CHARS_MIN: usize = 32;
/// The prefix of generated tokens, by which secret scanners recognise them.
const PREFIX: &str = "tdg_";
/// Random bytes of a generated token.
const NEW_TOKEN_BYTES: usize = 32;
/// The id of the token in the configuration. No generated id equals it.
const CONFIGURED_ID: &str = "admin";

/// A new token: `tdg_` and the base64 of 32 random bytes.
pub fn new_secret(random: &mut impl CryptoRng) -> Secret {
    let mut bytes = [0; NEW_TOKEN_BYTES];
    random.fill_bytes(&mut bytes);
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Why a token of the configuration is invalid. Does not contain the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must have {CONFIGURED_CHARS_MIN} to {TOKEN_CHARS_MAX} characters of A-Z, a-z, 0-9 and -._~+/=, such as \
     `openssl rand -hex 32` prints"
)]
pub struct ConfiguredTokenError;

/// The token of the configuration, without surrounding white space such as the end of a line.
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

/// The SHA-256 of a token. A token has 256 random bits, so it needs no slower hash.
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

    /// Its bytes, as stored.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its first half, for lookups. Compare the whole hash of the token found.
    pub fn key(&self) -> u128 {
        u128::from_be_bytes(*self.0.first_chunk().expect("half of 32 bytes is 16"))
    }
}

impl PartialEq for TokenHash {
    /// In constant time.
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
    /// The id that the server generates from 64 random bits.
    pub fn made_of(random: u64) -> Self {
        Self(format!("t{random:016x}").into())
    }

    /// The id of the token in the configuration.
    pub fn configured() -> Self {
        Self(CONFIGURED_ID.into())
    }

    /// The id as in resource names.
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

    /// Parses the whole name.
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
    /// Human-readable name.
    pub display_name: String,
    /// The hash of its text.
    pub hash: TokenHash,
    /// The rights of its holder.
    pub rights: Rights,
    /// Its creation.
    pub create_time: UnixMicros,
    /// Its expiry.
    pub expire_time: Option<UnixMicros>,
    /// Its revocation.
    pub revoke_time: Option<UnixMicros>,
    /// The last recorded call with it.
    pub last_use_time: Option<UnixMicros>,
}

/// The state of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Valid.
    Active,
    /// Its expiry has passed.
    Expired,
    /// Revoked by a caller.
    Revoked,
}

impl AccessToken {
    /// Its state at `now`.
    pub fn state(&self, now: UnixMicros) -> TokenState {
        if self.revoke_time.is_some() {
            TokenState::Revoked
        } else if self.expire_time.is_some_and(|expire_time| expire_time <= now) {
            TokenState::Expired
        } else {
            TokenState::Active
        }
    }

    /// Whether it expired or was revoked so long ago that it is deleted.
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
    fn a_new_token_has_the_prefix_and_is_unique() {
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
            assert!(text.parse::<TokenId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_token_is_valid_until_it_expires_or_is_revoked_and_is_forgotten_later() {
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
