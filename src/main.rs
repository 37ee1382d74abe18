//! The program: arguments, configuration, telemetry, app, exit code.

use std::{
    env,
    future::Future,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use mimalloc::MiMalloc;
use tidings::{
    app,
    commands::{demo, import, receive},
    config::{Config, ConfigFault, Flags, LogFormat, Origins, TOKEN_ENVIRONMENT, settings_table},
    shutdown, telemetry,
};
use tokio::runtime;

/// An event is many small allocations that one thread makes and another frees, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The exit code for wrong arguments or a wrong configuration, as `sysexits.h` has it.
const EX_USAGE: u8 = 64;
/// How long blocking work that nobody waits for may go on at the end.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(told) => {
            drop(told.print());
            return if told.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match matches.subcommand() {
        Some(("serve", matches)) => with_config(matches, |config, _| serve(config)),
        Some(("config", matches)) if matches.get_flag("markdown") => exit_code(print(&settings_table())),
        Some(("config", matches)) => with_config(matches, |_, origins| exit_code(print(&origins.to_toml()))),
        Some(("rotate-secrets-key", matches)) => with_config(matches, |config, _| exit_code(rotate(&config))),
        Some(("receive", matches)) => exit_code(receive(matches)),
        Some(("import", matches)) => match import(matches) {
            Ok(ending) => ExitCode::from(ending.code()),
            Err(error) => exit_code(Err(error)),
        },
        Some(("demo", _)) => exit_code(demo()),
        _ => unreachable!("clap lets nothing else through"),
    }
}

fn command() -> Command {
    let markdown = Arg::new("markdown")
        .long("markdown")
        .action(ArgAction::SetTrue)
        .help("Print the table of all settings for the documentation instead");
    Command::new("tidings")
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Flags::add_to(Command::new("serve").about("Run the gateway")))
        .subcommand(
            Flags::add_to(Command::new("config"))
                .about("Print the settings in force and where each comes from, as a configuration file")
                .arg(markdown),
        )
        .subcommand(Flags::add_to(Command::new("rotate-secrets-key")).about(
            "Encrypt the secrets in the store with another key, while the gateway does not run: with a new one that takes the place of \
             the one in the key file, or with the first where several are given",
        ))
        .subcommand(receive::Arguments::augment_args(Command::new("receive")))
        .subcommand(import::Arguments::augment_args(Command::new("import")))
        .subcommand(
            Command::new("demo")
                .about("Show the whole round on a store that goes away: publish, deliver, list"),
        )
}

/// Runs `then` with the configuration, or tells everything that is wrong with it.
fn with_config(matches: &ArgMatches, then: impl FnOnce(Config, Origins) -> ExitCode) -> ExitCode {
    match Config::load(&Flags::from_matches(matches), env::vars_os()) {
        Ok((config, origins)) => then(config, origins),
        Err(faults) => {
            tell(&faults);
            ExitCode::from(EX_USAGE)
        }
    }
}

fn tell(faults: &[ConfigFault]) {
    let count = faults.len();
    eprintln!("tidings: the configuration has {count} {}:", if count == 1 { "fault" } else { "faults" });
    for fault in faults {
        eprintln!("  {fault}");
    }
}

fn serve(config: Config) -> ExitCode {
    let run = || {
        telemetry::start(config.log_format, &config.log_level).context("cannot write log lines")?;
        run_until_signal(config.delivery_threads, |shutdown| app::run(config, shutdown))
    };
    match run() {
        // Whoever reads the log as JSON must not find a line that is none.
        Err(error) if tracing::enabled!(tracing::Level::ERROR) => {
            tracing::error!("stopped: {error:#}");
            ExitCode::FAILURE
        }
        ended => exit_code(ended),
    }
}

fn rotate(config: &Config) -> anyhow::Result<()> {
    telemetry::start(config.log_format, "warn").context("cannot write log lines")?;
    print(&app::rotate_secrets_key(config)?)
}

fn receive(matches: &ArgMatches) -> anyhow::Result<()> {
    let arguments = receive::Arguments::from_arg_matches(matches)?;
    telemetry::start(LogFormat::Text, "warn").context("cannot write log lines")?;
    run_until_signal(0, |shutdown| receive::run(arguments, shutdown))
}

fn import(matches: &ArgMatches) -> anyhow::Result<import::Ending> {
    let arguments = import::Arguments::from_arg_matches(matches)?;
    let token = env::var_os(TOKEN_ENVIRONMENT);
    run_until_signal(1, async |shutdown| Ok(import::run(arguments, token, shutdown).await))
}

fn demo() -> anyhow::Result<()> {
    telemetry::start(LogFormat::Text, "warn").context("cannot write log lines")?;
    run_until_signal(0, async |shutdown| demo::run(&mut io::stdout(), shutdown).await)
}

/// Runs on so many threads; 0 for as many as there are cores.
fn run_until_signal<T, F>(
    threads: usize,
    run: impl FnOnce(tokio_util::sync::CancellationToken) -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut builder = runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().context("cannot start threads")?;
    let ended = runtime.block_on(async {
        let shutdown = shutdown::on_signals().context("cannot listen for signals")?;
        shutdown::survive_file_size_limit().context("cannot listen for signals")?;
        run(shutdown).await
    });
    runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    ended
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn exit_code(ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidings: {error:#}");
            ExitCode::FAILURE
        }
    }
}
