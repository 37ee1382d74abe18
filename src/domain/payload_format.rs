//! The forms of a webhook's body.

/// Which form of the body is sent (`Subscription.payload_format` of the contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PayloadFormat {
    /// The documentation's sections "Objects" and "Webhook Events".
    Documented,
    /// The documentation's first sample for message events; other events as documented.
    Sample,
    /// What Chatwoot 4 really sends.
    Chatwoot,
}
