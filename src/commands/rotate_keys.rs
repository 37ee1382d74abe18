//! `tidings rotate-secrets-key`: encrypts the secrets in the store with another key.

use std::process::ExitCode;

use clap::{ArgMatches, Command};
use rand::{RngExt, rngs::StdRng};

use super::{exit_code, log_warnings, print, with_config};
use crate::{
    app::{self, Config},
    config::Flags,
    domain::seal::SealingKey,
    store::disk::{self, Rotation},
};

/// The arguments: all settings, of which only those of the store and its keys are used.
pub fn command(name: &'static str) -> Command {
    let about = "Encrypt the secrets in the store with another key, while the gateway is stopped";
    Flags::add_to::<Config>(Command::new(name)).about(about).long_about(format!(
        "{about}.\n\nA new key replaces the one in the key file. If TIDINGS_SECRETS_KEY has several keys, the first of \
         them is used instead.",
    ))
}

/// Rotates the key and prints the result.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    with_config(matches, |config, _| exit_code(rotate(&config)))
}

fn rotate(config: &Config) -> anyhow::Result<()> {
    log_warnings(config.log.log_format)?;
    let mut random: StdRng = rand::make_rng();
    let source = app::key_source(config, &mut random);
    let (new, seed) = (SealingKey::draw(&mut random), random.random());
    let rotation = disk::rotate_secrets_key(&config.data_dir, &source, new, seed)?;
    print(&describe(config, &rotation))
}

fn describe(config: &Config, rotation: &Rotation) -> String {
    let Rotation { key, before, file } = rotation;
    let dir = config.data_dir.display();
    let before = before.as_ref().map_or_else(|| "not encrypted".to_owned(), |before| format!("key {before}"));
    let advice = match file {
        Some(file) => format!("The key is in {}. Keep a copy of it apart from the data.", file.display()),
        None => "Remove the other keys from TIDINGS_SECRETS_KEY.".to_owned(),
    };
    format!("The secrets in {dir} are now encrypted with key {key} (before: {before}). {advice}\n")
}
