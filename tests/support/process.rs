//! The program as a process: any of its commands, and gateways on a data directory of their own, one after
//! another.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    thread,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

use super::{
    PATIENCE, assert_no_keys,
    certificates::TlsClient,
    client::Client,
    dns_server::DnsServer,
    environment, exchange,
    secret_scan::{self, Secrets},
};

/// The program with these arguments, without settings from the environment.
pub fn tidings(arguments: &[&str]) -> Command {
    let mut command = Command::from(environment::tidings([""; 0]));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The end of a process.
#[derive(Debug)]
pub struct Ended {
    /// None if it was killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The lines of the log.
    pub fn log(&self) -> Vec<String> {
        self.stderr.lines().map(str::to_owned).collect()
    }
}

/// Runs a command to its end. It must not print a key.
pub async fn run(mut command: Command) -> Ended {
    let output = timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let output = output.expect("the program ends").expect("the program is there");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    let ended =
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert_no_keys(&ended.stdout);
    assert_no_keys(&ended.stderr);
    ended
}

/// A process of the program. Killed when it is dropped. It must not print a key, nor a secret of the test.
pub struct Process {
    child: Child,
    pub stdout: Lines,
    pub stderr: Lines,
    secrets: Secrets,
}

impl Process {
    pub fn start(command: Command) -> Self {
        Self::watched(command, Secrets::default())
    }

    fn watched(mut command: Command, secrets: Secrets) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program is there");
        let stdout = Lines::of(child.stdout.take().expect("it is piped"));
        let stderr = Lines::of(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr, secrets }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: the command of that name is not everywhere.
        let kill = format!("kill -{name} {}", self.pid());
        let status = std::process::Command::new("sh").args(["-c", &kill]).status();
        assert!(status.expect("there is a shell").success());
    }

    /// Waits for the end of a process that ends by itself or was asked to.
    pub async fn wait(mut self) -> Ended {
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else { panic!("it runs on and on") };
        let code = status.expect("nobody else waits for it").code();
        Ended { code, stdout: self.stdout.whole().await, stderr: self.stderr.whole().await }
    }

    /// Ends it with SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for lines in [&self.stdout, &self.stderr] {
            let lines = lines.0.borrow();
            if thread::panicking() {
                eprintln!("the end of what a process printed:\n{}", tail(&lines).join("\n"));
            } else if let Some(secret) = self.secrets.find_in(lines.join("\n").as_bytes(), "") {
                let line = lines.iter().find(|line| self.secrets.find_in(line.as_bytes(), "").is_some());
                panic!("the program printed the secret {secret}: {line:?}");
            }
        }
    }
}

/// The lines that a process writes to one of its outputs.
pub struct Lines(watch::Receiver<Vec<String>>);

impl Lines {
    fn of(output: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (sender, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut reader = BufReader::new(output).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        Self(lines)
    }

    /// Waits for a line from which `wanted` makes something.
    pub async fn wait_for<T>(&self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let mut lines = self.0.clone();
        let find = |lines: &Vec<String>| lines.iter().find_map(|line| wanted(line));
        match timeout(PATIENCE, lines.wait_for(|lines| find(lines).is_some())).await {
            Ok(Ok(lines)) => find(&lines).expect("it was just there"),
            _ => panic!("not found in what was written:\n{}", self.0.borrow().join("\n")),
        }
    }

    /// Waits for exactly this line.
    pub async fn wait_for_line(&self, line: &str) {
        self.wait_for(|written| (written == line).then_some(())).await;
    }

    /// Everything, once it is closed.
    async fn whole(&self) -> String {
        let mut lines = self.0.clone();
        let closed = async { while lines.changed().await.is_ok() {} };
        timeout(PATIENCE, closed).await.expect("a program that ended closes its output");
        self.0.borrow().iter().map(|line| format!("{line}\n")).collect()
    }
}

/// A data directory, and the settings that commands are run with on it.
#[derive(Clone)]
pub struct Launcher {
    dir: Arc<TempDir>,
    flags: BTreeMap<&'static str, String>,
    environment: BTreeMap<&'static str, String>,
    /// The words before the command.
    before: Vec<String>,
    tls: Option<TlsClient>,
    secrets: Secrets,
}

impl Launcher {
    /// Free ports, loopback allowed, and retries that a test can wait for.
    pub fn new() -> Self {
        let flags = [
            ("grpc-listen", "127.0.0.1:0"),
            ("http-listen", "127.0.0.1:0"),
            ("console-listen", "off"),
            ("egress-allow", "127.0.0.0/8"),
            ("log-format", "json"),
            ("retry-min-backoff", "10ms"),
            ("retry-max-backoff", "50ms"),
        ];
        Self {
            dir: Arc::new(tempfile::tempdir().expect("there is room")),
            flags: flags.into_iter().map(|(flag, value)| (flag, value.to_owned())).collect(),
            environment: BTreeMap::new(),
            before: Vec::new(),
            tls: None,
            secrets: Secrets::default(),
        }
    }

