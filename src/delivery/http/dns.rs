//! Resolves host names, each once at a time.
//!
//! The system's resolver blocks a thread, and the owner of a name decides for how long. Concurrent attempts
//! to the same name share one lookup, so an endpoint whose name server hangs blocks one thread, no matter how
//! many attempts wait for it. All lookups together are bounded.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{Semaphore, watch};

use crate::descriptors;

/// Most concurrent lookups, well below tokio's limit of blocking threads.
const LOOKUPS_MAX: usize = 128;
/// Least concurrent lookups: a name whose server hangs must not keep out all others.
const LOOKUPS_MIN: usize = 4;
/// Concurrent lookups are this part of the attempts in flight at most: most attempts have a connection.
const LOOKUPS_SHARE: usize = 8;
/// Files and sockets that the system's resolver has open at once during a lookup.
pub const DESCRIPTORS_PER_LOOKUP: usize = 2;
/// Most addresses used of a name.
const ADDRESSES_MAX: usize = 16;

/// Resolves names. Clones share their lookups.
#[derive(Clone, Debug)]
pub(crate) struct Resolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    under_way: Mutex<HashMap<Arc<str>, watch::Receiver<Option<Found>>>>,
    permits: Semaphore,
}

/// The addresses of a name in the order to try them; or why there are none.
pub(crate) type Found = Result<Arc<[IpAddr]>, LookupError>;

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// A readable reason.
    #[error("{0}")]
    Failed(Arc<str>),
    /// The gateway had no file descriptor free to ask.
    #[error("no file descriptor is free")]
    NoDescriptor,
}

/// Most concurrent lookups of a gateway with so many attempts in flight.
pub fn lookups_max(attempts_in_flight_max: usize) -> usize {
    (attempts_in_flight_max / LOOKUPS_SHARE).clamp(LOOKUPS_MIN, LOOKUPS_MAX)
}

impl Resolver {
    pub(crate) fn new(lookups_max: usize) -> Self {
        Self(Arc::new(Shared { under_way: Mutex::default(), permits: Semaphore::new(lookups_max) }))
    }

    /// The addresses of `host`, a name or an address in a URL's spelling. Takes as long as the system's
    /// resolver does.
    pub(crate) async fn resolve(&self, host: &str) -> Found {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Ok([address].into());
        }
        let mut found = self.join_or_start(host);
        match found.wait_for(Option::is_some).await {
            Ok(found) => found.clone().expect("wait_for returns when there is a result"),
            Err(_) => Err(LookupError::Failed("the lookup was aborted".into())),
        }
    }

    fn join_or_start(&self, host: &str) -> watch::Receiver<Option<Found>> {
        let mut under_way = self.0.under_way();
        // A lookup whose task is gone without a result is not joined.
        if let Some(found) = under_way.get(host).filter(|found| found.has_changed().is_ok()) {
            return found.clone();
        }
        let (sender, receiver) = watch::channel(None);
        let host: Arc<str> = host.into();
        under_way.insert(Arc::clone(&host), receiver.clone());
        // In a task of its own: the attempt that started it may time out before those that joined.
        tokio::spawn(Arc::clone(&self.0).look_up(host, sender));
        receiver
    }
}

impl Shared {
    async fn look_up(self: Arc<Self>, host: Arc<str>, sender: watch::Sender<Option<Found>>) {
        let found = {
            let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
            ask_the_system(&host).await
        };
        // Removed first: a later attempt starts its own lookup and never gets an old result.
        self.under_way().remove(&host);
        sender.send_replace(Some(found));
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Arc<str>, watch::Receiver<Option<Found>>>> {
        self.under_way.lock().expect("no code panics while it holds this lock")
    }
}

async fn ask_the_system(host: &str) -> Found {
    // The port is not used.
    let addresses = tokio::net::lookup_host((host, 0)).await;
    let addresses: Vec<IpAddr> =
        addresses.map_err(reason)?.map(|socket| socket.ip()).take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        Err(LookupError::Failed("the name has no addresses".into()))
    } else {
        Ok(addresses.into())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn reason(error: io::Error) -> LookupError {
    // Without a descriptor the resolver reports whatever it makes of that.
    if descriptors::is_exhausted(&error) || descriptors::none_is_free() {
        return LookupError::NoDescriptor;
    }
    LookupError::Failed(error.to_string().to_lowercase().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_lookup() {
        let resolver = Resolver::new(LOOKUPS_MAX);
        assert_eq!(*resolver.resolve("10.1.2.3").await.unwrap(), [IpAddr::from([10, 1, 2, 3])]);
        assert_eq!(*resolver.resolve("[fe80::1]").await.unwrap(), ["fe80::1".parse::<IpAddr>().unwrap()]);
        assert!(resolver.0.under_way().is_empty());
    }

    #[tokio::test]
    async fn concurrent_attempts_share_a_lookup() {
        let resolver = Resolver::new(LOOKUPS_MAX);
        let (first, second) = (resolver.join_or_start("localhost"), resolver.join_or_start("localhost"));
        assert!(first.same_channel(&second));
        assert_eq!(resolver.0.under_way().len(), 1);
        let found = resolver.resolve("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        assert!(resolver.0.under_way().is_empty());
    }

    #[tokio::test]
    async fn an_unknown_name_does_not_resolve() {
        let error = Resolver::new(LOOKUPS_MAX).resolve("nobody.invalid").await.unwrap_err();
        let text = error.to_string();
        assert!(!text.is_empty() && text == text.to_lowercase(), "{text}");
    }
}
