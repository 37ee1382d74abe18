//! Settings from flags, environment and file. Each part of the program declares its own; here they are read,
//! checked, and shown with where each comes from.

mod clients;
mod fault;
mod load;
pub mod proxies;
pub mod quantities;
mod render;
mod secrets;
mod setting;
mod sources;
mod variables;

pub use clients::ClientSettings;
pub use fault::{ConfigFault, ConfigFaults, Source};
pub use load::ResolvedSettings;
pub use quantities::parse_duration;
pub use render::settings_table;
pub use secrets::Secrets;
pub use setting::declared_defaults;
pub use sources::{CONFIG_FILE_BYTES_MAX, Flags};
pub use variables::{SECRETS_KEY_ENVIRONMENT, TOKEN_ENVIRONMENT};
