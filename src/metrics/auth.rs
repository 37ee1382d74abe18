//! Calls rejected by access control, by reason.

use super::Metrics;

/// Why access control rejected a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallDenied {
    /// The caller sent no token.
    Missing,
    /// The token is unknown.
    Invalid,
    /// The token has expired.
    Expired,
    /// The token was revoked.
    Revoked,
    /// Too many calls without a valid token came from the caller's address.
    RateLimited,
    /// The token lacks the scope of the method.
    Scope,
    /// The token is not valid for the account.
    Account,
}

impl CallDenied {
    /// All reasons, in the order of the counters.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Invalid,
        Self::Expired,
        Self::Revoked,
        Self::RateLimited,
        Self::Scope,
        Self::Account,
    ];

    /// The value of the label.
    pub const fn label(self) -> &'static str {
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
    /// Counts a rejected call, or a rejected message of a stream.
    pub fn call_denied(&self, reason: CallDenied) {
        self.calls_denied[reason as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        for (index, reason) in CallDenied::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.label());
        }
    }
}
