//! `tidings receive`: an HTTP receiver for trying out webhooks. Prints each request, verifies its signatures, and
//! responds with a chosen status, or with what another server responds.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::Context;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use http::Uri;
use tokio::{net::TcpListener, runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{connection::Connection, exit_code, log_warnings, print_error, run_until_signal};
use crate::{domain::secret::Secret, telemetry::LogFormat};

mod forward;
mod keys;
mod print;
mod server;
mod subscription;

pub use forward::Forwarder;
pub use keys::{Keys, Signatures, Verdict};
pub use print::{describe, describe_body, json_line};
pub use server::{BODY_BYTES_MAX, CONNECTIONS_MAX, HEADER_TIMEOUT, Received, Responses, serve};
pub use subscription::{OwnSubscription, SubscribeArguments};

/// Most requests that wait to be printed. Further ones wait for their response.
const PRINT_QUEUE_MAX: usize = 256;
/// The end of the help text.
const AFTER_HELP: &str = "\
With --subscribe the access token comes from --token-file or from the environment variable TIDINGS_TOKEN. It needs the scope manage.

Each signature gets a verdict: valid, INVALID, missing, or not checked where there is no key for it. --secret may be given twice during a \
rotation. A signature by one of several keys is enough, as it is for the libraries of Standard Webhooks.";

/// Receive webhooks, print them, and respond with 200 or another status.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Address to listen on. Port 0 is any free port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// Responses.
    #[command(flatten)]
    pub responses: Responses,
    /// Pass each request on to this URL, with the same headers and body, and respond with its response.
    #[arg(long, value_name = "URL", conflicts_with = "status")]
    pub forward_to: Option<Uri>,
    /// Verify each request's signatures with this secret. May be repeated: any of them.
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// Verify each request's Ed25519 signature with this public key (whpk_...). May be repeated: any of them.
    #[arg(long, value_name = "KEY", value_parser = parse_public_key)]
    pub public_key: Vec<String>,
    /// Print each request as a JSON object on one line, and nothing else to standard output.
    #[arg(long)]
    pub json: bool,
    /// A subscription of its own.
    #[command(flatten)]
    pub subscribe: SubscribeArguments,
}

fn parse_public_key(text: &str) -> Result<String, String> {
    let valid = crate::domain::key_pair::is_public(text);
    if valid { Ok(text.to_owned()) } else { Err("must be whpk_ and the base64 of 32 bytes".to_owned()) }
}

/// The arguments of the command.
pub fn command(name: &'static str) -> Command {
    Arguments::augment_args(Command::new(name))
}

/// Receives webhooks until a signal.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let receive = || {
        let arguments = Arguments::from_arg_matches(matches)?;
        log_warnings(LogFormat::Text)?;
        let gateway = arguments.subscribe.subscribe.then(|| arguments.subscribe.gateway()).transpose()?;
        let gateway = gateway.map(|connection| OwnGateway { connection, id: None });
        run_until_signal(0, |shutdown| run(arguments, gateway, heading, shutdown))
    };
    exit_code(receive())
}

fn heading(address: SocketAddr, subscription: Option<&str>) -> String {
    let subscribed = subscription.map(|name| format!("subscribed as {name}\n")).unwrap_or_default();
    format!("listening on http://{address}\n{subscribed}")
}

/// The gateway of the receiver's own subscription.
pub(super) struct OwnGateway {
    pub(super) connection: Connection,
    /// The last part of the name of the subscription. Without it the gateway chooses one.
    pub(super) id: Option<&'static str>,
}

/// Listens and prints requests to standard output until `shutdown`, or until standard output is closed. It is
/// subscribed at `gateway`, if there is one.
///
/// # Errors
///
/// The address cannot be bound, or the gateway refuses the subscription.
pub(super) async fn run(
    arguments: Arguments,
    gateway: Option<OwnGateway>,
    heading: impl FnOnce(SocketAddr, Option<&str>) -> String,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = bind(arguments.listen).await?;
    let address = listener.local_addr()?;
    let forwarder = arguments.forward_to.as_ref().map(Forwarder::new).transpose()?;
    let secrets = arguments.secret.iter().map(Secret::new).collect();
    let mut keys = Keys { secrets, public_keys: arguments.public_key.clone() };
    let mut own = None;
    if let Some(OwnGateway { connection, id }) = gateway {
        let create = OwnSubscription::create(&arguments.subscribe, connection, id, address);
        let Some(created) = shutdown.run_until_cancelled(create).await else { return Ok(()) };
        let (subscription, its_keys) = created?;
        (own, keys) = (Some(subscription), its_keys);
    }
    let heading = heading(address, own.as_ref().map(|own| own.name.as_str()));

    let (sink, received) = mpsc::channel(PRINT_QUEUE_MAX);
    let printer = Printer { json: arguments.json, keys, own };
    let printer = printer.start(heading, received, shutdown.clone());
    serve(listener, arguments.responses, forwarder, sink, shutdown).await;
    if let Some(own) = printer.await.context("printing failed")? {
        own.remove().await;
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| {
        format!("cannot listen on {address} (choose another address with --listen; port 0 is any free one)")
    })
}

/// Prints requests.
struct Printer {
    json: bool,
    keys: Keys,
    own: Option<OwnSubscription>,
}

impl Printer {
    /// Prints on a thread of its own, until there are no more requests. Returns the subscription then.
    fn start(
        mut self,
        heading: String,
        mut received: mpsc::Receiver<Received>,
        no_reader: CancellationToken,
    ) -> JoinHandle<Option<OwnSubscription>> {
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let print = |text: &str| {
                let mut output = io::stdout().lock();
                output.write_all(text.as_bytes()).and_then(|()| output.flush())
            };
            let mut printed = if self.json {
                print_error(format_args!("{}", heading.trim_end()));
                Ok(())
            } else {
                print(&heading)
            };
            while let Some(request) = printed.is_ok().then(|| received.blocking_recv()).flatten() {
                runtime.block_on(self.follow_rotation(&request));
                printed = print(&self.format(&request));
            }
            // A closed pipe, as behind `| head`, ends the command.
            no_reader.cancel();
            self.own
        })
    }

    fn format(&self, request: &Received) -> String {
        if self.json { json_line(request, &self.keys) } else { describe(request, &self.keys) }
    }

    /// Reads the public key of the own subscription again if it does not verify a request.
    async fn follow_rotation(&mut self, request: &Received) {
        let Some(own) = &self.own else { return };
        if !self.keys.may_lack_public_key(request) {
            return;
        }
        match own.public_keys().await {
            Ok(keys) => self.keys.public_keys.extend(keys),
            Err(error) => {
                print_error(format_args!("tidings: cannot read the key of {}: {error:#}", own.name));
            }
        }
    }
}
