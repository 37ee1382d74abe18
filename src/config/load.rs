//! Puts the sources together: which value is in force for each setting, and everything that is wrong in any
//! source.
//!
//! The values in force become one command line, which clap parses. So the settings that the parts of the
//! program declare as `clap::Args` have their names, defaults, bounds and documentation from there and from
//! nowhere else.

use std::{ffi::OsString, path::Path};

use clap::{Args, Command};

use super::{
    fault::{ConfigFault, ConfigFaults, Source},
    setting::Setting,
    sources::{Flags, Override, Reader},
};

/// A setting in force.
pub struct Row {
    pub(super) setting: Setting,
    /// As the source gives them.
    texts: Vec<String>,
    /// The same as they are shown: checked, and without passwords.
    pub(super) shown: Vec<String>,
    pub(super) source: Source,
    /// Some source has a value that cannot be used.
    is_faulty: bool,
}

impl Row {
    fn default_of(setting: Setting) -> Self {
        let texts: Vec<String> = setting.default_text().into_iter().map(str::to_owned).collect();
        Self { setting, shown: texts.clone(), texts, source: Source::Default, is_faulty: false }
    }

    /// Whether it has a value.
    pub(super) fn is_set(&self) -> bool {
        self.texts.iter().any(|text| !self.setting.unsets(text))
    }
}

/// Every setting with the source of its value, and everything that is wrong in any source.
pub struct ResolvedSettings {
    pub(super) rows: Vec<Row>,
    faults: Vec<ConfigFault>,
    warnings: Vec<ConfigFault>,
}

impl ResolvedSettings {
    /// Reads the settings of `T` from all sources. Flags go before the environment, that before the file that
    /// either of them names, and that before the defaults.
    pub fn read<T: Args>(flags: &Flags, environment: &[(OsString, OsString)]) -> Self {
        let mut reader = Reader::new::<T>();
        reader.file(flags, environment);
        reader.environment(environment);
        reader.flags(flags);
        Self::of(reader)
    }

    /// Reads the settings of `T` from the text of a configuration file alone.
    pub fn read_text<T: Args>(path: &Path, text: &str) -> Self {
        let mut reader = Reader::new::<T>();
        reader.text(path, text);
        Self::of(reader)
    }

    fn of(Reader { settings, overrides, faults, warnings }: Reader) -> Self {
        let mut resolved =
            Self { rows: settings.into_iter().map(Row::default_of).collect(), faults, warnings };
        for one in overrides {
            resolved.apply(one);
        }
        resolved
    }

    /// Has clap make the settings of what is in force.
    ///
    /// # Panics
    ///
    /// They are not of the type that they were read as.
    pub fn parse<T: Args>(&self) -> T {
        let set = self.rows.iter().filter(|row| row.source != Source::Default);
        let arguments = set.flat_map(|row| {
            row.texts.iter().filter(|text| !row.setting.unsets(text)).map(|text| row.setting.argument(text))
        });
        let command = T::augment_args(Command::new("settings").no_binary_name(true).disable_help_flag(true));
        let matches = command.try_get_matches_from(arguments).expect("every value was parsed before");
        T::from_arg_matches(&matches).expect("every value was parsed before")
    }

    /// `config` with where its values come from, unless something is wrong.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in every source: also values that a stronger source replaces.
    pub fn finish<T>(self, config: T) -> Result<(T, Self), ConfigFaults> {
        let Self { faults, warnings, .. } = self;
        if faults.is_empty() {
            Ok((config, Self { faults, warnings, ..self }))
        } else {
            Err(ConfigFaults { faults, warnings })
        }
    }

    /// Possible mistakes: variables that look like settings and are not.
    pub fn warnings(&self) -> &[ConfigFault] {
        &self.warnings
    }

    /// The source of the setting of this key; `None` if there is no such setting.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.rows.iter().find(|row| row.setting.key() == key).map(|row| &row.source)
    }

    /// Adds a fault that no setting has by itself.
    pub fn add_fault(&mut self, fault: ConfigFault) {
        self.faults.push(fault);
    }

    /// Adds a fault of a setting's value as a whole.
    pub fn add_fault_of(&mut self, key: &str, problem: String) {
        let source = self.row(key).source.clone();
        self.add_fault(ConfigFault::new(source, problem));
    }

    /// Demands that one setting is not more than another, unless either has a fault already.
    pub fn check_at_most<T: PartialOrd + Copy>(&mut self, less: (&str, T), more: (&str, T), why: &str) {
        if less.1 > more.1 {
            let problem = |less: &Row, more: &Row| format!("{less} is more than {more}: {why}");
            self.fault_of_two(less.0, more.0, problem);
        }
    }

    /// Demands that one setting is set if another is.
    pub fn check_needs(&mut self, key: &str, needed: &str) {
        if self.row(key).is_set() && !self.row(needed).is_set() {
            self.fault_of_two(key, needed, |row, _| format!("{row} needs {needed}, which is not set"));
        }
    }

    /// Adds a fault of two settings together, unless either has a fault already.
    pub fn fault_of_two(&mut self, one: &str, other: &str, problem: impl FnOnce(&Row, &Row) -> String) {
        let (one, other) = (self.row(one), self.row(other));
        if !one.is_faulty && !other.is_faulty {
            // Somebody can correct a value that they set; nobody set a default.
            let guilty = if one.source == Source::Default { other } else { one };
            let fault = ConfigFault::new(guilty.source.clone(), problem(one, other));
            self.faults.push(fault);
        }
    }

    pub(super) fn row(&self, key: &str) -> &Row {
        self.rows.iter().find(|row| row.setting.key() == key).expect("only keys of settings are asked for")
    }

    fn apply(&mut self, Override { key, raw, source }: Override) {
        let row = self.rows.iter_mut().find(|row| row.setting.key() == key).expect("there is a row for each");
        let mut fault = |problem| self.faults.push(ConfigFault::new(source.clone(), problem));
        let texts = match row.setting.texts(&raw) {
            Ok(texts) => texts,
            Err(problem) => {
                row.is_faulty = true;
                return fault(problem);
            }
        };
        let (shown, problems): (Vec<_>, Vec<_>) =
            texts.iter().map(|text| row.setting.parse(text)).partition(Result::is_ok);
        if problems.is_empty() {
            (row.texts, row.shown, row.source) = (texts, shown.into_iter().flatten().collect(), source);
        } else {
            row.is_faulty = true;
            problems.into_iter().filter_map(Result::err).for_each(fault);
        }
    }
}
