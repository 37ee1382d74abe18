//! The whole gateway, from publish to arrival: `cargo bench --bench end_to_end`.
//!
//! A publisher, the gateway (the real binary) and a receiver, each a process of its own. Everything is persisted, as the
//! gateway always does. Beside it stand the limits of the machine in the same run: the disk, bare POSTs, bare gRPC. Each
//! measure gets a fresh gateway, and fails the run unless every delivery arrived exactly once and is settled.
//! docs/benchmarks.md says how to read the figures.

mod children;
mod gateway;
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

use self::{children::Role, plan::Plan, report::Report};

/// Measures the gateway end to end.
#[derive(Parser)]
struct Arguments {
    /// Less of everything: under 30 seconds, for checks that nothing is broken.
    #[arg(long)]
    quick: bool,
    /// Only the measures whose names contain this.
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Run the gateway under this command, a profiler for example, and end it by SIGTERM. Figures are then worth nothing.
    #[arg(long, value_name = "COMMAND")]
    under: Option<String>,
    /// Write the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is in a run: set by the benchmark for those that it starts.
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
    let plan = if arguments.quick { Plan::quick() } else { Plan::full() };
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|words| name.contains(words.as_str()));

    let mut report = Report::new(arguments.quick);
    for limit in plan.limits.iter().filter(|limit| wanted(&limit.name())) {
        eprintln!("limit: {}", limit.name());
        report.limits.push(limit.measure().with_context(|| limit.name())?);
    }
    for measure in plan.measures.iter().filter(|measure| wanted(measure.name)) {
        eprintln!("measure: {}", measure.name);
        let measured = measure::run(measure, arguments.under.as_deref());
        report.measures.push(measured.context(measure.name)?);
    }
    report.seconds = start.elapsed().as_secs_f64();
    print!("{}", report.to_markdown());
    if let Some(file) = &arguments.json {
        let json = serde_json::to_vec_pretty(&report).context("cannot write the figures as JSON")?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
