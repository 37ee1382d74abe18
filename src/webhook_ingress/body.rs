//! Reads the body of a request: never more than a bound, of all bodies together never more than another, and in time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::metrics::Metrics;

/// How much is read of a body that nobody wants, and for how long: a client that is still sending when its connection is closed
/// may never see the answer.
const LINGER_BYTES_MAX: usize = 256 << 10;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It has more bytes than it may have.
    TooLarge,
    /// It did not arrive in time.
    TooSlow,
    /// The client broke off, or sent what is no HTTP.
    Broken,
    /// Too many bytes of all bodies are there.
    NoRoom,
}

/// The room that all bodies together take up.
pub(super) struct Room {
    free: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// A body that arrived, and the room that it takes up.
pub(super) struct Arrived {
    pub(super) bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
    metrics: Arc<Metrics>,
}

impl Room {
    /// For so many bytes.
    pub(super) fn new(bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))), metrics }
    }
}

impl Arrived {
    fn take(&mut self, data: &[u8], room: &Room) -> Result<(), Unread> {
        let count = u32::try_from(data.len()).map_err(|_| Unread::TooLarge)?;
        let permit = Arc::clone(&room.free).try_acquire_many_owned(count).map_err(|_| Unread::NoRoom)?;
        match &mut self.room {
            Some(room) => room.merge(permit),
            None => self.room = Some(permit),
        }
        self.metrics.ingest.bytes_in_flight.add(count.into());
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let bytes = i64::try_from(self.bytes.len()).unwrap_or(i64::MAX);
        self.metrics.ingest.bytes_in_flight.sub(bytes);
    }
}

/// Reads all of it.
pub(super) async fn read(
    body: &mut Incoming,
    bytes_max: usize,
    room: &Room,
    limit: Duration,
) -> Result<Arrived, Unread> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Unread::TooLarge);
    }
    timeout(limit, read_on(body, bytes_max, room)).await.unwrap_or(Err(Unread::TooSlow))
}

async fn read_on(body: &mut Incoming, bytes_max: usize, room: &Room) -> Result<Arrived, Unread> {
    let mut arrived = Arrived { bytes: Vec::new(), room: None, metrics: Arc::clone(&room.metrics) };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unread::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if arrived.bytes.len() + data.len() > bytes_max {
            return Err(Unread::TooLarge);
        }
        arrived.take(data, room)?;
    }
    Ok(arrived)
}

/// Reads on, and forgets what comes, for a moment.
pub(super) async fn linger(body: &mut Incoming) {
    let reading = async {
        let mut bytes = 0;
        while bytes < LINGER_BYTES_MAX && !body.is_end_stream() {
            let Some(Ok(frame)) = body.frame().await else { return };
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whoever is slower than that does without.
    drop(timeout(LINGER_TIMEOUT, reading).await);
}
