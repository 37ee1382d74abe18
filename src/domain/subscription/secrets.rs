//! The signing secrets of a subscription and their rotation.

use std::{borrow::Cow, time::Duration};

use super::fields::to_duration;
use crate::domain::{key_pair::KeyPair, signature::Signer, time::UnixMicros};

/// Default time for which an older secret still signs after a rotation.
pub const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
/// Longest time for which an older secret may still sign.
pub const OVERLAP_MAX: Duration = Duration::from_hours(30 * 24);
/// Most older secrets at a time; bounds the header.
pub const OLDER_SECRETS_MAX: usize = 3;

/// The signing secrets of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningSecrets {
    /// Signs every POST.
    pub newest: Signer,
    /// Sign POSTs too until they expire; the newest first.
    pub older: Vec<OlderSecret>,
}

/// A secret that was rotated and still signs for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderSecret {
    /// The secret, with the key pair that it had.
    pub signer: Signer,
    /// Its expiry.
    pub until: UnixMicros,
}

/// The overlap that a rotation requests, or why it is invalid.
pub fn check_overlap(overlap: Option<prost_types::Duration>) -> Result<Duration, &'static str> {
    match overlap.map(to_duration) {
        None => Ok(OVERLAP_DEFAULT),
        Some(Some(overlap)) if overlap <= OVERLAP_MAX => Ok(overlap),
        Some(_) => Err("must be 0s to 2592000s, which is 30 days"),
    }
}

impl SigningSecrets {
    /// The signers of a POST at `at`, the newest first.
    pub fn at(&self, at: UnixMicros) -> Cow<'_, [Signer]> {
        if self.older.is_empty() {
            return Cow::Borrowed(std::slice::from_ref(&self.newest));
        }
        let older = self.older_at(at).map(|older| &older.signer);
        Cow::Owned(std::iter::once(&self.newest).chain(older).cloned().collect())
    }

    /// The older secrets that still sign at `at`, the newest first.
    pub fn older_at(&self, at: UnixMicros) -> impl Iterator<Item = &OlderSecret> {
        self.older.iter().filter(move |older| at < older.until)
    }

    /// Whether the current secret may become one of the older ones at `at`: they have a bound.
    pub fn may_rotate(&self, at: UnixMicros) -> bool {
        self.older_at(at).count() < OLDER_SECRETS_MAX
    }

    /// Signs with `new` from `now` on, and with the current secret too for `overlap`.
    ///
    /// Older secrets sign until they expire, but no longer than `overlap`: a leaked secret is useful for no
    /// longer than the latest rotation allows.
    pub fn rotate(&mut self, new: Signer, overlap: Duration, now: UnixMicros) {
        let until = now.plus(overlap);
        for older in &mut self.older {
            older.until = older.until.min(until);
        }
        let signer = std::mem::replace(&mut self.newest, new);
        self.older.insert(0, OlderSecret { signer, until });
    }

    /// Signs with another scheme from `now` on, with the same secret: with this key pair, or by HMAC. The
    /// previous scheme signs too for [`OVERLAP_DEFAULT`], since receivers need time to get the new public
    /// key.
    pub fn change_scheme(&mut self, key_pair: Option<KeyPair>, now: UnixMicros) {
        let new = Signer { secret: self.newest.secret.clone(), key_pair };
        let signer = std::mem::replace(&mut self.newest, new);
        self.older.insert(0, OlderSecret { signer, until: now.plus(OVERLAP_DEFAULT) });
    }

    /// Removes the older secrets that have expired at `now`.
    pub fn forget_old(&mut self, now: UnixMicros) {
        self.older.retain(|older| now < older.until);
    }
}

impl From<Signer> for SigningSecrets {
    /// This one only.
    fn from(newest: Signer) -> Self {
        Self { newest, older: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::domain::secret::Secret;

    const HOUR: Duration = Duration::from_hours(1);

    fn hour(count: u32) -> UnixMicros {
        UnixMicros(0).plus(HOUR * count)
    }

    fn one() -> SigningSecrets {
        secret("first").into()
    }

    fn secret(text: &str) -> Signer {
        Secret::new(text).into()
    }

    fn signing(secrets: &SigningSecrets, at: UnixMicros) -> Vec<String> {
        secrets.at(at).iter().map(|signer| signer.secret.expose().to_owned()).collect()
    }

    #[test]
    fn both_secrets_sign_until_the_overlap_is_over() {
        let mut secrets = one();
        assert_eq!(signing(&secrets, hour(0)), ["first"]);
        secrets.rotate(secret("second"), HOUR * 2, hour(1));
        assert_eq!(signing(&secrets, hour(1)), ["second", "first"]);
        assert_eq!(signing(&secrets, UnixMicros(hour(3).0 - 1)), ["second", "first"]);
        assert_eq!(signing(&secrets, hour(3)), ["second"]);
    }

    #[test]
    fn a_second_rotation_leaves_older_secrets_their_time_and_no_more() {
        let mut secrets = one();
        secrets.rotate(secret("second"), HOUR * 4, hour(0));
        secrets.rotate(secret("third"), HOUR * 9, hour(1));
        assert_eq!(signing(&secrets, hour(2)), ["third", "second", "first"]);
        assert_eq!(signing(&secrets, hour(4)), ["third", "second"]);
        secrets.rotate(secret("fourth"), HOUR, hour(2));
        assert_eq!(signing(&secrets, hour(2)), ["fourth", "third", "second", "first"]);
        assert_eq!(signing(&secrets, hour(3)), ["fourth"], "the latest overlap is the longest");
    }

    #[test]
    fn a_rotation_without_overlap_ends_every_older_secret() {
        let mut secrets = one();
        secrets.rotate(secret("second"), HOUR, hour(0));
        secrets.rotate(secret("third"), Duration::ZERO, hour(0));
        assert_eq!(signing(&secrets, hour(0)), ["third"]);
        secrets.forget_old(hour(0));
        assert_eq!(secrets.older, []);
    }

    #[test]
    fn a_change_of_scheme_keeps_the_secret_and_signs_as_before_for_a_while() {
        let key_pair = KeyPair::draw(&mut StdRng::seed_from_u64(1));
        let mut secrets = one();
        secrets.rotate(secret("second"), OVERLAP_MAX, hour(0));
        secrets.change_scheme(Some(key_pair.clone()), hour(1));
        let first = secret("first");
        let second = secret("second");
        let with_key = Signer { key_pair: Some(key_pair), ..second.clone() };
        assert_eq!(*secrets.at(hour(1)), [with_key.clone(), second, first.clone()]);
        assert_eq!(*secrets.at(hour(25)), [with_key.clone(), first], "the overlap of the rotation stays");
        secrets.change_scheme(None, hour(26));
        assert_eq!(*secrets.at(hour(26)), [secret("second"), with_key, secret("first")]);
    }

    #[test]
    fn an_overlap_keeps_to_its_bounds() {
        let asked = |seconds, nanos| check_overlap(Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(check_overlap(None), Ok(OVERLAP_DEFAULT));
        assert_eq!(asked(0, 0), Ok(Duration::ZERO));
        assert_eq!(asked(2_592_000, 0), Ok(OVERLAP_MAX));
        for (seconds, nanos) in [(2_592_000, 1), (-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert!(asked(seconds, nanos).is_err(), "{seconds} s and {nanos} ns were accepted");
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let mut secrets = one();
        secrets.rotate(secret("second"), HOUR, hour(0));
        let printed = format!("{secrets:#?}");
        assert!(!printed.contains("first") && !printed.contains("second"), "{printed}");
    }
}
