//! The program: arguments → a command.

use std::process::ExitCode;

use clap::Command;
use mimalloc::MiMalloc;
use tidings::commands::{
    EX_USAGE, admin, backup, check, config, demo, dev, import, manual, receive, rotate_keys, serve,
};

/// An event is many small allocations that one thread makes and another frees. The system's allocator is slow
/// at that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Files and directories are for this user alone, whatever the system's default is.
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(message) => {
            drop(message.print());
            return if message.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match matches.subcommand() {
        Some(("serve", matches)) => serve::execute(matches),
        Some(("config", matches)) => config::execute(matches),
        Some(("check", matches)) => check::execute(matches),
        Some(("backup", matches)) => backup::execute(matches),
        Some(("rotate-secrets-key", matches)) => rotate_keys::execute(matches),
        Some(("receive", matches)) => receive::execute(matches),
        Some(("import", matches)) => import::execute(matches),
        Some(("demo", matches)) => demo::execute(matches),
        Some(("dev", matches)) => dev::execute(matches),
        Some(("completions", matches)) => manual::print_completions(matches, command()),
        Some(("man", matches)) => manual::write_pages(matches, command()),
        Some(("version", _)) => manual::print_version(),
        _ => admin::execute(&matches),
    }
}

fn command() -> Command {
    let program = Command::new("tidings")
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve::command("serve"))
        .subcommand(config::command("config"))
        .subcommand(check::command("check"))
        .subcommand(backup::command("backup"))
        .subcommand(rotate_keys::command("rotate-secrets-key"))
        .subcommand(receive::command("receive"))
        .subcommand(import::command("import"))
        .subcommand(demo::command("demo"))
        .subcommand(dev::command("dev"));
    admin::add_to(program)
        .subcommand(manual::completions_command("completions"))
        .subcommand(manual::man_command("man"))
        .subcommand(manual::version_command("version"))
}
