//! The environment variables of Tidings that are not settings: they hold secrets.

/// The keys that secrets in the store are encrypted with.
pub const SECRETS_KEY_ENVIRONMENT: &str = "TIDINGS_SECRETS_KEY";
/// The administrator's access token.
pub(super) const ADMIN_TOKEN_ENVIRONMENT: &str = "TIDINGS_ADMIN_TOKEN";
/// The access token of a command that calls a gateway.
pub const TOKEN_ENVIRONMENT: &str = "TIDINGS_TOKEN";

/// Variables of ours that are no settings.
pub(super) const VARIABLES: [&str; 3] = [SECRETS_KEY_ENVIRONMENT, ADMIN_TOKEN_ENVIRONMENT, TOKEN_ENVIRONMENT];
