//! The processes of a run. Each is started by the one that prints the table, and ends with it.

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

/// Longest wait for an answer. No order takes as long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);
/// What `/proc` counts a process's time in; the same on every Linux that matters.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process is that runs this very program.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Role {
    /// Publishes events.
    Publisher,
    /// Receives POSTs.
    Receiver,
    /// Sends bare POSTs.
    WebhookClient,
    /// Answers bare gRPC calls.
    Echo,
}

/// A process of the run. Killed when it is dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command`; what it writes to one of its outputs is read line by line.
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

    /// What it has used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits for that as long as for an answer.
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

/// A process that runs this program in another role, and does as it is told.
pub struct Helper {
    process: Process,
    orders: ChildStdin,
}

impl Helper {
    /// Starts one.
    pub fn start(role: Role) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe().context("this program has no path")?);
        command.arg("--role").arg(format!("{role:?}").to_lowercase());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process =
            Process::start(command, |child| Box::new(child.stdout.take().expect("it is piped")))?;
        let orders = process.child.stdin.take().expect("it is piped");
        Ok(Self { process, orders })
    }

    /// Gives an order and waits for its answer.
    pub fn ask<A: DeserializeOwned>(&mut self, order: &impl Serialize) -> anyhow::Result<A> {
        self.order(order)?;
        self.answer()
    }

    /// Gives an order, whose answer is to be waited for later.
    pub fn order(&mut self, order: &impl Serialize) -> anyhow::Result<()> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?).context("a helper has ended")
    }

    /// Waits for what it has to say.
    pub fn answer<A: DeserializeOwned>(&mut self) -> anyhow::Result<A> {
        let line = self.process.line()?;
        serde_json::from_str(&line).with_context(|| format!("a helper said {line:?}"))
    }

    /// What it has used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }
}

/// Says something to whoever started this process.
pub fn say(answer: &impl Serialize) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(answer)?)?;
    output.flush().context("nobody listens any more")
}

/// Does what it is told, order by order, until nobody is left to give any.
pub fn obey<O: DeserializeOwned, A: Serialize>(
    mut orders: impl FnMut(O) -> anyhow::Result<A>,
) -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        say(&orders(serde_json::from_str(&line?)?)?)?;
    }
    Ok(())
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Time of a core, in seconds; counted in steps of a hundredth.
    pub cpu_seconds: f64,
    /// Memory that it holds now, in bytes.
    pub resident_bytes: u64,
    /// The most that it ever held.
    pub resident_bytes_max: u64,
    /// What it made the disk write.
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

/// User and system time: the 14th and 15th field, counted past the name in parentheses, which is the second.
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
        None => bail!("no {key} there"),
    }
}

/// The kernel's name for the processor, for the head of the table.
pub fn processor() -> String {
    let mut text = String::new();
    let read = File::open("/proc/cpuinfo").and_then(|mut file| file.read_to_string(&mut text));
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    match (read, name) {
        (Ok(_), Some((_, name))) => name.trim().to_owned(),
        _ => "an unknown processor".to_owned(),
    }
}
