//! The environment of tests and benchmarks, which must not change their results.

use std::{
    env,
    ffi::{OsStr, OsString},
    process::Command,
};

/// The program under test, without settings from the environment. A command in `before` is run with it as its
/// arguments.
pub fn tidings(before: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut words: Vec<OsString> = before.into_iter().map(|word| word.as_ref().to_owned()).collect();
    words.push(env!("CARGO_BIN_EXE_tidings").into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    for (name, _) in env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// Whether the program reads the environment variable.
fn is_setting(name: &str) -> bool {
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
    name.starts_with("TIDINGS_") || proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
}
