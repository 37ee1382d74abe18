//! Looks names up, each once at a time.
//!
//! The system's resolver blocks a thread for as long as it takes, which a name's owner decides. Attempts that want the
//! same name at the same time share one look-up, so that an endpoint whose name server hangs holds one thread, however
//! many attempts wait for it; and all look-ups together have a bound.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{Semaphore, watch};

/// Most look-ups under way at once, well below the threads that the runtime has for blocking work.
const LOOKUPS_MAX: usize = 128;
/// Most addresses of a name that are taken; the others are not looked at.
const ADDRESSES_MAX: usize = 16;

/// Looks names up. Clones share their look-ups.
#[derive(Clone, Debug)]
pub(crate) struct Resolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    under_way: Mutex<HashMap<Arc<str>, watch::Receiver<Option<Found>>>>,
    permits: Semaphore,
}

/// The addresses of a name in the order in which to try them; or why there are none, for people.
pub(crate) type Found = Result<Arc<[IpAddr]>, Arc<str>>;

impl Resolver {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { under_way: Mutex::default(), permits: Semaphore::new(LOOKUPS_MAX) }))
    }

    /// The addresses of `host`, a name or an address in a URL's spelling. Takes as long as the system's resolver does.
    pub(crate) async fn resolve(&self, host: &str) -> Found {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Ok([address].into());
        }
        let mut found = self.join_or_start(host);
        match found.wait_for(Option::is_some).await {
            Ok(found) => found.clone().expect("that is what was waited for"),
            Err(_) => Err("the look-up was given up".into()),
        }
    }

    fn join_or_start(&self, host: &str) -> watch::Receiver<Option<Found>> {
        let mut under_way = self.0.under_way();
        // One whose task is gone without an answer is not waited for again.
        if let Some(found) = under_way.get(host).filter(|found| found.has_changed().is_ok()) {
            return found.clone();
        }
        let (sender, receiver) = watch::channel(None);
        let host: Arc<str> = host.into();
        under_way.insert(Arc::clone(&host), receiver.clone());
        // In a task of its own: whoever started it may give up before those who joined.
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
        // Taken out first: who comes now starts a look-up of its own, and never gets an old answer.
        self.under_way().remove(&host);
        sender.send_replace(Some(found));
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Arc<str>, watch::Receiver<Option<Found>>>> {
        self.under_way.lock().expect("no code panics while it holds this lock")
    }
}

async fn ask_the_system(host: &str) -> Found {
    // The port plays no part in the look-up.
    let addresses = tokio::net::lookup_host((host, 0)).await;
    let addresses: Vec<IpAddr> =
        addresses.map_err(reason)?.map(|socket| socket.ip()).take(ADDRESSES_MAX).collect();
    if addresses.is_empty() { Err("the name has no addresses".into()) } else { Ok(addresses.into()) }
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn reason(error: io::Error) -> Arc<str> {
    error.to_string().to_lowercase().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_answer() {
        let resolver = Resolver::new();
        assert_eq!(*resolver.resolve("10.1.2.3").await.unwrap(), [IpAddr::from([10, 1, 2, 3])]);
        assert_eq!(*resolver.resolve("[fe80::1]").await.unwrap(), ["fe80::1".parse::<IpAddr>().unwrap()]);
        assert!(resolver.0.under_way().is_empty());
    }

    #[tokio::test]
    async fn attempts_at_the_same_time_share_a_look_up() {
        let resolver = Resolver::new();
        let (first, second) = (resolver.join_or_start("localhost"), resolver.join_or_start("localhost"));
        assert!(first.same_channel(&second));
        assert_eq!(resolver.0.under_way().len(), 1);
        let found = resolver.resolve("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        assert!(resolver.0.under_way().is_empty());
    }

    #[tokio::test]
    async fn a_name_that_nobody_has_does_not_resolve() {
        let error = Resolver::new().resolve("nobody.invalid").await.unwrap_err();
        assert!(!error.is_empty() && *error == error.to_lowercase(), "{error}");
    }
}
