//! Settings as people read them: those in force, the help of their flags, and the table of the documentation.

use std::fmt::{self, Write};

use clap::Args;

use super::{
    load::{ResolvedSettings, Row},
    setting::Setting,
};

impl ResolvedSettings {
    /// Every setting in force as TOML, with its source. A configuration file with this text reads the same,
    /// but for the password of a proxy, which is not shown.
    pub fn to_toml(&self) -> String {
        let mut toml = String::new();
        for row in &self.rows {
            // A path in a comment must not end the comment.
            let source = row.source.to_string().escape_debug().to_string();
            writeln!(toml, "{} = {}  # from {source}", row.setting.key(), row.to_toml())
                .expect("a string takes everything");
        }
        toml
    }
}

/// The same, so that no password is printed.
impl fmt::Debug for ResolvedSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_toml())
    }
}

impl Row {
    fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let is_bare =
            |text: &str| self.setting.is_switch() || self.setting.is_number() && text.parse::<i64>().is_ok();
        match self.shown.first() {
            _ if self.setting.is_list() => {
                let items: Vec<_> = self.shown.iter().map(|text| quoted(text)).collect();
                format!("[{}]", items.join(", "))
            }
            Some(text) if is_bare(text) => text.clone(),
            text => quoted(text.map_or("", String::as_str)),
        }
    }
}

/// `grpc_listen = 127.0.0.1:1 (flag --grpc-listen)`
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} = {} ({})",
            self.setting.key(),
            self.shown.join(self.setting.separator().encode_utf8(&mut [0; 4])),
            self.source
        )
    }
}

impl Setting {
    /// The documentation's sentences up to the first empty line.
    fn summary(&self) -> String {
        // clap takes the last full stop away.
        let text = self.0.get_help().map(ToString::to_string).unwrap_or_default();
        if text.ends_with('.') { text } else { format!("{text}.") }
    }

    /// All of the documentation, in one line.
    fn documentation(&self) -> String {
        self.0.get_long_help().map_or_else(|| self.summary(), |text| text.to_string().replace("\n\n", " "))
    }

    /// The values that it takes, for people; empty if its placeholder says as much.
    pub(super) fn values(&self) -> String {
        let values = self.0.get_value_parser().possible_values().into_iter().flatten();
        values.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(", ")
    }

    fn default_shown(&self) -> &str {
        self.default_text().unwrap_or("unset")
    }

    /// Its help for `-h`.
    pub(super) fn short_help(&self) -> String {
        format!("{} [default: {}]", self.summary(), self.default_shown())
    }

    /// Its help for `--help`.
    pub(super) fn long_help(&self) -> String {
        let values = Some(self.values()).filter(|values| !values.is_empty());
        let values = values.map_or_else(String::new, |values| format!(" [values: {values}]"));
        let (text, default, variable) = (self.documentation(), self.default_shown(), self.variable());
        format!("{text}{values} [default: {default}] [env: {variable}]")
    }
}

/// The settings of `T` in Markdown, for the documentation: a table under each heading.
pub fn settings_table<T: Args>() -> String {
    let (mut text, mut heading) = (String::new(), None);
    for setting in Setting::all::<T>() {
        let of_setting = setting.0.get_help_heading().map(str::to_owned);
        if heading != of_setting {
            let begin = if text.is_empty() { "" } else { "\n" };
            let title = of_setting.as_deref().unwrap_or_default();
            let columns = "| setting | default | values | meaning |\n|---|---|---|---|";
            writeln!(text, "{begin}## {title}\n\n{columns}").expect("a string takes everything");
            heading = of_setting;
        }
        let default = setting.default_text().map_or_else(|| "unset".to_owned(), |text| format!("`{text}`"));
        let values = match setting.values() {
            values if values.is_empty() => setting.placeholder(),
            values => values,
        };
        writeln!(text, "| `{}` | {default} | {values} | {} |", setting.key(), setting.documentation())
            .expect("a string takes everything");
    }
    text
}
