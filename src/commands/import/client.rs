//! The client of the gateway: publishes batches, and retries while the gateway has no room or cannot be
//! reached.

use std::{error::Error, sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::time::{Instant, error::Elapsed, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    commands::{
        connection::{Connection, chain},
        print_error,
    },
    proto::v1::{
        BatchPublishEventsRequest, PublishEventRequest, PublishResult,
        event_service_client::EventServiceClient,
    },
};

/// Limit on a call. With its default settings the gateway ends a call earlier.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit on a call under way after a signal.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait before the first retry. It doubles with every further one.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait, unless the gateway asks for a longer one.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A connection to a gateway.
pub(super) struct Client {
    events: EventServiceClient<Channel>,
    connection: Connection,
    retry_for: Duration,
    shutdown: CancellationToken,
    /// The gateway has responded at least once. Until then a failure means a wrong address, and is not
    /// retried.
    has_responded: bool,
}

/// Why a batch was not published.
#[derive(Debug)]
pub(super) enum CallError {
    /// At least one event is invalid. None was published.
    Events(Box<Status>),
    /// A signal ended the command. The events may be published.
    Interrupted,
    /// The gateway could not be reached, or had no room until the retries ended. The events may be published.
    Unavailable(anyhow::Error),
    /// The caller is not allowed to publish them.
    Denied(anyhow::Error),
    /// The gateway sent an unexpected response.
    Failed(anyhow::Error),
}

impl Client {
    /// Connects to a gateway.
    ///
    /// # Errors
    ///
    /// The gateway cannot be reached, or TLS fails.
    pub(super) async fn connect(
        connection: Connection,
        retry_for: Duration,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let events = EventServiceClient::new(connection.connect().await?);
        Ok(Self { events, connection, retry_for, shutdown, has_responded: false })
    }

    /// Publishes all events or none, and returns their results once they are on disk. Retries while that may
    /// help: the events' ids prevent duplicates.
    pub(super) async fn publish(
        &mut self,
        requests: &[PublishEventRequest],
    ) -> Result<Vec<PublishResult>, CallError> {
        let since = Instant::now();
        let (mut wait, mut reported) = (WAIT_MIN, false);
        loop {
            let status = match self.call(requests).await? {
                Ok(results) if results.len() == requests.len() => return Ok(results),
                Ok(results) => {
                    let (events, results) = (requests.len(), results.len());
                    let error = anyhow!("the gateway returned {results} results for {events} events");
                    return Err(CallError::Failed(error));
                }
                Err(status) => status,
            };
            let retry = self.classify(status)?;
            let next = wait.max(retry.wait);
            if since.elapsed() + next > self.retry_for {
                let error = anyhow!("{}; gave up after {:?} (--retry-for)", retry.reason, self.retry_for);
                return Err(CallError::Unavailable(error));
            }
            if !reported {
                print_error(format_args!(
                    "tidings: waiting, for up to {:?}: {}",
                    self.retry_for, retry.reason
                ));
                reported = true;
            }
            if self.shutdown.run_until_cancelled(sleep(next)).await.is_none() {
                return Err(CallError::Interrupted);
            }
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Calls once.
    async fn call(
        &mut self,
        requests: &[PublishEventRequest],
    ) -> Result<Result<Vec<PublishResult>, Status>, CallError> {
        let message = BatchPublishEventsRequest { requests: requests.to_vec(), ..Default::default() };
        let request = self.connection.request(message);
        let shutdown = self.shutdown.clone();
        let ended = async {
            shutdown.cancelled().await;
            sleep(END_TIMEOUT).await;
        };
        let response = tokio::select! {
            biased;
            response = timeout(CALL_TIMEOUT, self.events.batch_publish_events(request)) => response,
            () = ended => return Err(CallError::Interrupted),
        };
        let response = response.unwrap_or_else(|elapsed| Err(timed_out(elapsed)));
        // A status with a source comes from the transport, one without from the gateway.
        self.has_responded |= response.as_ref().err().is_none_or(|status| status.source().is_none());
        Ok(response.map(|response| response.into_inner().results))
    }

    /// Decides whether a call with this status is retried, and after what wait.
    fn classify(&self, status: Status) -> Result<Retry, CallError> {
        let address = &self.connection.address;
        if status.source().is_some() {
            let cause = chain(status.message().to_owned(), status.source());
            let reason = format!("cannot reach the gateway at {address}: {cause}");
            return if self.has_responded {
                Ok(Retry { reason, wait: Duration::ZERO })
            } else {
                Err(CallError::Unavailable(anyhow!(reason)))
            };
        }
        let message = status.message();
        match status.code() {
            Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
                let code = status.get_details_error_info().map(|info| format!(" ({})", info.reason));
                let reason = format!("the gateway responded: {message}{}", code.unwrap_or_default());
                Ok(Retry { reason, wait: wait.unwrap_or_default() })
            }
            Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => {
                Err(CallError::Events(Box::new(status)))
            }
            Code::Unauthenticated | Code::PermissionDenied => {
                Err(CallError::Denied(anyhow!("the gateway at {address} rejected the caller: {message}")))
            }
            Code::Unimplemented => {
                Err(CallError::Failed(anyhow!("{address} is not a Tidings gateway: {message}")))
            }
            code => Err(CallError::Failed(anyhow!("the gateway failed with {code:?}: {message}"))),
        }
    }
}

/// A call that failed and is to be retried.
struct Retry {
    reason: String,
    wait: Duration,
}

/// The status of a call that timed out. It has a source, like a broken connection.
fn timed_out(elapsed: Elapsed) -> Status {
    let mut status = Status::deadline_exceeded(format!("no response within {CALL_TIMEOUT:?}"));
    status.set_source(Arc::new(elapsed));
    status
}
