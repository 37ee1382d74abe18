//! Publishes events in their order: one call at a time, each with the events that were read in the meantime.

use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    client::{CallError, Client},
    reader::{Event, Item},
    report::{self, Position, Report},
};
use crate::{commands::ending::Ending, proto::v1::PublishEventRequest};

/// Most bytes of encoded events in one call. A larger event gets a call of its own. The gateway's default
/// limit on messages is 4 MiB.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Field path of the only event of a call.
const ONLY_REQUEST: &str = "requests[0].";

/// Publishes events and counts the results.
pub(super) struct Publisher {
    /// `None` in a dry run.
    client: Option<Client>,
    report: Report,
    batch_max: usize,
    strict: bool,
}

/// Events of the next call.
#[derive(Default)]
struct Batch {
    positions: Vec<Position>,
    requests: Vec<PublishEventRequest>,
    bytes: usize,
    /// Memory of the events, released once they are published.
    permits: Vec<OwnedSemaphorePermit>,
}

impl Batch {
    fn push(&mut self, event: Event) {
        self.bytes += event.request.encoded_len();
        self.positions.push(event.position);
        self.requests.push(event.request);
        self.permits.push(event.permit);
    }
}

impl Publisher {
    pub(super) fn new(client: Option<Client>, report: Report, batch_max: usize, strict: bool) -> Self {
        Self { client, report, batch_max, strict }
    }

    /// The results so far.
    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    /// Publishes all items, until an error or `shutdown`.
    pub(super) async fn run(&mut self, items: mpsc::Receiver<Item>, shutdown: CancellationToken) -> Ending {
        match self.publish_all(items, &shutdown).await {
            Ok(()) => self.report.ending(),
            Err(ending) => ending,
        }
    }

    async fn publish_all(
        &mut self,
        mut items: mpsc::Receiver<Item>,
        shutdown: &CancellationToken,
    ) -> Result<(), Ending> {
        let mut batch = Batch::default();
        loop {
            // Fill the batch with the items that are ready. If none is, publish now: the next item may take
            // long.
            let next = match batch.requests.is_empty() {
                true => shutdown.run_until_cancelled(items.recv()).await.ok_or(Ending::Interrupted)?,
                false => items.try_recv().ok(),
            };
            match next {
                Some(Item::Event(event)) => {
                    if batch.bytes + event.request.encoded_len() > BATCH_BYTES_MAX {
                        self.publish(&mut batch).await?;
                    }
                    batch.push(event);
                    if batch.requests.len() >= self.batch_max {
                        self.publish(&mut batch).await?;
                    }
                }
                Some(Item::Refused { position, faults }) => {
                    self.publish(&mut batch).await?;
                    self.refuse(&position, &faults)?;
                }
                Some(Item::Failed(error)) => {
                    self.publish(&mut batch).await?;
                    return Err(Ending::Failed(error));
                }
                None if batch.requests.is_empty() => {
                    self.report.reached_end();
                    return Ok(());
                }
                None => self.publish(&mut batch).await?,
            }
        }
    }

    /// Publishes a batch and leaves it empty.
    async fn publish(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        let batch = std::mem::take(batch);
        match self.call(&batch.positions, &batch.requests).await? {
            Ok(()) => Ok(()),
            Err(status) if batch.requests.len() == 1 => self.refuse_for(&batch.positions[0], &status),
            // One invalid event fails the whole call: publish them one by one.
            Err(_) => {
                for (position, request) in batch.positions.iter().zip(&batch.requests) {
                    let single =
                        self.call(std::slice::from_ref(position), std::slice::from_ref(request)).await?;
                    if let Err(status) = single {
                        self.refuse_for(position, &status)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Publishes these events, all or none. Returns the status if one of them is invalid.
    async fn call(
        &mut self,
        positions: &[Position],
        requests: &[PublishEventRequest],
    ) -> Result<Result<(), Box<Status>>, Ending> {
        let Some(client) = self.client.as_mut().filter(|_| !requests.is_empty()) else {
            positions.iter().for_each(|position| self.report.done(position, false));
            return Ok(Ok(()));
        };
        match client.publish(requests).await {
            Ok(results) => {
                for (position, result) in positions.iter().zip(results) {
                    self.report.done(position, result.duplicate);
                }
                Ok(Ok(()))
            }
            Err(CallError::Events(status)) => Ok(Err(status)),
            Err(CallError::Interrupted) => Err(Ending::Interrupted),
            Err(CallError::Unavailable(error)) => Err(Ending::Unavailable(error)),
            Err(CallError::Denied(error)) => {
                Err(Ending::Denied(error.context(format!("publishing from {}", positions[0]))))
            }
            Err(CallError::Failed(error)) => Err(Ending::Failed(error)),
        }
    }

    fn refuse_for(&mut self, position: &Position, status: &Status) -> Result<(), Ending> {
        if status.code() == Code::AlreadyExists {
            // The id is derived from the bytes: an earlier version of this command converted them
            // differently.
            self.report.done(position, true);
            return Ok(());
        }
        self.refuse(position, &faults(status))
    }

    fn refuse(&mut self, position: &Position, faults: &[String]) -> Result<(), Ending> {
        self.report.refuse(position, faults);
        if self.strict { Err(Ending::Refused) } else { Ok(()) }
    }
}

/// The gateway's violations for the only event of a call.
fn faults(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    if violations.is_empty() {
        let refused = format!("refused by the gateway: {}", status.message());
        return report::describe([refused].into_iter());
    }
    let fault =
        |field: &str, rule: &str| format!("{} {rule}", field.strip_prefix(ONLY_REQUEST).unwrap_or(field));
    report::describe(violations.iter().map(|violation| fault(&violation.field, &violation.description)))
}
