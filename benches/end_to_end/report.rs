//! The figures of a run, as a table for people and as JSON for programs.

use std::{fmt::Write, thread};

use serde::Serialize;

use crate::{
    cases::{Figure, Figures},
    children::processor,
    limits::Found,
    measure::Measured,
};

/// The figures of a run.
#[derive(Serialize)]
pub struct Report {
    /// The measured version.
    pub version: &'static str,
    /// The processor.
    pub processor: String,
    /// Number of its threads.
    pub cores: usize,
    /// A quick run: its figures cannot be compared.
    pub quick: bool,
    /// Duration of the run.
    pub seconds: f64,
    /// Limits of the machine.
    pub limits: Vec<Found>,
    /// Loads of the gateway.
    pub measures: Vec<Measured>,
    /// Unusual conditions.
    pub cases: Vec<Figures>,
}

impl Report {
    /// A report without figures.
    pub fn new(quick: bool) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            processor: processor(),
            cores: thread::available_parallelism().map_or(1, Into::into),
            quick,
            seconds: 0.0,
            limits: Vec::new(),
            measures: Vec::new(),
            cases: Vec::new(),
        }
    }

    /// Formats the report as tables.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a String grows as needed");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Self { version, processor, cores, seconds, .. } = self;
        let quick = if self.quick { "; a quick run: not to be compared" } else { "" };
        writeln!(text, "tidings {version}, {cores} threads of {processor}, {seconds:.0} s{quick}\n")?;
        if !self.limits.is_empty() {
            writeln!(text, "| limit of the machine | per second | CPU s per 10,000 |")?;
            writeln!(text, "|---|--:|--:|")?;
        }
        for Found { name, per_second, cpu_seconds_per_10_000 } in &self.limits {
            let cpu = cpu_seconds_per_10_000.map_or(String::new(), |seconds| format!("{seconds:.2}"));
            writeln!(text, "| {name} | {} | {cpu} |", thousands(*per_second))?;
        }
        self.write_measures(text)?;
        for figures in &self.cases {
            figures.write(text)?;
        }
        Ok(())
    }

    fn write_measures(&self, text: &mut String) -> std::fmt::Result {
        if self.measures.is_empty() {
            return Ok(());
        }
        text.write_str(
            "\n| gateway | published/s | arrived/s | settled/s | CPU s per 10,000 deliveries (others) | \
             publish to arrival: p50, p95, p99, max | to answer: p50, p99 | memory idle, peak | written per delivery |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        )?;
        for measured in &self.measures {
            let (arrival, answer) = (measured.arrival_micros, measured.answer_micros);
            writeln!(
                text,
                "| {} | {} | {} | {} | {:.2} ({:.2}) | {}, {}, {}, {} | {}, {} | {:.0}, {:.0} MB | {:.1} KB |",
                measured.name,
                thousands(measured.published_per_second),
                thousands(measured.arrived_per_second),
                thousands(measured.settled_per_second),
                measured.cpu_seconds_per_10_000,
                measured.others_cpu_seconds_per_10_000,
                millis(arrival.p50),
                millis(arrival.p95),
                millis(arrival.p99),
                millis(arrival.max),
                millis(answer.p50),
                millis(answer.p99),
                measured.idle_bytes as f64 / 1e6,
                measured.peak_bytes as f64 / 1e6,
                measured.written_bytes_per_delivery / 1e3,
            )?;
        }
        Ok(())
    }
}

impl Figures {
    /// Formats the case as a table.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a String grows as needed");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n| {} | |\n|---|--:|", self.name)?;
        for Figure { what, value, unit } in &self.figures {
            let number = if value.abs() < 100.0 && value.fract() != 0.0 {
                format!("{value:.2}")
            } else {
                thousands(*value)
            };
            let space = if unit.is_empty() || unit.starts_with('/') { "" } else { " " };
            writeln!(text, "| {what} | {number}{space}{unit} |")?;
        }
        Ok(())
    }
}

/// `12,345`.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1e3)
}
