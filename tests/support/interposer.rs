//! A library that is loaded into a gateway before the C library (`interposer/interposer.c`). It notes every
//! call that changes a file below a directory, kills the process in front of one of them, or refuses writes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::process::Launcher;

/// The library.
pub struct Interposer {
    dir: TempDir,
}

impl Interposer {
    /// Compiles it.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is room");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/interposer/interposer.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("interposer.so")).arg(source);
        assert!(compiler.arg("-ldl").status().expect("a C compiler is there").success());
        Self { dir }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("calls")
    }

    fn refuse(&self) -> PathBuf {
        self.dir.path().join("refuse")
    }

    /// The launcher, with the calls below `dir` noted.
    pub fn watching(&self, launcher: &Launcher, dir: &Path) -> Launcher {
        let text = |path: &Path| path.to_str().expect("paths of tests are UTF-8").to_owned();
        drop(fs::remove_file(self.log()));
        launcher
            .clone()
            .with_variable("LD_PRELOAD", text(&self.dir.path().join("interposer.so")))
            .with_variable("INTERPOSED_DIR", text(dir))
            .with_variable("INTERPOSED_LOG", text(&self.log()))
            .with_variable("INTERPOSED_REFUSE", text(&self.refuse()))
    }

    /// From now on writes to files whose path contains `word` fail with this error, as on a disk that reports room.
    pub fn refuse_writes(&self, error: i32, word: &str) {
        let whole = self.dir.path().join("refuse.new");
        fs::write(&whole, format!("{error} {word}")).expect("there is room");
        fs::rename(whole, self.refuse()).expect("it was just written");
    }

    /// From now on no write is refused.
    pub fn take_writes(&self) {
        fs::remove_file(self.refuse()).expect("writes are refused");
    }

    /// The calls so far, such as `fsync /path/to/file`.
    pub fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.log()).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}
