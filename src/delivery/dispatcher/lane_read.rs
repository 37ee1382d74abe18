//! A read of the store for one lane, as a task.

use std::{panic::AssertUnwindSafe, sync::Arc};

use super::settings::STORE_RETRY_WAIT;
use crate::{
    delivery::lane::{Read, ReadPage},
    domain::{ids::SubscriptionKey, payload_format::PayloadFormat, time::UnixMicros},
    store::{self, PendingDelivery, Store, StoreError},
};

/// A read of the store for a lane. When the task has ended without a page, the read failed.
pub(super) struct LaneRead {
    pub(super) subscription: SubscriptionKey,
    /// The slot that the read was made for: see [`super::Slot::number`].
    pub(super) slot: u64,
    pub(super) read: Read,
    /// The payload form of the subscription.
    pub(super) format: PayloadFormat,
    /// Bytes of memory reserved for the result.
    pub(super) reserved: usize,
    pub(super) page: Option<ReadPage>,
}

impl LaneRead {
    /// Reads and renders the page.
    pub(super) async fn run(mut self, store: Arc<dyn Store>, now: UnixMicros) -> Self {
        let (read, subscription, format) = (self.read.clone(), self.subscription, self.format);
        let read_and_render = move |store: &dyn Store| {
            let page = read.run(store, subscription, now)?;
            page.owed().for_each(|owed| render(owed, format));
            Ok::<_, StoreError>(page)
        };
        self.page = match store::read_blocking(&store, read_and_render).await {
            Ok(Ok(page)) => Some(page),
            Ok(Err(error)) => {
                let found = store.registry().by_key(subscription);
                tracing::error!(
                    subscription.name = found.as_ref().map(|found| tracing::field::display(&found.name)),
                    %error, "cannot read pending deliveries; retrying",
                );
                tokio::time::sleep(STORE_RETRY_WAIT).await;
                None
            }
            // The runtime is ending.
            Err(_) => None,
        };
        self
    }
}

/// Renders the body on the thread that reads, so that the attempt need not. A panic here is left to the
/// attempt, which panics as well: it costs one delivery and not the whole read.
fn render(owed: &PendingDelivery, format: PayloadFormat) {
    if owed.event.damage.is_some() {
        return;
    }
    drop(std::panic::catch_unwind(AssertUnwindSafe(|| owed.event.body(format))));
}
