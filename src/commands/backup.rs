//! `tidings backup`: copies the data of a running gateway into a directory.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::anyhow;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::{
    connection::{Connection, ConnectionArguments, Environment, chain},
    exit_code, print, print_error, run_until_signal,
};
use crate::{
    domain::{seal::KeyId, time::UnixMicros},
    proto::v1::{
        CreateBackupRequest, CreateBackupResponse,
        backup_service_client::BackupServiceClient,
        create_backup_response::{Part, Start},
    },
    store::{
        BackupPart, FileSum,
        disk::{BackupReceiver, ReceiveError, Received},
    },
};

/// The end of the help text.
const AFTER_HELP: &str = "\
The copy is of one moment after the command began. Everything that was acknowledged before is in it; publishing and delivering go on. It is \
a data directory: check it with `tidings check DIR`, and start a gateway on a copy of it to restore it.

The key of the secrets is not in it, and without the key it cannot be opened. Keep a copy of the key apart from the backups: the file \
secrets.key in the gateway's data directory, or the one that is configured.

The access token comes from --token-file or from the environment variable TIDINGS_TOKEN. It needs the scope admin for all accounts.

Exit codes:
  0    The copy is complete.
  1    Something failed, for example writing a file. DIR is empty again, unless the command says otherwise.
  64   The arguments are wrong, or DIR is not empty.
  75   The gateway could not be reached, or makes a backup already. Repeat the command.
  77   The token is not allowed to make backups.
  130  A signal ended the command.";

/// Longest wait for the next part.
const PART_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest message, in bytes: a part is much shorter.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Copy the data of a running gateway into a directory.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    /// Directory of the copy. Made if it does not exist; it must be empty.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The gateway.
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// Why there is no copy.
enum Failure {
    /// A signal ended the command.
    Interrupted,
    /// The gateway could not be reached, or makes a backup already.
    Unavailable(anyhow::Error),
    /// The caller is not allowed to make backups.
    Denied(anyhow::Error),
    /// The arguments contradict each other, or the directory is not empty.
    Misused(anyhow::Error),
    /// Something else failed.
    Failed(anyhow::Error),
}

impl Failure {
    /// The exit code, from `sysexits.h` where it has one.
    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Misused(_) => 64,
            Self::Unavailable(_) => 75,
            Self::Denied(_) => 77,
            Self::Interrupted => 130,
        }
    }
}

impl From<ReceiveError> for Failure {
    fn from(error: ReceiveError) -> Self {
        match error {
            error @ ReceiveError::NotEmpty(_) => Self::Misused(error.into()),
            error => Self::Failed(error.into()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::Unavailable(error) | Self::Denied(error) | Self::Misused(error) | Self::Failed(error) => {
                write!(f, "{error:#}")
            }
        }
    }
}

/// The arguments of the command.
pub fn command(name: &'static str) -> Command {
    Arguments::augment_args(Command::new(name))
}

/// Makes a backup, and returns the exit code of its end.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let backup = || {
        let arguments = Arguments::from_arg_matches(matches)?;
        match run_until_signal(1, async |shutdown| Ok(run(&arguments, shutdown).await))? {
            Ok(made) => print(&describe(&arguments, &made)).map(|()| ExitCode::SUCCESS),
            Err(failure) => {
                print_error(format_args!("tidings: {failure}"));
                Ok(ExitCode::from(failure.code()))
            }
        }
    };
    backup().unwrap_or_else(|error| exit_code(Err(error)))
}

/// A backup that was made.
struct Made {
    time: Option<UnixMicros>,
    received: Received,
}

fn describe(arguments: &Arguments, made: &Made) -> String {
    let Received { files, bytes, key } = &made.received;
    let dir = arguments.to.display();
    let time =
        made.time.map_or_else(String::new, |time| format!(" as of {}", prost_types::Timestamp::from(time)));
    let key = key.as_ref().map_or_else(|| "their key".to_owned(), KeyId::to_string);
    format!(
        "Copied {files} files, {} MiB, to {dir}{time}.\n\
         Secrets in it are sealed with the key {key}, which is not in it. Keep a copy of that key apart from this one: \
         secrets.key in the gateway's data directory, or the one that is configured.\n\
         To restore, stop the gateway, and start it on a copy of {dir} with that key.\n",
        bytes.div_ceil(1 << 20),
    )
}

