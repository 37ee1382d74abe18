//! The environment variables of Tidings that are not settings: those with secrets, and those of clients.

/// The keys that secrets in the store are encrypted with.
pub const SECRETS_KEY_ENVIRONMENT: &str = "TIDINGS_SECRETS_KEY";
/// The administrator's access token.
pub(super) const ADMIN_TOKEN_ENVIRONMENT: &str = "TIDINGS_ADMIN_TOKEN";
/// The access token of a command that calls a gateway.
pub const TOKEN_ENVIRONMENT: &str = "TIDINGS_TOKEN";

/// The other variables of the commands that call a gateway: which one, and with which files.
pub(super) const CLIENT_VARIABLES: [&str; 7] = [
    "TIDINGS_ADDRESS",
    "TIDINGS_ACCOUNT",
    "TIDINGS_TOKEN_FILE",
    "TIDINGS_CA",
    "TIDINGS_CERT",
    "TIDINGS_KEY",
    "TIDINGS_CONTEXT",
];

/// Whether a variable of ours is no setting.
pub(super) fn is_other(name: &str) -> bool {
    [SECRETS_KEY_ENVIRONMENT, ADMIN_TOKEN_ENVIRONMENT, TOKEN_ENVIRONMENT].contains(&name)
        || CLIENT_VARIABLES.contains(&name)
}
