//! Libraries that are loaded into a gateway before the C library. `interposer/interposer.c` notes every call that
//! changes a file below a directory, kills the process in front of one of them, or refuses writes.
//! `interposer/recorder.c` records these calls with what they write.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tempfile::TempDir;

use super::{
    process::Launcher,
    recorded_disk::{Operation, Recording},
};

/// Compiles `interposer/NAME.c` to `NAME.so` in a directory of its own.
fn compile(name: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("there is room");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/interposer");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join(format!("{name}.so")));
    compiler.arg(sources.join(format!("{name}.c"))).arg("-ldl");
    assert!(compiler.status().expect("a C compiler is there").success());
    dir
}

fn text(path: &Path) -> String {
    path.to_str().expect("paths of tests are UTF-8").to_owned()
}

/// The library that notes, kills and refuses.
pub struct Interposer {
    dir: TempDir,
}

impl Interposer {
    /// Compiles it.
    pub fn new() -> Self {
        Self { dir: compile("interposer") }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("calls")
    }

    fn refuse(&self) -> PathBuf {
        self.dir.path().join("refuse")
    }

    /// The launcher, with the calls below `dir` noted.
    pub fn watching(&self, launcher: &Launcher, dir: &Path) -> Launcher {
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

/// The library that records.
#[derive(Clone)]
pub struct Recorder {
    library: Arc<TempDir>,
    recording: Recording,
}

impl Recorder {
    /// Of what is done below `dir`.
    pub fn new(dir: &Path) -> Self {
        let library = Arc::new(compile("recorder"));
        let recording = Recording::new(library.path().join("record"), dir);
        Self { library, recording }
    }

    /// The launcher, with what its gateways do recorded.
    pub fn recording(&self, launcher: &Launcher) -> Launcher {
        let library = text(&self.library.path().join("recorder.so"));
        let recording = launcher.clone().with_variable("LD_PRELOAD", library);
        let variables = self.recording.variables();
        variables.into_iter().fold(recording, |launcher, (name, value)| launcher.with_variable(name, value))
    }

    /// Notes something after everything that has happened so far, and before everything that begins later.
    pub fn mark(&self, text: &str) {
        self.recording.mark(text);
    }

    /// Everything so far, in order.
    pub fn operations(&self) -> Vec<Operation> {
        self.recording.operations()
    }
}
