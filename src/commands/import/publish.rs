//! Publishes what was read, in its order: one call at a time, each with what has been read meanwhile.

use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    Ending,
    client::{CallError, Client},
    reader::{Event, Item},
    report::{self, Place, Report},
};
use crate::proto::v1::PublishEventRequest;

/// Most bytes of events in one call, encoded; an event of more goes alone. The gateway takes messages of 4 MiB, unless it is told
/// otherwise.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Where the faults of the only event of a call lie.
const ONLY_REQUEST: &str = "requests[0].";

/// Publishes, and keeps count.
pub(super) struct Publisher {
    /// None in a dry run.
    client: Option<Client>,
    report: Report,
    batch_max: usize,
    strict: bool,
}

/// Events that go with the next call.
#[derive(Default)]
struct Batch {
    places: Vec<Place>,
    requests: Vec<PublishEventRequest>,
    bytes: usize,
    /// Given back once they are published.
    rooms: Vec<OwnedSemaphorePermit>,
}

impl Batch {
    fn push(&mut self, event: Event) {
        self.bytes += event.request.encoded_len();
        self.places.push(event.place);
        self.requests.push(event.request);
        self.rooms.push(event.room);
    }
}

impl Publisher {
    pub(super) fn new(client: Option<Client>, report: Report, batch_max: usize, strict: bool) -> Self {
        Self { client, report, batch_max, strict }
    }

    /// What came of it so far.
    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    /// Publishes everything, unless something comes in between.
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
            // What waits goes with the same call. When nothing does, what there is goes: more may be long in coming.
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
                Some(Item::Refused { place, faults }) => {
                    self.publish(&mut batch).await?;
                    self.refuse(&place, &faults)?;
                }
                Some(Item::Failed(error)) => {
                    self.publish(&mut batch).await?;
                    return Err(Ending::Failed(error));
                }
                None if batch.requests.is_empty() => {
                    self.report.came_to_the_end();
                    return Ok(());
                }
                None => self.publish(&mut batch).await?,
            }
        }
    }

    /// Publishes a batch and leaves it empty.
    async fn publish(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        let batch = std::mem::take(batch);
        match self.call(&batch.places, &batch.requests).await? {
            Ok(()) => Ok(()),
            Err(status) if batch.requests.len() == 1 => self.refuse_for(&batch.places[0], &status),
            // One of them was refused, and so all of them were.
            Err(_) => {
                for (place, request) in batch.places.iter().zip(&batch.requests) {
                    let alone = self.call(std::slice::from_ref(place), std::slice::from_ref(request)).await?;
                    if let Err(status) = alone {
                        self.refuse_for(place, &status)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Publishes these, all or none; none if one of them is refused.
    async fn call(
        &mut self,
        places: &[Place],
        requests: &[PublishEventRequest],
    ) -> Result<Result<(), Box<Status>>, Ending> {
        let Some(client) = self.client.as_mut().filter(|_| !requests.is_empty()) else {
            places.iter().for_each(|place| self.report.done(place, false));
            return Ok(Ok(()));
        };
        match client.publish(requests).await {
            Ok(results) => {
                for (place, result) in places.iter().zip(results) {
                    self.report.done(place, result.duplicate);
                }
                Ok(Ok(()))
            }
            Err(CallError::Events(status)) => Ok(Err(status)),
            Err(CallError::Interrupted) => Err(Ending::Interrupted),
            Err(CallError::Unavailable(error)) => Err(Ending::Unavailable(error)),
            Err(CallError::Denied(error)) => {
                Err(Ending::Denied(error.context(format!("publishing from {}", places[0]))))
            }
            Err(CallError::Failed(error)) => Err(Ending::Failed(error)),
        }
    }

    fn refuse_for(&mut self, place: &Place, status: &Status) -> Result<(), Ending> {
        if status.code() == Code::AlreadyExists {
            // Its id is made of its bytes: it was published by a version of this command that read them differently.
            self.report.done(place, true);
            return Ok(());
        }
        self.refuse(place, &faults(status))
    }

    fn refuse(&mut self, place: &Place, faults: &[String]) -> Result<(), Ending> {
        self.report.refuse(place, faults);
        if self.strict { Err(Ending::Refused) } else { Ok(()) }
    }
}

/// What the gateway has to say about the only event of a call.
fn faults(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    if violations.is_empty() {
        let refused = format!("is refused by the gateway: {}", status.message());
        return report::told([refused].into_iter());
    }
    let fault =
        |field: &str, rule: &str| format!("{} {rule}", field.strip_prefix(ONLY_REQUEST).unwrap_or(field));
    report::told(violations.iter().map(|violation| fault(&violation.field, &violation.description)))
}