    /// The same with this flag set so.
    pub fn with(mut self, flag: &'static str, value: impl Into<String>) -> Self {
        self.flags.insert(flag, value.into());
        self
    }

    /// The same with a flag whose value is a path.
    pub fn with_file(self, flag: &'static str, file: impl AsRef<Path>) -> Self {
        self.with(flag, file.as_ref().to_str().expect("paths of tests are UTF-8"))
    }

    /// The same without this flag.
    pub fn without(mut self, flag: &str) -> Self {
        self.flags.remove(flag).expect("it is set");
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

    /// The same for gateways that speak TLS, and whose clients speak it so.
    pub fn with_tls_client(mut self, client: &TlsClient) -> Self {
        self.tls = Some(client.clone());
        self
    }

    /// The same for gateways that look names up at this server.
    pub fn resolving_at(mut self, server: &DnsServer) -> Self {
        self.before = server.before().to_vec();
        self
    }

    /// The same for gateways no file of which may get larger than this.
    pub fn with_files_up_to(mut self, bytes: u64) -> Self {
        /// The unit of `ulimit -f`, in a shell that does as POSIX says.
        const BLOCK_BYTES: u64 = 512;
        let blocks = (bytes / BLOCK_BYTES).to_string();
        self.before = ["sh", "-c", r#"ulimit -f "$0"; exec "$@""#, &blocks].map(str::to_owned).into();
        self
    }

    /// The same for gateways that may not have more files and sockets open.
    pub fn with_open_files_up_to(mut self, count: u64) -> Self {
        self.before =
            ["sh", "-c", r#"ulimit -n "$0"; exec "$@""#, &count.to_string()].map(str::to_owned).into();
        self
    }

    /// The secrets that nothing may show that is printed or responded here.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The directory of everything here.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// Writes a file in the directory. Returns its path.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("there is room");
        path
    }

    /// The command that runs a gateway here.
    pub fn command(&self) -> Command {
        self.command_to("serve")
    }

    /// Another command on the data here.
    pub fn command_to(&self, subcommand: &str) -> Command {
        let mut command = Command::from(environment::tidings(&self.before));
        command.envs(&self.environment).stdin(Stdio::null());
        command.arg(subcommand).arg("--data-dir").arg(self.data_dir());
        for (flag, value) in &self.flags {
            command.arg(format!("--{flag}")).arg(value);
        }
        command
    }

    /// Starts the command that runs a gateway here.
    pub fn spawn(&self) -> Process {
        Process::watched(self.command(), self.secrets.clone())
    }

    /// Starts a gateway, and waits until it listens.
    pub async fn start(&self) -> TidingsProcess {
        TidingsProcess::of(self.spawn(), self).await
    }

    /// The same, or the end of a start that is refused.
    pub async fn try_start(&self) -> Result<TidingsProcess, Ended> {
        let process = self.spawn();
        let is_over = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let message = line.get("message")?.as_str()?;
            (message == "listening" || message.starts_with("stopped: ")).then(|| message == "listening")
        };
        match process.stderr.wait_for(is_over).await {
            true => Ok(TidingsProcess::of(process, self).await),
            false => Err(process.wait().await),
        }
    }

    /// The output of a start that is refused.
    pub async fn refusal(&self) -> String {
        let ended = run(self.command()).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(self.secrets.find_in(ended.stderr.as_bytes(), ""), None);
        ended.stderr
    }
}

/// A gateway that runs. Killed when it is dropped.
pub struct TidingsProcess {
    process: Process,
    /// The address of /healthz and /readyz.
    pub http: SocketAddr,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
    /// Where it takes webhooks, if it does.
    pub ingest: Option<SocketAddr>,
    /// The URL of the console, if it serves one.
    pub console: Option<String>,
    /// A client of it, on a connection of its own.
    pub client: Client,
    /// Outlives it.
    _dir: Arc<TempDir>,
}

impl TidingsProcess {
    async fn of(process: Process, launcher: &Launcher) -> Self {
        let listening = process.stderr.wait_for(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let address = |key: &str| line.get(key)?.as_str()?.parse().ok();
            let console = line.get("console").and_then(Value::as_str).filter(|url| *url != "off");
            let listeners = (address("grpc.listen")?, address("http.listen")?, address("ingest.listen"));
            Some((listeners, console.map(str::to_owned)))
        });
        let ((grpc, http, ingest), console) = listening.await;
        let channel = match &launcher.tls {
            Some(client) => client.channel(grpc).await.expect("the gateway listens"),
            None => connect(grpc).await,
        };
        let client = Client::new(secret_scan::Channel::new(channel, launcher.secrets.clone()));
        Self { process, http, grpc, ingest, console, client, _dir: Arc::clone(&launcher.dir) }
    }

