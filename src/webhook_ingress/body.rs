//! Reads the body of a request, within a size, a budget of all bodies together, and a time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::{
    domain::ids::AccountId,
    limits::{Permit, ShareKey, SharedPool},
    metrics::Metrics,
};

/// Bytes of the bodies of a source that has none: one of the usual size fits.
const FIRST_BYTES: usize = 1024 * 1024;

/// Most bytes, and the longest time, that [`drain`] reads: a client that is still sending when its connection
/// is closed may never see the response.
const DRAIN_BYTES_MAX: usize = 256 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The error of reading a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    /// The body is larger than it may be.
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// The client broke off, or sent malformed HTTP.
    Broken,
    /// The budget of all bodies together is used up.
    BudgetExhausted,
}

/// A limit on the bytes of all bodies together, with a share for each account.
pub(super) struct ByteBudget {
    pool: SharedPool,
    metrics: Arc<Metrics>,
}

/// A complete body, and its share of the budget.
pub(super) struct BufferedBody {
    pub(super) bytes: Vec<u8>,
    reserved: Permit,
    metrics: Arc<Metrics>,
}

impl ByteBudget {
    /// A budget of `bytes_max`.
    pub(super) fn new(bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { pool: SharedPool::new(bytes_max, FIRST_BYTES), metrics }
    }

    /// An empty body of a source of this account.
    pub(super) fn body(&self, account: AccountId) -> BufferedBody {
        let reserved = self.pool.empty(ShareKey::Account(account.get()));
        BufferedBody { bytes: Vec::new(), reserved, metrics: Arc::clone(&self.metrics) }
    }
}

impl BufferedBody {
    fn append(&mut self, data: &[u8]) -> Result<(), ReadError> {
        let bytes = self.bytes.len() + data.len();
        self.reserved.try_resize(bytes).map_err(|_| ReadError::BudgetExhausted)?;
        self.metrics.ingest.bytes_in_flight.add(i64::try_from(data.len()).unwrap_or(i64::MAX));
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for BufferedBody {
    fn drop(&mut self) {
        let bytes = i64::try_from(self.bytes.len()).unwrap_or(i64::MAX);
        self.metrics.ingest.bytes_in_flight.sub(bytes);
    }
}

/// Reads the whole body into `buffered`.
pub(super) async fn read(
    body: &mut Incoming,
    bytes_max: usize,
    buffered: BufferedBody,
    limit: Duration,
) -> Result<BufferedBody, ReadError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(ReadError::TooLarge);
    }
    timeout(limit, read_frames(body, bytes_max, buffered)).await.unwrap_or(Err(ReadError::TooSlow))
}

async fn read_frames(
    body: &mut Incoming,
    bytes_max: usize,
    mut buffered: BufferedBody,
) -> Result<BufferedBody, ReadError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ReadError::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if buffered.bytes.len() + data.len() > bytes_max {
            return Err(ReadError::TooLarge);
        }
        buffered.append(data)?;
    }
    Ok(buffered)
}

/// Reads the rest of a body for a moment, and discards it.
pub(super) async fn drain(body: &mut Incoming) {
    let reading = async {
        let mut bytes = 0;
        while bytes < DRAIN_BYTES_MAX && !body.is_end_stream() {
            let Some(Ok(frame)) = body.frame().await else { return };
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // A slower client may miss the response.
    drop(timeout(DRAIN_TIMEOUT, reading).await);
}
