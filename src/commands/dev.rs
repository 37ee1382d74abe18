//! `tidings dev`: everything on this machine to try the gateway out. A gateway on a temporary store that may POST to
//! this machine, its console, and a receiver that is subscribed to everything.

use std::{env, net::SocketAddr, path::Path, process::ExitCode};

use anyhow::Context;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Address, Connection, ConnectionArguments},
    exit_code,
    json_form::JsonForm,
    log_warnings,
    receive::{self, OwnGateway, Responses, SubscribeArguments},
    run_until_signal,
};
use crate::{
    app::{Addresses, App, Config},
    console::ConsoleListen,
    domain::ids::AccountId,
    telemetry::LogFormat,
};

/// The last part of the name of the receiver's subscription.
const SUBSCRIPTION: &str = "dev";
/// The networks that may be POSTed to although they are not public: this machine.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// The event of the first command, in the documented form.
const EVENT: &str = r#"{"event":"message_created","id":1,"content":"Hi","message_type":0,"conversation":{"id":1,"status":"open"}}"#;
/// The end of the help text.
const AFTER_HELP: &str = "\
Nothing is kept: the store is a temporary directory, which is removed at the end. `tidings serve` keeps its data.";

/// Try everything on this machine: a gateway without memory, its console, and a receiver that prints each webhook.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    /// Address for gRPC. Port 0 is any free port, also for the following.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    grpc_listen: SocketAddr,
    /// Address of the console, or off.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    console_listen: ConsoleListen,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    http_listen: SocketAddr,
    /// Address of the receiver.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Account that the receiver is subscribed in.
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    account: AccountId,
    /// Form of the receiver's bodies.
    #[arg(long, value_name = "FORM", default_value = "documented")]
    format: JsonForm,
    /// Responses of the receiver.
    #[command(flatten)]
    responses: Responses,
    /// Print each webhook as a JSON object on one line, and nothing else to standard output.
    #[arg(long)]
    json: bool,
}

/// The arguments of the command.
pub fn command(name: &'static str) -> Command {
    Arguments::augment_args(Command::new(name))
}

/// Runs everything until a signal.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let dev = || {
        let arguments = Arguments::from_arg_matches(matches)?;
        log_warnings(LogFormat::Text)?;
        run_until_signal(0, |shutdown| run(arguments, shutdown))
    };
    exit_code(dev())
}

async fn run(arguments: Arguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("cannot create a directory for the store")?;
    let app = App::build(config(&arguments, directory.path())).await?;
    let addresses = app.addresses()?;
    let end = CancellationToken::new();
    let mut gateway = tokio::spawn(app.run(end.clone()));

    let heading = |receiver, _: Option<&str>| heading(&addresses, receiver, arguments.account);
    let address: Address = format!("http://{}", addresses.grpc).parse().map_err(anyhow::Error::msg)?;
    let receiver = receiver(&arguments, address.clone());
    let gateway_of_receiver =
        OwnGateway { connection: Connection::anonymous(address)?, id: Some(SUBSCRIPTION) };
    let receiving = receive::run(receiver, Some(gateway_of_receiver), heading, shutdown);
    let received = tokio::select! {
        received = receiving => received,
        ended = &mut gateway => return ended.context("the gateway panicked")?.context("the gateway ended"),
    };
    end.cancel();
    received.and(gateway.await.context("the gateway panicked")?)
}

fn config(arguments: &Arguments, data_dir: &Path) -> Config {
    let mut config = Config { data_dir: data_dir.to_owned(), ..Config::default() };
    config.grpc.grpc_listen = arguments.grpc_listen;
    config.ops.http_listen = arguments.http_listen;
    config.console.console_listen = arguments.console_listen;
    config.egress.egress_allow =
        LOOPBACK.map(|network| network.parse().expect("the networks are valid")).to_vec();
    config
}

fn receiver(arguments: &Arguments, gateway: Address) -> receive::Arguments {
    receive::Arguments {
        listen: arguments.listen,
        responses: arguments.responses.clone(),
        forward_to: None,
        secret: Vec::new(),
        public_key: Vec::new(),
        json: arguments.json,
        subscribe: SubscribeArguments {
            subscribe: true,
            account: arguments.account,
            types: Vec::new(),
            format: arguments.format,
            url: None,
            connection: ConnectionArguments { address: Some(gateway), ..ConnectionArguments::default() },
        },
    }
}

/// The addresses, and what to do next.
fn heading(addresses: &Addresses, receiver: SocketAddr, account: AccountId) -> String {
    let program = env::args().next().unwrap_or_else(|| "tidings".to_owned());
    let Addresses { grpc, http, console } = addresses;
    let address =
        if grpc.port() == DEFAULT_PORT { String::new() } else { format!(" --address http://{grpc}") };
    format!(
        "\
gateway    http://{grpc}   gRPC; nothing is kept when it ends
console    {console}
metrics    http://{http}/metrics
receiver   http://{receiver}/   gets every event of account {account}, as accounts/{account}/subscriptions/{SUBSCRIPTION}

Try in another terminal:
  {program} publish{address} --account {account} --format documented '{EVENT}'
  {program} deliveries tail{address} --account {account}
  {program} subscriptions list{address} --account {account}

Webhooks:

"
    )
}

/// The port that the commands call by default.
const DEFAULT_PORT: u16 = 50051;
