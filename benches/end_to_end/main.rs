//! The whole gateway, from publish to arrival: `cargo bench --bench end_to_end`.
//!
//! A publisher, the gateway (the real binary) and a receiver, each a process of its own. Everything is
//! persisted, as always. The same run measures the limits of the machine: the disk, bare POSTs, bare gRPC.
//! Each measure has a fresh gateway, and fails unless every delivery arrives exactly once and is settled.
//! docs/benchmarks.md explains the figures.

mod attackers;
mod authorized;
mod browser;
mod cases;
mod children;
#[path = "../../tests/support/dns_server.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the tests use more of it, and end where it fails")]
mod dns_server;
#[path = "../../tests/support/environment.rs"]
mod environment;
mod gateway;
mod json;
mod limits;
mod load;
mod measure;
mod plan;
mod publisher;
mod receiver;
mod report;
mod wire;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context;
use clap::Parser;

use self::{
    children::Role,
    gateway::Start,
    plan::{Plan, Scale},
    report::Report,
};

/// Says that a measure was skipped, and why.
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// Measures the gateway end to end.
#[derive(Parser)]
struct Arguments {
    /// Run a short form, under a minute, to check that nothing is broken.
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// Use ten million events and 100,000 subscriptions for backlog, lists, console and soak: an hour, and 40 GB of
    /// disk.
    #[arg(long)]
    long: bool,
    /// Events of a backlog, of lists, of a console and of a soak.
    #[arg(long, value_name = "COUNT")]
    events: Option<u64>,
    /// More flags of the gateway, separated by spaces.
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    flags: Option<String>,
    /// Run only the measures whose names contain this.
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Run the gateway under this command, for example a profiler, and stop it with SIGTERM. The figures are
    /// then invalid.
    #[arg(long, value_name = "COMMAND")]
    under: Option<String>,
    /// File for the figures as JSON.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/end_to_end.json"))]
    json: PathBuf,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Role of this process. The benchmark sets it for the processes that it starts.
    #[arg(long, hide = true)]
    role: Option<Role>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.role {
        None => run(&arguments),
        Some(Role::Publisher) => publisher::serve(),
        Some(Role::Receiver) => receiver::serve(),
        Some(Role::Poster) => limits::posts::serve(),
        Some(Role::Echo) => limits::echo::serve(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("end_to_end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let start = Instant::now();
    let scale = match (arguments.quick, arguments.long) {
        (true, _) => Scale::Quick,
        (false, true) => Scale::Long,
        (false, false) => Scale::Full,
    };
    let plan = Plan::of(scale, arguments.events);
    let flags = arguments.flags.iter().flat_map(|flags| flags.split_whitespace()).map(str::to_owned);
    let how = Start { under: arguments.under.clone(), flags: flags.collect(), ..Start::default() };
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|words| name.contains(words.as_str()));

    let mut report = Report::new(arguments.quick);
    for limit in plan.limits.iter().filter(|limit| wanted(&limit.name())) {
        eprintln!("limit: {}", limit.name());
        report.limits.push(limit.measure().with_context(|| limit.name())?);
    }
    for measure in plan.measures.iter().filter(|measure| wanted(measure.name)) {
        eprintln!("measure: {}", measure.name);
        report.measures.push(measure::run(measure, &how).context(measure.name)?);
    }
    for case in plan.cases.iter().filter(|case| wanted(&case.name())) {
        eprintln!("case: {}", case.name());
        let figures = case.run(&how).with_context(|| case.name())?;
        // Print now: a run may take long, and the next case may fail.
        eprintln!("{}", figures.to_markdown());
        report.cases.push(figures);
    }
    report.seconds = start.elapsed().as_secs_f64();
    print!("{}", report.to_markdown());
    let json = serde_json::to_vec_pretty(&report).context("cannot write the figures as JSON")?;
    std::fs::write(&arguments.json, json)
        .with_context(|| format!("cannot write {}", arguments.json.display()))?;
    eprintln!("JSON: {}", arguments.json.display());
    Ok(())
}
