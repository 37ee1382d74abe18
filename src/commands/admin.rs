//! The commands that administer a running gateway over gRPC: one module for each resource, and the parts that
//! they share.

use std::process::ExitCode;

use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use tokio_util::sync::CancellationToken;

use self::{
    gateway::{Gateway, GatewayArguments},
    output::OutputArguments,
};
use super::{connection::Environment, ending::Ending, exit_code, run_until_signal};

mod audit;
mod choices;
mod context;
mod deliveries;
mod describe;
mod errors;
mod events;
mod gateway;
mod lists;
mod names;
mod notices;
mod output;
mod publish;
mod replay;
mod settings;
mod stats;
mod subscriptions;
mod times;
mod tokens;

/// The end of the help text of every command here.
const AFTER_HELP: &str = "\
The gateway, the account and the credentials come from flags, else from the environment (TIDINGS_ADDRESS, TIDINGS_ACCOUNT, \
TIDINGS_TOKEN or TIDINGS_TOKEN_FILE, TIDINGS_CA, TIDINGS_CERT, TIDINGS_KEY), else from the context (see `tidings context`), \
else from the defaults.

Times are a span before now (24h, 7d), a day (2026-11-30, today, yesterday), or RFC 3339. Days and output are in UTC.

Exit codes:
  0    Done.
  1    Something failed, for example reading a file.
  64   The arguments are wrong.
  65   The gateway refused the request; every field at fault is printed.
  75   The gateway could not be reached, or has no room. Try again.
  77   The token is not allowed to do it.
  130  A signal ended the command.";

/// A command that calls a gateway.
trait Administer {
    /// Calls the gateway and prints the result.
    async fn run(self, gateway: &Gateway) -> Result<(), Ending>;
}

/// Commands about one resource.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
struct Group<A: Subcommand> {
    #[command(subcommand)]
    action: A,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    gateway: GatewayArguments,
}

/// One command.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
struct Single<A: clap::Args> {
    #[command(flatten)]
    action: A,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    gateway: GatewayArguments,
}

// A doc comment would become the description of the program.
#[derive(Clone, Debug, Subcommand)]
enum AdminCommand {
    /// List, add and change the webhooks of accounts.
    #[command(visible_alias = "subs")]
    Subscriptions(Box<Group<subscriptions::Action>>),
    /// List and follow deliveries, retry and cancel one.
    #[command(visible_alias = "dels")]
    Deliveries(Group<deliveries::Action>),
    /// List stored events, and show the bodies that are made of them.
    Events(Group<events::Action>),
    /// Publish one event.
    Publish(Single<publish::Arguments>),
    /// Queue stored events again for one subscription.
    Replay(Single<replay::Arguments>),
    /// Create, list and revoke access tokens.
    Tokens(Group<tokens::Action>),
    /// List who changed what.
    Audit(Single<audit::Arguments>),
    /// Count deliveries by state, or attempts over time.
    Stats(Single<stats::Arguments>),
    /// Manage the URLs that receive notices about endpoints.
    Notices(Group<notices::Action>),
    /// Manage contexts: which gateway and account to use.
    Context(context::Arguments),
}

/// Adds the commands to the program.
pub fn add_to(program: Command) -> Command {
    AdminCommand::augment_subcommands(program)
}

/// Runs one of the commands, and returns the exit code of its end.
///
/// # Panics
///
/// The arguments are those of none of them.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let command = AdminCommand::from_arg_matches(matches).expect("main dispatches the other commands");
    match run_until_signal(1, async |shutdown| Ok(run(command, shutdown).await)) {
        Ok(ending) => {
            ending.print();
            ExitCode::from(ending.code())
        }
        Err(error) => exit_code(Err(error)),
    }
}

async fn run(command: AdminCommand, shutdown: CancellationToken) -> Ending {
    let result = match command {
        AdminCommand::Subscriptions(group) => group.run(shutdown).await,
        AdminCommand::Deliveries(group) => group.run(shutdown).await,
        AdminCommand::Events(group) => group.run(shutdown).await,
        AdminCommand::Publish(single) => single.run(shutdown).await,
        AdminCommand::Replay(single) => single.run(shutdown).await,
        AdminCommand::Tokens(group) => group.run(shutdown).await,
        AdminCommand::Audit(single) => single.run(shutdown).await,
        AdminCommand::Stats(single) => single.run(shutdown).await,
        AdminCommand::Notices(group) => group.run(shutdown).await,
        AdminCommand::Context(arguments) => arguments.run(),
    };
    result.err().unwrap_or(Ending::Complete)
}

impl<A: Subcommand + Administer> Group<A> {
    async fn run(self, shutdown: CancellationToken) -> Result<(), Ending> {
        call(self.action, &self.gateway, self.output, shutdown).await
    }
}

impl<A: clap::Args + Administer> Single<A> {
    async fn run(self, shutdown: CancellationToken) -> Result<(), Ending> {
        call(self.action, &self.gateway, self.output, shutdown).await
    }
}

async fn call(
    action: impl Administer,
    arguments: &GatewayArguments,
    output: OutputArguments,
    shutdown: CancellationToken,
) -> Result<(), Ending> {
    let gateway = Gateway::connect(arguments, &Environment::of_process(), output, shutdown).await?;
    action.run(&gateway).await
}
