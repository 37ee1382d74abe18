//! The processes of a run. The one that prints the table starts the others; they end with it.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use serde::{Serialize, de::DeserializeOwned};

/// Limit on the wait for an answer. No order takes as long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);
/// Unit of a process's time in `/proc`; the same on every usual Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Role of a process that runs this program.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Role {
    /// Publishes events.
    Publisher,
    /// Receives POSTs.
    Receiver,
    /// Sends bare POSTs.
    Poster,
    /// Responds to bare gRPC calls.
    Echo,
}

/// A process of the run. It is killed when this is dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command`. One of its outputs is read line by line.
    pub fn start(
        mut command: Command,
        output: impl Fn(&mut Child) -> Box<dyn Read + Send>,
    ) -> anyhow::Result<Self> {
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let output = output(&mut child);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The next line of its output.
    pub fn line(&self) -> anyhow::Result<String> {
        self.lines.recv_timeout(ANSWER_TIMEOUT).context("a process of the run ended, or took too long")
    }

    /// Resources that it has used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id())
    }

    /// Kills it, like a crash.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it with SIGTERM and waits for its end.
    pub fn end(&mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        while asked.is_ok() && self.lines.recv_timeout(ANSWER_TIMEOUT).is_ok() {}
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A process that runs this program in another role and executes orders.
pub struct Helper {
    process: Process,
    orders: ChildStdin,
}

impl Helper {
    /// Starts it.
    pub fn start(role: Role) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe().context("this program has no path")?);
        command.arg("--role").arg(format!("{role:?}").to_lowercase());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process =
            Process::start(command, |child| Box::new(child.stdout.take().expect("the pipe was requested")))?;
        let orders = process.child.stdin.take().expect("the pipe was requested");
        Ok(Self { process, orders })
    }

    /// Sends an order and waits for its answer.
    pub fn ask<A: DeserializeOwned>(&mut self, order: &impl Serialize) -> anyhow::Result<A> {
        self.order(order)?;
        self.answer()
    }

    /// Sends an order. Its answer is read later.
    pub fn order(&mut self, order: &impl Serialize) -> anyhow::Result<()> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?).context("a helper has ended")
    }

    /// Waits for its next answer.
    pub fn answer<A: DeserializeOwned>(&mut self) -> anyhow::Result<A> {
        let line = self.process.line()?;
        serde_json::from_str(&line).with_context(|| format!("a helper said {line:?}"))
    }

    /// Resources that it has used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }
}

/// Sends an answer to the process that started this one.
pub fn say(answer: &impl Serialize) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(answer)?)?;
    output.flush().context("the output is closed")
}

/// Executes orders from standard input until it is closed.
pub fn obey<O: DeserializeOwned, A: Serialize>(
    mut orders: impl FnMut(O) -> anyhow::Result<A>,
) -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        say(&orders(serde_json::from_str(&line?)?)?)?;
    }
    Ok(())
}

/// Resources that a process has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time in seconds, in steps of a hundredth.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Peak of the resident memory, in bytes.
    pub resident_bytes_max: u64,
    /// Bytes written to the disk.
    pub written_bytes: u64,
}

impl Usage {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (stat, status, io) = (read("stat")?, read("status")?, read("io")?);
        Ok(Self {
            cpu_seconds: cpu_seconds(&stat)?,
            resident_bytes: number(&status, "VmRSS:")? * 1024,
            resident_bytes_max: number(&status, "VmHWM:")? * 1024,
            written_bytes: number(&io, "write_bytes:")?,
        })
    }
}

/// User and system time: fields 14 and 15. The second field is the name in parentheses, which may contain
/// spaces.
fn cpu_seconds(stat: &str) -> anyhow::Result<f64> {
    let (_, after_name) = stat.rsplit_once(')').context("a stat file without a name")?;
    let ticks: Vec<f64> =
        after_name.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn number(text: &str, key: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some(number) => Ok(number.parse()?),
        None => bail!("there is no {key}"),
    }
}

/// The kernel's name of the processor, for the head of the table.
pub fn processor() -> String {
    let mut text = String::new();
    let read = File::open("/proc/cpuinfo").and_then(|mut file| file.read_to_string(&mut text));
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    match (read, name) {
        (Ok(_), Some((_, name))) => name.trim().to_owned(),
        _ => "an unknown processor".to_owned(),
    }
}
