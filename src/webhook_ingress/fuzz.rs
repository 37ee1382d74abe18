//! Fuzz target of the sources file.

use super::sources::Sources;

/// The text of a sources file: a valid one has sources and prints no secret; an invalid one has problems.
pub fn sources(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Sources::parse(text) {
        Ok(sources) => {
            assert!(sources.iter().len() > 0);
            let shown = format!("{sources:?}");
            for source in sources.iter() {
                assert!(!source.name.is_empty() && source.account.get() > 0);
                if let Some(secret) =
                    source.signing_secret.as_ref().filter(|secret| secret.expose().len() >= 64)
                {
                    assert!(!shown.contains(secret.expose()), "a secret is shown");
                }
            }
        }
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.is_empty())),
    }
}
