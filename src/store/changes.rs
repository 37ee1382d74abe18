//! Publishes changes of deliveries. For engines.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::broadcast;

use super::{CHANGES_GROUPS_MAX, Changes, DeliveryChange};
use crate::domain::time::UnixMicros;

/// Broadcasts changes of deliveries and counts them. One writer at a time.
#[derive(Debug)]
pub(super) struct ChangeFeed {
    sender: broadcast::Sender<Arc<Changes>>,
    sent: AtomicU64,
}

impl Default for ChangeFeed {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(CHANGES_GROUPS_MAX), sent: AtomicU64::new(0) }
    }
}

impl ChangeFeed {
    /// Receives every change from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.sender.subscribe()
    }

    /// Publishes changes written at `time`. Does nothing while nobody listens.
    pub(super) fn publish(&self, time: UnixMicros, changes: impl Iterator<Item = DeliveryChange>) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        let deliveries: Vec<DeliveryChange> = changes.collect();
        if !deliveries.is_empty() {
            let before = self.sent.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
            // The last receiver may be gone by now.
            drop(self.sender.send(Arc::new(Changes { before, time, deliveries })));
        }
    }
}
