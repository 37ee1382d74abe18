//! The gateway of a command: its connection, the account that the command is about, and the output.

use std::{future::Future, time::Duration};

use anyhow::anyhow;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Channel};

use super::{
    errors::{self, FlagNames},
    output::{Output, OutputArguments},
};
use crate::{
    clock::{Clock, SystemClock},
    commands::{
        connection::{Connection, ConnectionArguments, Environment, parse_account},
        ending::Ending,
    },
    domain::{ids::AccountScope, time::UnixMicros},
};

/// Limit on a call. With its default settings the gateway ends a call earlier.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest message from the gateway, in bytes: a page of events.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Which gateway, and which account of it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GatewayArguments {
    /// Account: its number, or - for all accounts.
    ///
    /// [env: TIDINGS_ACCOUNT]
    #[arg(long, short = 'a', value_name = "NUMBER", value_parser = parse_account, global = true, allow_hyphen_values = true, help_heading = "Connection")]
    account: Option<AccountScope>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// The gateway of a command.
pub(super) struct Gateway {
    /// The account that was chosen. Without one, lists are of all accounts, and names must be whole.
    pub(super) account: Option<AccountScope>,
    pub(super) output: Output,
    /// Cancelled by the first signal.
    pub(super) shutdown: CancellationToken,
    connection: Connection,
    channel: Channel,
    clock: SystemClock,
}

impl Gateway {
    /// Connects to the gateway that the sources name.
    ///
    /// # Errors
    ///
    /// The sources contradict each other, a file cannot be read, or the gateway cannot be reached.
    pub(super) async fn connect(
        arguments: &GatewayArguments,
        environment: &Environment,
        output: OutputArguments,
        shutdown: CancellationToken,
    ) -> Result<Self, Ending> {
        let target = arguments.connection.resolve(environment).map_err(Ending::Misused)?;
        let connection = target.open().map_err(Ending::Failed)?;
        let connecting = shutdown.run_until_cancelled(connection.connect()).await;
        let channel = connecting.ok_or(Ending::Interrupted)?.map_err(Ending::Unavailable)?;
        let account = arguments.account.or(target.account);
        let output = Output::new(output, account);
        Ok(Self { account, output, shutdown, connection, channel, clock: SystemClock::default() })
    }

    /// The channel, for a client of a service.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A request with the token, if there is one.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        self.connection.request(message)
    }

    /// The time.
    pub(super) fn now(&self) -> UnixMicros {
        self.clock.now()
    }

    /// Waits for the response of a call.
    ///
    /// # Errors
    ///
    /// The call fails: what is at fault is named by these flags. Or a signal ends the wait.
    pub(super) async fn call<T>(
        &self,
        flags: FlagNames,
        response: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Ending> {
        let response = timeout(CALL_TIMEOUT, response);
        match self.shutdown.run_until_cancelled(response).await {
            None => Err(Ending::Interrupted),
            Some(Err(_)) => {
                let address = &self.connection.address;
                Err(Ending::Unavailable(anyhow!("{address} did not respond within {CALL_TIMEOUT:?}")))
            }
            Some(Ok(Err(status))) => Err(self.ending(&status, flags)),
            Some(Ok(Ok(response))) => Ok(response.into_inner()),
        }
    }

    /// The end of a command whose call failed. Prints what the gateway refused.
    pub(super) fn ending(&self, status: &Status, flags: FlagNames) -> Ending {
        errors::ending(status, &self.connection.address, flags)
    }
}
