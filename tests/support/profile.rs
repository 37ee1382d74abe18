//! How thoroughly the tests run. `TIDINGS_TESTS=full` runs the long ones in full, as `.ci/run` does; without
//! it they are short.

use std::{env, fs, io::Write as _};

/// Whether the long tests run in full.
pub fn is_full() -> bool {
    match env::var("TIDINGS_TESTS") {
        Ok(profile) if profile == "full" => true,
        Ok(profile) => panic!("TIDINGS_TESTS is {profile:?}; there is only full"),
        Err(_) => false,
    }
}

/// The first in a full run, the second in a short one.
pub fn in_full_or_short<T>(full: T, short: T) -> T {
    if is_full() { full } else { short }
}

/// Says how much a test did. In the file that `TEST_COUNTS` names as well: cargo shows nothing of a test that
/// passed.
pub fn count(text: &str) {
    println!("{text}");
    if let Some(path) = env::var_os("TEST_COUNTS") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.expect("it can be written"), "{text}").expect("there is room");
    }
}
