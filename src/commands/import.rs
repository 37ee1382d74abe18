//! The command that publishes Chatwoot's webhook JSON: reads objects, makes events of them, and gives them to a running
//! gateway over gRPC, in their order.

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use self::{
    client::{Client, Connection},
    publish::Publisher,
    report::Report,
};
use crate::{config::parse_duration, domain::ids::AccountId};

mod address;
mod client;
mod identity;
mod objects;
mod publish;
mod reader;
mod report;

pub use address::Address;
pub use objects::OBJECT_BYTES_MAX;
#[cfg(any(test, fuzzing))]
pub use objects::fuzz;

/// What `--help` says at its end.
const AFTER_HELP: &str = "\
Objects follow one another, one on each line or over several lines. They are published in their order, some at a time (--batch), all or \
none of these; the next ones go once the gateway has them on disk. One that cannot be represented is refused with its line and what \
is at fault, and the others are published nevertheless.

It is safe to repeat: an event's id is made of its account, the object's bytes, and how many equal objects come before it in the input (all \
files of the command together). So the same input again publishes nothing twice, as long as the gateway keeps the events \
(retention_age), and two equal objects of one input are two events.

A token is read from --token-file or from the environment variable TIDINGS_TOKEN. It needs the scope publish.

Exit codes: 0 all objects are published, or were before; 1 something failed, such as reading a file; 64 wrong usage; 65 at least one object was \
refused; 75 the gateway could not be reached or took nothing for --retry-for: repeat the command; 77 the gateway does not let the \
token do it; 130 ended by a signal. After 75 and 130 a repetition goes on where this run ended.";

/// Publish Chatwoot's webhook JSON as events of a running gateway.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Files of JSON objects, each the body of one of Chatwoot's webhooks; - or none for standard input.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The account that the objects are of. Without it each must tell its own. One that tells another is refused.
    #[arg(long, value_name = "NUMBER")]
    pub account: Option<AccountId>,
    /// Where the gateway serves gRPC: http:// or https://, a host, and a port.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub address: Address,
    /// A file with the access token to call with.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust for https, in place of the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate to show, then those up to its authority.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// A PEM file with the private key of that certificate.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Read and check only. Needs no gateway.
    #[arg(long, conflicts_with = "validate_only")]
    pub dry_run: bool,
    /// Have the gateway check the events, and publish nothing.
    #[arg(long)]
    pub validate_only: bool,
    /// Stop at the first object that is refused. Those before it are published.
    #[arg(long)]
    pub strict: bool,
    /// How long to try on while the gateway has no room or cannot be reached any more.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    pub retry_for: Duration,
    /// Most events that are published by one call, 1 to 1000.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000), default_value = "200")]
    pub batch: u16,
    /// Most different objects of one input. Each takes some 20 bytes of memory, by which equal ones are counted.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), default_value = "10000000")]
    pub objects_max: u64,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ending {
    /// Everything is published, or was before.
    Complete,
    /// Everything that could be; some objects were refused, and told.
    Refused,
    /// A signal came first.
    Interrupted,
    /// The gateway could not be reached, or took nothing for as long as it was tried.
    Unavailable(anyhow::Error),
    /// The gateway does not let the caller do it.
    Denied(anyhow::Error),
    /// The arguments do not go together.
    Misused(anyhow::Error),
    /// Something else failed: a file cannot be read, or the gateway answers what it should not.
    Failed(anyhow::Error),
}

impl Ending {
    /// The exit code of the program, as `sysexits.h` has them where it has one.
    pub fn code(&self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Failed(_) => 1,
            Self::Misused(_) => 64,
            Self::Refused => 65,
            Self::Unavailable(_) => 75,
            Self::Denied(_) => 77,
            Self::Interrupted => 130,
        }
    }

    fn error(&self) -> Option<&anyhow::Error> {
        match self {
            Self::Complete | Self::Refused | Self::Interrupted => None,
            Self::Unavailable(error) | Self::Denied(error) | Self::Misused(error) | Self::Failed(error) => {
                Some(error)
            }
        }
    }
}

impl Arguments {
    /// What cannot be told from one argument alone.
    fn check(&self) -> anyhow::Result<()> {
        let wants_tls = self.ca.is_some() || self.cert.is_some();
        anyhow::ensure!(
            self.address.is_https() || !wants_tls,
            "--ca and --cert are of use with https only, and --address is {}",
            self.address
        );
        Ok(())
    }
}

/// Publishes what the files or standard input hold, tells refusals and errors on standard error, and the counts in one line on
/// standard output. `token` is what the environment has in [`TOKEN_ENVIRONMENT`](crate::config::TOKEN_ENVIRONMENT).
pub async fn run(arguments: Arguments, token: Option<OsString>, shutdown: CancellationToken) -> Ending {
    let ending = match start(&arguments, token, &shutdown).await {
        Ok(publisher) => publish(&arguments, publisher, shutdown).await,
        Err(ending) => ending,
    };
    if let Some(error) = ending.error() {
        tell(format_args!("tidings: {error:#}"));
    }
    ending
}

async fn start(
    arguments: &Arguments,
    token: Option<OsString>,
    shutdown: &CancellationToken,
) -> Result<Option<Client>, Ending> {
    arguments.check().map_err(Ending::Misused)?;
    if arguments.dry_run {
        return Ok(None);
    }
    let token = identity::token(arguments.token_file.as_deref(), token).map_err(Ending::Failed)?;
    let tls = identity::tls(arguments).map_err(Ending::Failed)?;
    let connection = Connection { address: arguments.address.clone(), tls, token };
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
        // What went wrong before goes first.
        Err(error) if matches!(ending, Ending::Complete) => Ending::Failed(error),
        Err(_) => ending,
    }
}

/// Writes a line to standard error. If nobody reads it any more, nobody is there to be told of it.
fn tell(line: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "{line}"));
}
