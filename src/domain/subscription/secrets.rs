//! What the POSTs of a subscription are signed with, and how its secret is rotated.

use std::{borrow::Cow, time::Duration};

use super::check::to_duration;
use crate::domain::{secret::Secret, time::UnixMicros};

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
    pub newest: Secret,
    /// What POSTs are signed with as well, each for a while, the newest first.
    pub older: Vec<OlderSecret>,
}

/// A secret that was rotated away, and signs for a while beside the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderSecret {
    /// The secret.
    pub secret: Secret,
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
    pub fn at(&self, at: UnixMicros) -> Cow<'_, [Secret]> {
        if self.older.is_empty() {
            return Cow::Borrowed(std::slice::from_ref(&self.newest));
        }
        let older = self.older_at(at).map(|older| &older.secret);
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
    pub fn rotate(&mut self, new: Secret, overlap: Duration, now: UnixMicros) {
        let until = now.plus(overlap);
        for older in &mut self.older {
            older.until = older.until.min(until);
        }
        let secret = std::mem::replace(&mut self.newest, new);
        self.older.insert(0, OlderSecret { secret, until });
    }

    /// Forgets the older secrets that do not sign at `now`, nor later.
    pub fn forget_old(&mut self, now: UnixMicros) {
        self.older.retain(|older| now < older.until);
    }
}

impl From<Secret> for SigningSecrets {
    /// This one alone.
    fn from(newest: Secret) -> Self {
        Self { newest, older: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn hour(count: u32) -> UnixMicros {
        UnixMicros(0).plus(HOUR * count)
    }

    fn one() -> SigningSecrets {
        Secret::new("first").into()
    }

    fn signing(secrets: &SigningSecrets, at: UnixMicros) -> Vec<String> {
        secrets.at(at).iter().map(|secret| secret.expose().to_owned()).collect()
    }

    #[test]
    fn both_secrets_sign_until_the_overlap_is_over() {
        let mut secrets = one();
        assert_eq!(signing(&secrets, hour(0)), ["first"]);
        secrets.rotate(Secret::new("second"), HOUR * 2, hour(1));
        assert_eq!(signing(&secrets, hour(1)), ["second", "first"]);
        assert_eq!(signing(&secrets, UnixMicros(hour(3).0 - 1)), ["second", "first"]);
        assert_eq!(signing(&secrets, hour(3)), ["second"]);
    }

    #[test]
    fn a_second_rotation_leaves_older_secrets_their_time_and_no_more() {
        let mut secrets = one();
        secrets.rotate(Secret::new("second"), HOUR * 4, hour(0));
        secrets.rotate(Secret::new("third"), HOUR * 9, hour(1));
        assert_eq!(signing(&secrets, hour(2)), ["third", "second", "first"]);
        assert_eq!(signing(&secrets, hour(4)), ["third", "second"]);
        secrets.rotate(Secret::new("fourth"), HOUR, hour(2));
        assert_eq!(signing(&secrets, hour(2)), ["fourth", "third", "second", "first"]);
        assert_eq!(signing(&secrets, hour(3)), ["fourth"], "the latest overlap is the longest");
    }

    #[test]
    fn a_rotation_without_overlap_ends_every_older_secret() {
        let mut secrets = one();
        secrets.rotate(Secret::new("second"), HOUR, hour(0));
        secrets.rotate(Secret::new("third"), Duration::ZERO, hour(0));
        assert_eq!(signing(&secrets, hour(0)), ["third"]);
        secrets.forget_old(hour(0));
        assert_eq!(secrets.older, []);
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
        secrets.rotate(Secret::new("second"), HOUR, hour(0));
        let printed = format!("{secrets:#?}");
        assert!(!printed.contains("first") && !printed.contains("second"), "{printed}");
    }
}
