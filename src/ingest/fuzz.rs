//! What fuzzing checks of the sources file, and of what bodies come to.

use super::{bulk, sources::Sources};

/// The text of a sources file: what is taken has sources that are found and shows no secret; what is not is told why.
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

/// The body of a webhook: counting what it comes to ends, and agrees with what it is read as.
pub fn bulk(data: &[u8]) {
    let parts = bulk::count(data).map(|count| count.parts);
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    // Of a key that is there twice the parser keeps one value.
    if let Some(parts) = parts {
        assert!(parts_of(&value) <= parts, "{parts} parts were counted");
    }
}

fn parts_of(value: &serde_json::Value) -> usize {
    1 + match value {
        serde_json::Value::Array(items) => items.iter().map(parts_of).sum(),
        serde_json::Value::Object(object) => object.values().map(parts_of).sum(),
        _ => 0,
    }
}
