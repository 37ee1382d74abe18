//! Runs the binary. Every wait has an end, and shows what was there instead.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// A test that waits for longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The binary with these arguments, away from any settings of whoever runs the tests.
pub fn tidings(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    for (name, _) in env::vars_os().filter(|(name, _)| is_a_setting(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Whether the program reads the environment variable.
fn is_a_setting(name: &str) -> bool {
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
    name.starts_with("TIDINGS_") || proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
}

/// What came of a run that ends by itself.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    let Output { status, stdout, stderr } = command.output().expect("the binary is there");
    let text = |bytes| {
        let text = String::from_utf8(bytes).expect("the output is UTF-8");
        shows_no_key(&text);
        text
    };
    Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Fails the test if there is a signing secret or a private key in what was printed.
pub fn shows_no_key(text: &str) {
    const CHARS_MIN: usize = 24;
    for prefix in ["whsec_", "whsk_"] {
        for rest in text.split(prefix).skip(1) {
            let chars = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "+/=".contains(*c)).count();
            assert!(chars < CHARS_MIN, "a key is printed: {text}");
        }
    }
}

/// A running program. Killed at the end of the test if it still runs.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

/// Which output of a program is read.
pub enum Reads {
    Stdout,
    Stderr,
}

impl Running {
    pub fn start(mut command: Command, reads: &Reads) -> Self {
        match reads {
            Reads::Stdout => command.stdout(Stdio::piped()).stderr(Stdio::inherit()),
            Reads::Stderr => command.stderr(Stdio::piped()).stdout(Stdio::inherit()),
        };
        let mut child = command.spawn().expect("the binary is there");
        let output: Box<dyn Read + Send> = match reads {
            Reads::Stdout => Box::new(child.stdout.take().expect("it is piped")),
            Reads::Stderr => Box::new(child.stderr.take().expect("it is piped")),
        };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// The next line that `wanted` makes something of.
    pub fn wait_for<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            shows_no_key(&line);
            let found = wanted(&line);
            self.seen.push(line);
            if let Some(found) = found {
                return found;
            }
        }
        panic!("not found in what was written:\n{}", self.seen.join("\n"));
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: the command of that name is not everywhere.
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("there is a shell").success());
    }

    /// Waits for the end. Returns the exit code and every line that was written.
    pub fn wait(mut self) -> (Option<i32>, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            shows_no_key(&line);
            self.seen.push(line);
        }
        assert!(Instant::now() < deadline, "it runs on and on:\n{}", self.seen.join("\n"));
        // Its output is closed: it is over.
        let status = self.child.wait().expect("nobody else waits for it");
        (status.code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends one request over HTTP/1.1 and returns the whole answer.
pub fn http(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the program listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("the program reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the program answers in time, in text");
    answer
}
