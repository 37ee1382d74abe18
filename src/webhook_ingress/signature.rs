//! Checks Chatwoot's signature: `X-Chatwoot-Signature` is the HMAC of `timestamp.body`.

use std::time::Duration;

use http::HeaderMap;
use subtle::ConstantTimeEq;

use crate::domain::{
    secret::Secret,
    signature,
    time::UnixMicros,
    webhook_headers::{CHATWOOT_SIGNATURE, CHATWOOT_TIMESTAMP},
};

/// Checks the headers. Errors with the rule that they break. The time is checked last, so that only senders
/// with the secret learn that it is wrong.
pub(super) fn check(
    secret: &Secret,
    headers: &HeaderMap,
    body: &[u8],
    now: UnixMicros,
    tolerance: Duration,
) -> Result<(), &'static str> {
    let signature = headers.get(CHATWOOT_SIGNATURE).ok_or("X-Chatwoot-Signature is required")?;
    let timestamp = headers.get(CHATWOOT_TIMESTAMP).ok_or("X-Chatwoot-Timestamp is required")?;
    let timestamp = timestamp.to_str().ok().and_then(|text| text.parse::<i64>().ok());
    let timestamp = timestamp.ok_or("X-Chatwoot-Timestamp must be in seconds since 1970")?;
    let expected = signature::chatwoot(secret, timestamp, body);
    if !bool::from(expected.as_bytes().ct_eq(signature.as_bytes())) {
        return Err("X-Chatwoot-Signature does not match timestamp.body and the signing secret");
    }
    if now.seconds().abs_diff(timestamp) > tolerance.as_secs() {
        return Err("X-Chatwoot-Timestamp is too far from the gateway's time: ingest_signature_tolerance");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;
    const BODY: &[u8] = br#"{"event":"message_created"}"#;
    /// From the design of the JSON, for the secret `test-secret`.
    const SIGNATURE: &str = "sha256=9dcdcaaadf7652a518bc7d9ec7403c6cbae2abfba9cf20f561683beec1e34b81";

    fn checked(
        signature: Option<&str>,
        timestamp: Option<&str>,
        body: &[u8],
        now: i64,
    ) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in [(CHATWOOT_SIGNATURE, signature), (CHATWOOT_TIMESTAMP, timestamp)] {
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        check(
            &Secret::new("test-secret"),
            &headers,
            body,
            UnixMicros(now * 1_000_000),
            Duration::from_secs(300),
        )
    }

    #[test]
    fn a_signature_is_valid_for_five_minutes_before_and_after() {
        let at = |now| checked(Some(SIGNATURE), Some("1700000000"), BODY, now);
        for now in [NOW, NOW - 300, NOW + 300] {
            assert_eq!(at(now), Ok(()), "{now}");
        }
        for now in [NOW - 301, NOW + 301, 0] {
            assert!(at(now).unwrap_err().contains("ingest_signature_tolerance"), "{now}");
        }
    }

    #[test]
    fn invalid_signatures_are_rejected_with_their_rule() {
        let stamp = Some("1700000000");
        let upper = SIGNATURE.to_uppercase();
        let without_timestamp = signature::chatwoot(&Secret::new("test-secret"), 0, BODY);
        for (signature, timestamp, body, rule) in [
            (None, stamp, BODY, "X-Chatwoot-Signature is required"),
            (Some(SIGNATURE), None, BODY, "X-Chatwoot-Timestamp is required"),
            (Some(SIGNATURE), Some("soon"), BODY, "must be in seconds since 1970"),
            (Some(SIGNATURE), Some("1700000001"), BODY, "does not match timestamp.body"),
            (Some(SIGNATURE), stamp, b"{}", "does not match timestamp.body"),
            (Some(""), stamp, BODY, "does not match timestamp.body"),
            (Some(&SIGNATURE[..40]), stamp, BODY, "does not match timestamp.body"),
            (Some(&upper), stamp, BODY, "does not match timestamp.body"),
            (Some(&without_timestamp), stamp, BODY, "does not match timestamp.body"),
        ] {
            let error = checked(signature, timestamp, body, NOW).unwrap_err();
            assert!(error.contains(rule), "{signature:?} {timestamp:?}: {error}");
        }
    }
}