    /// A client on another connection.
    pub async fn another_client(&self) -> Client {
        self.client_at(self.grpc).await
    }

    /// A client on a connection that leads here by another address.
    pub async fn client_at(&self, address: SocketAddr) -> Client {
        Client::new(secret_scan::Channel::new(connect(address).await, self.process.secrets.clone()))
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The status and the body of /readyz.
    pub async fn readiness(&self) -> (u16, String) {
        self.readiness_if_any().await.expect("it responds")
    }

    /// The same; none if there is no response.
    pub async fn readiness_if_any(&self) -> Option<(u16, String)> {
        self.probe("/readyz").await
    }

    /// The status and text of /healthz.
    pub async fn liveness(&self) -> (u16, String) {
        self.probe("/healthz").await.expect("it responds")
    }

    async fn probe(&self, path: &str) -> Option<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let response = exchange(self.http, request.as_bytes()).await.ok()?;
        let response = String::from_utf8(response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    }

    /// The most memory that it ever had resident, or since the peak was reset.
    pub fn peak_resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
        kib * 1024
    }

    /// Measures the peak from here on. Returns the memory that is resident now.
    pub fn reset_peak_resident_bytes(&self) -> u64 {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
        self.peak_resident_bytes()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for the end of a gateway that was asked to stop.
    pub async fn wait(self) -> Ended {
        self.process.wait().await
    }

    /// Ends it with SIGTERM, and demands that it ends well: nothing panicked, nothing was logged as an error.
    /// Returns its log.
    pub async fn stop(self) -> Vec<String> {
        self.terminate();
        let ended = self.wait().await;
        let log = ended.log();
        assert_eq!(ended.code, Some(0), "the gateway did not end well: {:#?}", tail(&log));
        let bad = log.iter().find(|line| line.contains(r#""level":"ERROR""#) || line.contains("panicked"));
        assert_eq!(bad, None, "the gateway complains: {:#?}", tail(&log));
        log
    }

    /// Ends it with SIGKILL.
    pub async fn kill(self) {
        self.process.kill().await;
    }
}

async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.expect("the gateway listens")
}

/// The end of a log, as much as a person reads.
fn tail(log: &[String]) -> &[String] {
    const LINES: usize = 40;
    &log[log.len().saturating_sub(LINES)..]
}
