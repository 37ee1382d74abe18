//! Calls that their callers may not make, by why.

use super::Metrics;

/// Why a caller may not make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallDenied {
    /// It has no token.
    Missing,
    /// What it has is no token that is known.
    Invalid,
    /// Its token has expired.
    Expired,
    /// Its token was revoked.
    Revoked,
    /// Too many calls without a token that counts came from its address.
    RateLimited,
    /// Its token is not for such methods.
    Scope,
    /// Its token is not for the account.
    Account,
}

impl CallDenied {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Invalid,
        Self::Expired,
        Self::Revoked,
        Self::RateLimited,
        Self::Scope,
        Self::Account,
    ];

    /// As the label says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::RateLimited => "rate_limited",
            Self::Scope => "scope",
            Self::Account => "account",
        }
    }
}

impl Metrics {
    /// Counts a call, or a message of a stream, that its caller may not make.
    pub fn call_denied(&self, why: CallDenied) {
        self.calls_denied[why as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_in_its_own_place() {
        for (place, why) in CallDenied::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place, "{}", why.word());
        }
    }
}
