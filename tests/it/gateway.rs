//! Runs the gateway's real binary on a data directory of its own: starts it, stops it, kills it, starts it again.

use std::{
    collections::BTreeMap, env, net::SocketAddr, path::Path, process::Stdio, sync::Arc, thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    client::Client,
    names::Names,
    tls::pki,
    watched::{self, Secrets},
};

/// A test that waits for longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory and the settings that gateways are run with on it, one after another.
#[derive(Clone)]
pub struct Home {
    dir: Arc<TempDir>,
    flags: BTreeMap<&'static str, String>,
    environment: BTreeMap<&'static str, String>,
    secrets: Secrets,
}

impl Home {
    /// Free ports, loopback allowed, and retries that a test can wait for.
    pub fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("there is room"));
        let flags = [
            ("grpc-listen", "127.0.0.1:0"),
            ("http-listen", "127.0.0.1:0"),
            ("egress-allow", "127.0.0.0/8"),
            ("log-format", "json"),
            ("retry-min-backoff", "10ms"),
            ("retry-max-backoff", "50ms"),
        ];
        let flags = flags.into_iter().map(|(flag, value)| (flag, value.to_owned())).collect();
        Self { dir, flags, environment: BTreeMap::new(), secrets: Secrets::default() }
    }

    /// The same with this flag set so.
    pub fn with(mut self, flag: &'static str, value: impl Into<String>) -> Self {
        self.flags.insert(flag, value.into());
        self
    }

    /// The same with this variable in the environment.
    pub fn with_variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.insert(name, value.into());
        self
    }

    /// The same without this variable.
    pub fn without_variable(mut self, name: &str) -> Self {
        self.environment.remove(name).expect("it is set");
        self
    }

    /// What is watched for in everything that gateways print and answer here.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The same without this flag.
    pub fn without(mut self, flag: &str) -> Self {
        self.flags.remove(flag).expect("it is set");
        self
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The command that runs a gateway here, away from any settings of whoever runs the tests.
    pub fn command(&self) -> Command {
        self.command_to("serve")
    }

    /// The command that does something else with the data here, likewise.
    pub fn command_to(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        for (name, _) in env::vars_os().filter(|(name, _)| is_a_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.envs(&self.environment);
        command.arg(subcommand).arg("--data-dir").arg(self.dir.path());
        for (flag, value) in &self.flags {
            command.arg(format!("--{flag}")).arg(value);
        }
        pipe(&mut command);
        command
    }

    /// Starts a gateway, and waits until it listens.
    pub async fn start(&self) -> Gateway {
        Gateway::start(self.command(), self, None).await
    }

    /// Starts a gateway with these environment variables, and waits until it listens.
    pub async fn start_with(&self, variables: &[(&str, String)]) -> Gateway {
        let mut command = self.command();
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Gateway::start(command, self, None).await
    }

    /// Starts a gateway with a variable in its environment, and waits until it listens.
    pub async fn start_with_environment(&self, name: &str, value: &str) -> Gateway {
        let mut command = self.command();
        command.env(name, value);
        Gateway::start(command, self, None).await
    }

    /// Starts a gateway that speaks TLS, and waits until it listens. Its client speaks TLS as `client` does.
    pub async fn start_with_tls(&self, client: &pki::Client) -> Gateway {
        Gateway::start(self.command(), self, Some(client)).await
    }

    /// Starts a gateway that looks names up at `names`, and waits until it listens.
    pub async fn start_asking(&self, names: &Names) -> Gateway {
        let mut command = names.asked_by(&self.command());
        pipe(&mut command);
        Gateway::start(command, self, None).await
    }
}

/// Whether the gateway reads the environment variable.
fn is_a_setting(name: &str) -> bool {
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
    name.starts_with("TIDINGS_") || proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
}

/// Its log is for the test to read, and it ends with the test.
fn pipe(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
}

/// A gateway that runs. Killed when it is dropped.
pub struct Gateway {
    child: Child,
    log: Log,
    /// Where it answers /healthz and /readyz.
    pub http: SocketAddr,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
    /// Where it takes webhooks, if it does.
    pub ingest: Option<SocketAddr>,
    /// A client of it, on a connection of its own.
    pub client: Client,
    /// Outlives it.
    _dir: Arc<TempDir>,
}

/// What became of a gateway that was told to stop.
#[derive(Debug)]
pub struct Stopped {
    /// Its exit code; none if it was killed.
    pub code: Option<i32>,
    /// Every line that it logged.
    pub log: Vec<String>,
}

impl Gateway {
    async fn start(mut command: Command, home: &Home, tls: Option<&pki::Client>) -> Self {
        let mut child = command.spawn().expect("the binary is there");
        let log = Log::of(&mut child, home.secrets.clone());
        let listening = log.wait_for(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let address = |key: &str| line.get(key)?.as_str()?.parse().ok();
            Some((address("grpc.listen")?, address("http.listen")?, address("ingest.listen")))
        });
        let (grpc, http, ingest) = listening.await;
        let channel = match tls {
            Some(client) => client.channel(grpc).await.expect("the gateway listens"),
            None => channel(grpc).await,
        };
        let channel = watched::Channel::new(channel, home.secrets.clone());
        Self { child, log, http, grpc, ingest, client: Client::new(channel), _dir: Arc::clone(&home.dir) }
    }

    /// Another connection to it.
    pub async fn channel(&self) -> watched::Channel {
        watched::Channel::new(channel(self.grpc).await, self.log.secrets.clone())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// What /readyz answers: the status line's number and the body.
    pub async fn readiness(&self) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// The same, if anything answers.
    pub async fn readiness_if_any(&self) -> Option<u16> {
        let mut stream = TcpStream::connect(self.http).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().ok()?;
        answer.get(9..12)?.parse().ok()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid();
        // The shell's own `kill`: the command of that name is not everywhere.
        let mut kill = std::process::Command::new("sh");
        assert!(
            kill.args(["-c", &format!("kill -{name} {pid}")]).status().expect("there is a shell").success()
        );
    }

    /// Waits for the end of a gateway that was told to stop.
    pub async fn wait(mut self) -> Stopped {
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else {
            panic!("the gateway runs on and on")
        };
        let code = status.expect("nobody else waits for it").code();
        Stopped { code, log: self.log.whole().await }
    }

    /// Ends it with SIGTERM, and demands that it ends well: nothing panicked, nothing was logged as an error. Returns its
    /// log.
    pub async fn stop(self) -> Vec<String> {
        self.terminate();
        let Stopped { code, log } = self.wait().await;
        assert_eq!(code, Some(0), "the gateway did not end well: {:#?}", tail(&log));
        let bad = log.iter().find(|line| line.contains(r#""level":"ERROR""#));
        assert_eq!(bad, None, "the gateway complains: {:#?}", tail(&log));
        log
    }

    /// Ends it with SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.expect("the gateway listens")
}

/// The lines that a program writes. Shown when the test fails, and watched for secrets.
struct Log {
    lines: watch::Receiver<Vec<String>>,
    secrets: Secrets,
}

impl Log {
    fn of(child: &mut Child, secrets: Secrets) -> Self {
        let stderr = child.stderr.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            tokio::join!(read_lines(stderr, &sender), read_lines(stdout, &sender));
        });
        Self { lines, secrets }
    }

    /// Waits for a line that `wanted` makes something of.
    async fn wait_for<T>(&self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let mut lines = self.lines.clone();
        let find = |lines: &Vec<String>| lines.iter().find_map(|line| wanted(line));
        let found = timeout(PATIENCE, lines.wait_for(|lines| find(lines).is_some())).await;
        found.expect("a line in time").expect("the program runs");
        let found = find(&self.lines.borrow());
        found.expect("it was just there")
    }

    /// Everything, once it is closed.
    async fn whole(&self) -> Vec<String> {
        let mut lines = self.lines.clone();
        let closed = async { while lines.changed().await.is_ok() {} };
        timeout(PATIENCE, closed).await.expect("a program that ended closes its output");
        self.lines.borrow().clone()
    }
}

async fn read_lines(output: impl AsyncRead + Unpin, lines: &watch::Sender<Vec<String>>) {
    let mut reader = BufReader::new(output).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        lines.send_modify(|lines| lines.push(line));
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let lines = self.lines.borrow();
        if thread::panicking() {
            eprintln!("the end of the gateway's log:\n{}", tail(&lines).join("\n"));
            return;
        }
        if let Some(secret) = self.secrets.find_in(lines.join("\n").as_bytes(), "") {
            let line = lines.iter().find(|line| self.secrets.find_in(line.as_bytes(), "").is_some());
            panic!("the gateway printed the secret {secret}: {line:?}");
        }
    }
}

/// The end of a log, as much as a person reads.
fn tail(log: &[String]) -> &[String] {
    const LINES: usize = 40;
    &log[log.len().saturating_sub(LINES)..]
}
