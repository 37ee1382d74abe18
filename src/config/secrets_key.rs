//! The key that comes from the environment itself. It is no setting: settings are shown.

use std::ffi::OsString;

use super::source::{ConfigFault, Origin};
use crate::domain::seal::SealingKeys;

/// The variable.
pub const SECRETS_KEY_ENVIRONMENT: &str = "TIDINGS_SECRETS_KEY";

/// Takes the keys out of the environment. What is wrong with them is told without them.
pub(super) fn take(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    faults: &mut Vec<ConfigFault>,
) -> (Option<SealingKeys>, Vec<(OsString, OsString)>) {
    let (ours, rest): (Vec<_>, Vec<_>) =
        environment.into_iter().partition(|(name, _)| name == SECRETS_KEY_ENVIRONMENT);
    let keys = ours.into_iter().next_back().and_then(|(_, value)| {
        let text = value.into_string().map_err(|_| "is not UTF-8".to_owned());
        text.and_then(|text| SealingKeys::parse(&text)).map_err(|problem| faults.push(fault(problem))).ok()
    });
    (keys, rest)
}

/// A fault of the variable.
pub(super) fn fault(problem: String) -> ConfigFault {
    ConfigFault { origin: Origin::Environment(SECRETS_KEY_ENVIRONMENT.to_owned()), problem }
}
