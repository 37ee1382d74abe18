//! The gateway as the command sees it: calls that publish some events at once, repeated while it has no room or cannot be reached.

use std::{error::Error, io, sync::Arc, time::Duration};

use anyhow::anyhow;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, error::Elapsed, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use tower::service_fn;

use super::{address::Address, tell};
use crate::proto::v1::{
    BatchPublishEventsRequest, PublishEventRequest, PublishResult, event_service_client::EventServiceClient,
};

/// How long connecting may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take. The gateway gives up before, unless it is told otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a call that is under way may take on once the command is to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// The first wait before a call is repeated. It doubles with every further one.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest wait, unless the gateway asks for a longer one.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Where a gateway is, and how both ends show who they are.
pub(super) struct Connection {
    pub(super) address: Address,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) token: Option<MetadataValue<Ascii>>,
}

/// A gateway that was reached.
pub(super) struct Client {
    events: EventServiceClient<Channel>,
    connection: Connection,
    retry_for: Duration,
    shutdown: CancellationToken,
    /// Whether it ever answered as a gateway does. Until then what fails is taken for a wrong address, and not tried again.
    has_answered: bool,
}

/// Why events are not published.
#[derive(Debug)]
pub(super) enum CallError {
    /// One of them, at least, is at fault. None was published.
    Events(Box<Status>),
    /// The command was told to end. They may be published.
    Interrupted,
    /// The gateway could not be reached, or had no room for as long as it was tried. They may be published.
    Unavailable(anyhow::Error),
    /// The caller may not publish them.
    Denied(anyhow::Error),
    /// The gateway answers what it should not.
    Failed(anyhow::Error),
}

impl Client {
    /// Connects to a gateway.
    ///
    /// # Errors
    ///
    /// Nothing listens there, or TLS fails.
    pub(super) async fn connect(
        connection: Connection,
        retry_for: Duration,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let address = connection.address.clone();
        let endpoint =
            Endpoint::from(address.uri().clone()).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let connecting = async {
            match connection.tls.clone() {
                None => endpoint.connect().await,
                Some(tls) => {
                    let connector = service_fn(move |_| {
                        let (address, tls) = (address.clone(), Arc::clone(&tls));
                        async move { connect_tls(&address, tls).await.map(TokioIo::new) }
                    });
                    endpoint.connect_with_connector(connector).await
                }
            }
        };
        let channel = connecting.await.map_err(|error| {
            anyhow!(
                "cannot reach a gateway at {}: {}",
                connection.address,
                chain(error.to_string(), error.source())
            )
        })?;
        let events = EventServiceClient::new(channel);
        Ok(Self { events, connection, retry_for, shutdown, has_answered: false })
    }

    /// Publishes all of these or none, and returns once they are on disk, with what came of each. Repeats the call as long as that may help:
    /// their ids see to it that none is stored twice.
    pub(super) async fn publish(
        &mut self,
        requests: &[PublishEventRequest],
    ) -> Result<Vec<PublishResult>, CallError> {
        let since = Instant::now();
        let (mut wait, mut told) = (WAIT_MIN, false);
        loop {
            let status = match self.call(requests).await? {
                Ok(results) if results.len() == requests.len() => return Ok(results),
                Ok(results) => {
                    let (events, results) = (requests.len(), results.len());
                    let error = anyhow!("the gateway answered {events} events with {results} results");
                    return Err(CallError::Failed(error));
                }
                Err(status) => status,
            };
            let asked = self.judge(status)?;
            let next = wait.max(asked.wait);
            if since.elapsed() + next > self.retry_for {
                let error = anyhow!("{}; gave up after {:?} (--retry-for)", asked.why, self.retry_for);
                return Err(CallError::Unavailable(error));
            }
            if !told {
                tell(format_args!("tidings: waiting, for up to {:?}: {}", self.retry_for, asked.why));
                told = true;
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
        let mut request = Request::new(message);
        if let Some(token) = &self.connection.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        let shutdown = self.shutdown.clone();
        let ended = async {
            shutdown.cancelled().await;
            sleep(END_TIMEOUT).await;
        };
        let answer = tokio::select! {
            biased;
            answer = timeout(CALL_TIMEOUT, self.events.batch_publish_events(request)) => answer,
            () = ended => return Err(CallError::Interrupted),
        };
        let answer = answer.unwrap_or_else(|elapsed| Err(no_answer(elapsed)));
        // What a connection ends with has a source. What a gateway refuses has none.
        self.has_answered |= answer.as_ref().err().is_none_or(|status| status.source().is_none());
        Ok(answer.map(|answer| answer.into_inner().results))
    }

    /// Whether, and after what, a call that ended so is to be repeated.
    fn judge(&self, status: Status) -> Result<Asked, CallError> {
        let address = &self.connection.address;
        if status.source().is_some() {
            let cause = chain(status.message().to_owned(), status.source());
            let why = format!("cannot reach the gateway at {address}: {cause}");
            return if self.has_answered {
                Ok(Asked { why, wait: Duration::ZERO })
            } else {
                Err(CallError::Unavailable(anyhow!(why)))
            };
        }
        let message = status.message();
        match status.code() {
            Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
                let reason = status.get_details_error_info().map(|info| format!(" ({})", info.reason));
                let why = format!("the gateway says: {message}{}", reason.unwrap_or_default());
                Ok(Asked { why, wait: wait.unwrap_or_default() })
            }
            Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => {
                Err(CallError::Events(Box::new(status)))
            }
            Code::Unauthenticated | Code::PermissionDenied => {
                Err(CallError::Denied(anyhow!("the gateway at {address} refuses the caller: {message}")))
            }
            Code::Unimplemented => {
                Err(CallError::Failed(anyhow!("{address} is no gateway of tidings: {message}")))
            }
            code => Err(CallError::Failed(anyhow!("the gateway failed with {code:?}: {message}"))),
        }
    }
}

/// What a gateway that cannot take events now asks for.
struct Asked {
    why: String,
    wait: Duration,
}

/// As a connection that ended, which it is as good as.
fn no_answer(elapsed: Elapsed) -> Status {
    let mut status = Status::deadline_exceeded(format!("no answer within {CALL_TIMEOUT:?}"));
    status.set_source(Arc::new(elapsed));
    status
}

/// An error with what led to it. Some of them tell that themselves.
fn chain(mut text: String, mut source: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = source {
        let further = error.to_string();
        if !text.ends_with(&further) {
            text = format!("{text}: {further}");
        }
        source = error.source();
    }
    text
}

async fn connect_tls(
    address: &Address,
    tls: Arc<ClientConfig>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connecting = async {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(address.host().to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(tls).connect(name, stream).await
    };
    timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
