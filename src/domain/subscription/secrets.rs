//! What the POSTs of a subscription are signed with, and how its secret is rotated.

use std::{borrow::Cow, time::Duration};

use super::fields::to_duration;
use crate::domain::{key_pair::KeyPair, signature::Signer, time::UnixMicros};

/// For how long an older secret signs as well, where a rotation does not say.
pub const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
/// For how long an older secret may sign as well.
pub const OVERLAP_MAX: Duration = Duration::from_hours(30 * 24);
/// Most older secrets that sign at a time, so that the header stays short.
pub const OLDER_SECRETS_MAX: usize = 3;

/// The signing secrets of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningSecrets {
    /// What every POST is signed with.
    pub newest: Signer,
    /// What POSTs are signed with as well, each for a while, the newest first.
    pub older: Vec<OlderSecret>,
}

/// A secret that was rotated away, and signs for a while beside the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderSecret {
    /// The secret, with the key pair that it had.
    pub signer: Signer,
    /// From when on it does not sign any more.
    pub until: UnixMicros,
}

/// The overlap that a rotation asks for; if it may not be asked for, the rule that it breaks.
pub fn check_overlap(overlap: Option<prost_types::Duration>) -> Result<Duration, &'static str> {
    match overlap.map(to_duration) {
        None => Ok(OVERLAP_DEFAULT),
        Some(Some(overlap)) if overlap <= OVERLAP_MAX => Ok(overlap),
        Some(_) => Err("must be 0s to 2592000s, which is 30 days"),
    }
}

impl SigningSecrets {
    /// What a POST at `at` is signed with, the newest first.
    pub fn at(&self, at: UnixMicros) -> Cow<'_, [Signer]> {
        if self.older.is_empty() {
            return Cow::Borrowed(std::slice::from_ref(&self.newest));
        }
        let older = self.older_at(at).map(|older| &older.signer);
        Cow::Owned(std::iter::once(&self.newest).chain(older).cloned().collect())
    }

    /// The older secrets that still sign at `at`, the newest of them first.
    pub fn older_at(&self, at: UnixMicros) -> impl Iterator<Item = &OlderSecret> {
        self.older.iter().filter(move |older| at < older.until)
    }

    /// Signs with `new` from `now` on, and for `overlap` with the secret so far as well.
    ///
    /// Those that are older still sign until their own time is over, but no longer than that: whoever knows a secret that is
    /// to be given up can make use of it for no longer than the latest rotation says.
    pub fn rotate(&mut self, new: Signer, overlap: Duration, now: UnixMicros) {
        let until = now.plus(overlap);
        for older in &mut self.older {
            older.until = older.until.min(until);
        }
        let signer = std::mem::replace(&mut self.newest, new);
        self.older.insert(0, OlderSecret { signer, until });
    }

    /// Signs by another scheme from `now` on, with the same secret: with this key pair, or by HMAC. For [`OVERLAP_DEFAULT`] POSTs
    /// are signed as before as well, since receivers learn of a new public key no sooner than it is there.
    pub fn change_scheme(&mut self, key_pair: Option<KeyPair>, now: UnixMicros) {
        let new = Signer { secret: self.newest.secret.clone(), key_pair };
        let signer = std::mem::replace(&mut self.newest, new);
        self.older.insert(0, OlderSecret { signer, until: now.plus(OVERLAP_DEFAULT) });
    }

    /// Forgets the older secrets that do not sign at `now`, nor later.
    pub fn forget_old(&mut self, now: UnixMicros) {
        self.older.retain(|older| now < older.until);
    }
}

impl From<Signer> for SigningSecrets {
    /// This one alone.
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
            assert!(asked(seconds, nanos).is_err(), "{seconds} s and {nanos} ns were taken");
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
