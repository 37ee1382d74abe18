//! `tidings import`: converts webhook JSON to events, and publishes them to a running gateway over
//! gRPC, in their order.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use tokio_util::sync::CancellationToken;

use self::{client::Client, publish::Publisher, report::Report};
use super::{
    connection::{ConnectionArguments, Environment},
    ending::Ending,
    exit_code,
    json_form::JsonForm,
    run_until_signal,
};
use crate::{config::parse_duration, domain::ids::AccountId};

mod client;
mod objects;
mod publish;
mod reader;
mod report;

pub use objects::OBJECT_BYTES_MAX;
#[cfg(any(test, fuzzing))]
pub use objects::fuzz;
pub(super) use reader::account_of as account_of_body;

/// The end of the help text.
const AFTER_HELP: &str = "\
The input is a sequence of JSON objects, each on one line or over several. They are published in their order, in batches (--batch) that are \
stored as a whole or not at all. Objects that cannot be converted are reported with their line and every problem; the rest are still \
published.

You can safely repeat an import. The event's id is derived from the account, the bytes of the object, and how many equal objects precede \
it in the input (all files together). Objects that are already stored are not published again, for as long as the gateway keeps them \
(retention_age). Two equal objects in one input are two events.

The access token comes from --token-file, the environment variable TIDINGS_TOKEN, or the context. It needs the scope publish.

Exit codes:
  0    All objects are published, now or before.
  1    Something failed, for example reading a file.
  64   The arguments are wrong.
  65   At least one object was refused.
  75   The gateway could not be reached, or had no room for longer than --retry-for. Repeat the command: it continues.
  77   The token is not allowed to publish.
  130  A signal ended the command. Repeat the command: it continues.";

/// Publish webhook JSON, as Chatwoot sends or documents it, to a running gateway.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Files of JSON objects, each the body of one webhook. Without a file, or for -, standard input.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Account of the objects. Without it each object must name its account. Objects that name another one
    /// are refused.
    #[arg(long, value_name = "NUMBER")]
    pub account: Option<AccountId>,
    /// Form of the objects. Without it each object is read in the first form that represents it without loss;
    /// if none does, the problems in the best fitting form are reported.
    #[arg(long, value_name = "FORM")]
    pub format: Option<JsonForm>,
    /// The gateway.
    #[command(flatten)]
    pub connection: ConnectionArguments,
    /// Only read and check the input. Needs no gateway.
    #[arg(long, conflicts_with = "validate_only")]
    pub dry_run: bool,
    /// Let the gateway check the events, without publishing them.
    #[arg(long)]
    pub validate_only: bool,
    /// Stop at the first refused object. Objects before it are published.
    #[arg(long)]
    pub strict: bool,
    /// How long to retry while the gateway has no room or cannot be reached.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    pub retry_for: Duration,
    /// Most events in one call, 1 to 1000.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000), default_value = "200")]
    pub batch: u16,
    /// Most different objects in the input. Counting equal ones takes about 20 bytes of memory for each.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), default_value = "10000000")]
    pub objects_max: u64,
}

/// The arguments of the command.
pub fn command(name: &'static str) -> Command {
    Arguments::augment_args(Command::new(name))
}

/// Publishes the input, and returns the exit code of its end.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let import = || {
        let arguments = Arguments::from_arg_matches(matches)?;
        run_until_signal(1, async |shutdown| Ok(run(arguments, shutdown).await))
    };
    match import() {
        Ok(ending) => ExitCode::from(ending.code()),
        Err(error) => exit_code(Err(error)),
    }
}

/// Publishes the objects of the files or of standard input. Refusals and errors go to standard error, the
/// counts to standard output.
async fn run(arguments: Arguments, shutdown: CancellationToken) -> Ending {
    let ending = match start(&arguments, &shutdown).await {
        Ok(publisher) => publish(&arguments, publisher, shutdown).await,
        Err(ending) => ending,
    };
    ending.print();
    ending
}

async fn start(arguments: &Arguments, shutdown: &CancellationToken) -> Result<Option<Client>, Ending> {
    let target = arguments.connection.resolve(&Environment::of_process()).map_err(Ending::Misused)?;
    if arguments.dry_run {
        return Ok(None);
    }
    let connection = target.open().map_err(Ending::Failed)?;
    let connecting = Client::connect(connection, arguments.retry_for, shutdown.clone());
    match shutdown.run_until_cancelled(connecting).await {
        None => Err(Ending::Interrupted),
        Some(Ok(client)) => Ok(Some(client)),
        Some(Err(error)) => Err(Ending::Unavailable(error)),
    }
}

async fn publish(arguments: &Arguments, client: Option<Client>, shutdown: CancellationToken) -> Ending {
    let items = match reader::start(arguments) {
        Ok(items) => items,
        Err(error) => return Ending::Failed(error),
    };
    let report = Report::new(arguments);
    let mut publisher = Publisher::new(client, report, usize::from(arguments.batch), arguments.strict);
    let ending = publisher.run(items, shutdown).await;
    let summary = publisher.report().summary(&ending);
    match writeln!(io::stdout(), "{summary}").context("cannot write to standard output") {
        Ok(()) => ending,
        // An earlier failure is more important.
        Err(error) if matches!(ending, Ending::Complete) => Ending::Failed(error),
        Err(_) => ending,
    }
}
