//! The settings as people read them: what is in force, and the table of the documentation.

use std::fmt::Write;

use super::{
    Origins,
    table::{SETTINGS, Setting},
    value::Kind,
};

impl Origins {
    /// Every setting in force as TOML, with where it comes from. What this writes can be read as a configuration file.
    pub fn to_toml(&self) -> String {
        let mut toml = String::new();
        for row in &self.0 {
            // A path in a comment must not end the comment.
            let origin = row.origin.to_string().escape_debug().to_string();
            writeln!(toml, "{} = {}  # from {origin}", row.setting.key, row.value.to_toml())
                .expect("a string takes everything");
        }
        toml
    }
}

/// The table of settings in Markdown, for the documentation.
pub fn settings_table() -> String {
    let mut table = String::from("| setting | default | values | what it does |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let Setting { key, doc, kind, .. } = setting;
        let default = match (kind, setting.default_value().to_toml()) {
            // Nothing set, rather than how TOML writes it.
            (Kind::Proxy | Kind::OptionalFile | Kind::OptionalAddress | Kind::Networks | Kind::Hosts, _)
                if setting.default.is_empty() =>
            {
                setting.default_shown().to_owned()
            }
            (_, toml) => format!("`{toml}`"),
        };
        writeln!(table, "| `{key}` | {default} | {} | {doc} |", kind.bounds())
            .expect("a string takes everything");
    }
    table
}
