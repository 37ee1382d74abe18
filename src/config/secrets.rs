//! Secrets that the environment gives. They are no settings: settings are shown.

use std::ffi::OsString;

use super::{
    fault::{ConfigFault, Source},
    load::ResolvedSettings,
    variables::{ADMIN_TOKEN_ENVIRONMENT, SECRETS_KEY_ENVIRONMENT},
};
use crate::domain::{access::check_configured, seal::SealingKeys, secret::Secret};

/// The secrets of a gateway that the environment gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Secrets {
    /// The keys that secrets in the store are encrypted with.
    pub secrets_key: Option<SealingKeys>,
    /// The administrator's access token.
    pub admin_token: Option<Secret>,
}

impl Secrets {
    /// Reads the secrets. A fault never repeats one; a secret both here and in a file is a fault as well.
    pub fn read(environment: &[(OsString, OsString)], resolved: &mut ResolvedSettings) -> Self {
        let value = |name| environment.iter().rfind(|(known, _)| known == name).map(|(_, value)| value);
        let mut read = |name: &str, problem: String| {
            resolved.add_fault(ConfigFault::new(Source::Environment(name.to_owned()), problem));
        };
        let secrets_key = value(SECRETS_KEY_ENVIRONMENT).and_then(|value| {
            let text = value.to_str().ok_or_else(|| "is not UTF-8".to_owned());
            text.and_then(SealingKeys::parse).map_err(|problem| read(SECRETS_KEY_ENVIRONMENT, problem)).ok()
        });
        let admin_token = value(ADMIN_TOKEN_ENVIRONMENT).and_then(|value| {
            let token = check_configured(&value.to_string_lossy());
            token.map_err(|problem| read(ADMIN_TOKEN_ENVIRONMENT, problem.to_string())).ok()
        });
        for (is_given, key, variable) in [
            (secrets_key.is_some(), "secrets_key_file", SECRETS_KEY_ENVIRONMENT),
            (admin_token.is_some(), "admin_token_file", ADMIN_TOKEN_ENVIRONMENT),
        ] {
            let file = resolved.row(key);
            if is_given && file.is_set() {
                let problem = format!("{file} cannot be given together with {variable}: remove one of them");
                resolved.add_fault(ConfigFault::new(file.source.clone(), problem));
            }
        }
        Self { secrets_key, admin_token }
    }
}
