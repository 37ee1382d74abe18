//! A library that is loaded into a gateway before the C library (`interposer/clock.c`). It sets the gateway's
//! wall clock ahead or back while it runs.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::process::Launcher;

/// The library, and how wrong the clock is.
pub struct WrongClock {
    dir: TempDir,
}

impl WrongClock {
    /// Compiles it. The clock is right.
    pub fn new() -> Self {
        let clock = Self { dir: tempfile::tempdir().expect("there is room") };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/interposer/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(clock.dir.path().join("clock.so")).arg(source);
        assert!(compiler.status().expect("a C compiler is there").success());
        clock.is_ahead_by(0);
        clock
    }

    /// The launcher, with this clock.
    pub fn of(&self, launcher: &Launcher) -> Launcher {
        let text = |name: &str| self.dir.path().join(name).to_str().expect("it is UTF-8").to_owned();
        launcher
            .clone()
            .with_variable("LD_PRELOAD", text("clock.so"))
            .with_variable("INTERPOSED_CLOCK", text("seconds"))
    }

    /// From now on the clock is wrong by so many seconds.
    pub fn is_ahead_by(&self, seconds: i64) {
        // In place: the gateway has it mapped.
        let path = self.dir.path().join("seconds");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.expect("there is room");
        std::os::unix::fs::FileExt::write_all_at(&file, &seconds.to_ne_bytes(), 0).expect("there is room");
    }
}