async fn run(arguments: &Arguments, shutdown: CancellationToken) -> Result<Made, Failure> {
    let target = arguments.connection.resolve(&Environment::of_process()).map_err(Failure::Misused)?;
    BackupReceiver::check_empty(&arguments.to)?;
    let connection = target.open().map_err(Failure::Failed)?;
    let beginning = begin(&connection);
    let (start, parts) = shutdown.run_until_cancelled(beginning).await.ok_or(Failure::Interrupted)??;
    let format = u32::try_from(start.format).unwrap_or_default();
    let mut receiver = BackupReceiver::begin(&arguments.to, format)?;
    match receive(&connection, &mut receiver, &start, parts, &shutdown).await {
        Ok(received) => {
            let time = start
                .create_time
                .map(|time| UnixMicros(time.seconds * 1_000_000 + i64::from(time.nanos) / 1000));
            Ok(Made { time, received })
        }
        Err(failure) => {
            if let Err(error) = receiver.discard() {
                let dir = arguments.to.display();
                print_error(format_args!("tidings: {dir} is not a whole backup; remove it ({error})"));
            }
            Err(failure)
        }
    }
}

async fn begin(connection: &Connection) -> Result<(Start, Streaming<CreateBackupResponse>), Failure> {
    let channel = connection.connect().await.map_err(Failure::Unavailable)?;
    let mut client = BackupServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = connection.request(CreateBackupRequest {});
    let begun = in_time(connection, client.create_backup(request)).await?;
    let mut parts = begun.into_inner();
    match in_time(connection, parts.message()).await? {
        Some(CreateBackupResponse { part: Some(Part::Start(start)) }) => Ok((start, parts)),
        _ => Err(Failure::Failed(anyhow!("the gateway did not begin a backup"))),
    }
}

async fn receive(
    connection: &Connection,
    receiver: &mut BackupReceiver,
    start: &Start,
    mut parts: Streaming<CreateBackupResponse>,
    shutdown: &CancellationToken,
) -> Result<Received, Failure> {
    let mut progress = Progress::of(start.size_bytes);
    loop {
        let next = shutdown.run_until_cancelled(in_time(connection, parts.message())).await;
        let part = match next.ok_or(Failure::Interrupted)??.and_then(|response| response.part) {
            Some(Part::File(file)) => BackupPart::File(file.path),
            Some(Part::Data(data)) => BackupPart::Data(data),
            Some(Part::FileEnd(end)) => {
                let bytes = u64::try_from(end.size_bytes).unwrap_or_default();
                BackupPart::FileEnd(FileSum { bytes, checksum: end.checksum })
            }
            Some(Part::End(end)) => {
                progress.end();
                return Ok(receiver.finish(u64::try_from(end.file_count).unwrap_or_default())?);
            }
            Some(Part::Start(_)) | None => {
                return Err(Failure::Failed(anyhow!("the gateway ended the backup half-way")));
            }
        };
        progress.show(receiver.write(part)?);
    }
}

/// The response to a call, or the next message of one.
async fn in_time<T>(
    connection: &Connection,
    response: impl Future<Output = Result<T, Status>>,
) -> Result<T, Failure> {
    let address = &connection.address;
    match timeout(PART_TIMEOUT, response).await {
        Ok(response) => response.map_err(|status| failure(connection, &status)),
        Err(_) => Err(Failure::Unavailable(anyhow!("{address} sent nothing for {PART_TIMEOUT:?}"))),
    }
}

/// The reason of a refusal while another backup runs.
const BACKUP_RUNNING: &str = "BACKUP_RUNNING";

/// The failure with this status. One with a source comes from the transport, one without from the gateway.
fn failure(connection: &Connection, status: &Status) -> Failure {
    let (address, message) = (&connection.address, status.message());
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    if let Some(source) = std::error::Error::source(status) {
        let cause = chain(message.to_owned(), Some(source));
        return Failure::Unavailable(anyhow!("lost the gateway at {address}: {cause}"));
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
            Failure::Unavailable(anyhow!("the gateway responded: {message}"))
        }
        Code::FailedPrecondition if reason == BACKUP_RUNNING => {
            Failure::Unavailable(anyhow!("the gateway responded {reason}: {message}"))
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            Failure::Denied(anyhow!("the gateway at {address} rejected the caller: {message}"))
        }
        Code::Unimplemented => {
            Failure::Failed(anyhow!("{address} is no Tidings gateway, or one without backups: {message}"))
        }
        code => Failure::Failed(anyhow!("the gateway failed with {code:?}: {message}")),
    }
}

/// A line on a terminal that says how far the copy is. Nothing without one.
struct Progress {
    total: u64,
    shown: Option<u64>,
}

impl Progress {
    fn of(total: i64) -> Self {
        Self {
            total: u64::try_from(total).unwrap_or_default() >> 20,
            shown: io::stderr().is_terminal().then_some(0),
        }
    }

    fn show(&mut self, bytes: u64) {
        let mib = bytes >> 20;
        if self.shown.is_some_and(|shown| shown < mib) {
            self.shown = Some(mib);
            drop(write!(io::stderr(), "\r{mib} of {} MiB", self.total));
        }
    }

    fn end(&self) {
        if self.shown.is_some_and(|shown| shown > 0) {
            drop(writeln!(io::stderr()));
        }
    }
}
