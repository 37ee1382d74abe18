//! `tidings check`: examines a data directory, and repairs it on request.

use std::{path::PathBuf, process::ExitCode};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{exit_code, log_warnings, print};
use crate::{
    store::disk::check::{CheckReport, QUARANTINE, Remedy, check},
    telemetry::LogFormat,
};

/// The arguments.
pub fn command(name: &'static str) -> Command {
    let about = "Examine a data directory while the gateway is stopped, and repair it";
    let dir = Arg::new("data_dir").value_name("DATA_DIR").required(true).value_parser(value_parser!(PathBuf));
    let repair = Arg::new("repair").long("repair").action(ArgAction::SetTrue);
    Command::new(name)
        .about(about)
        .long_about(format!(
            "{about}.\n\nReads everything in it, and names each damage with its file, its position, what it concerns and the way out. \
             The exit code is 1 if there is a damage that is not repaired.",
        ))
        .arg(dir.help("The data directory"))
        .arg(repair.help(format!(
            "Move what is damaged into DATA_DIR/{QUARANTINE}, so that the rest opens; copy the directory before",
        )))
}

/// Examines the directory and prints what is wrong with it.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let dir = matches.get_one::<PathBuf>("data_dir").expect("clap requires it");
    let examined = || {
        log_warnings(LogFormat::Text)?;
        let report = check(dir, matches.get_flag("repair"))?;
        print(&describe(&report))?;
        anyhow::ensure!(!report.is_damaged(), "{} is damaged", dir.display());
        Ok(())
    };
    exit_code(examined())
}

fn describe(report: &CheckReport) -> String {
    let CheckReport { damages, subscriptions, tokens, audit_records, events, lost_events, is_cut_short } =
        report;
    let mut text: String = damages.iter().map(|damage| format!("{damage}.\n")).collect();
    let repaired = damages.iter().filter(|damage| matches!(damage.remedy, Remedy::Repaired(_))).count();
    let found = match (damages.len(), repaired) {
        (all, 0) => count(all, "damage"),
        (all, repaired) if all == repaired => format!("{}, repaired", count(all, "damage")),
        (all, repaired) => format!("{}, {repaired} of them repaired", count(all, "damage")),
    };
    let lost = match lost_events {
        0 => String::new(),
        lost => format!("; {} cannot be found any more", count(*lost, "event")),
    };
    text.push_str(&match is_cut_short {
        true => format!("Nothing else was read: {found}.\n"),
        false => format!(
            "Read {}, {}, {}, {}: {found}{lost}.\n",
            count(*subscriptions, "subscription"),
            count(*tokens, "access token"),
            count(*audit_records, "audit record"),
            count(*events, "event"),
        ),
    });
    text
}

/// A number of things.
fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
