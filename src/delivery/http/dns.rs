//! Resolves host names, each once at a time.
//!
//! The system's resolver blocks a thread, and the owner of a name decides for how long. Concurrent attempts
//! to the same name share one lookup, so an endpoint whose name server hangs blocks one thread, no matter how
//! many attempts wait for it. All lookups together are bounded, and each account has a share of them. A name
//! whose servers are silent is not looked up again for a while: its attempts fail at once.

use std::{
    collections::HashMap,
    fmt, io,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    descriptors,
    domain::ids::AccountId,
    limits::{Permit, ShareKey, SharedPool},
};

/// Most concurrent lookups, well below tokio's limit of blocking threads.
const LOOKUPS_MAX: usize = 128;
/// Least concurrent lookups: a name whose server hangs must not keep out all others.
const LOOKUPS_MIN: usize = 4;
/// Concurrent lookups are this part of the attempts in flight at most: most attempts have a connection.
const LOOKUPS_SHARE: usize = 8;
/// The part of the lookups that one account may have: a lookup outlives the attempts that wait for it.
const ACCOUNT_PART: usize = 4;
/// The last part of the lookups, for accounts that have none.
const FIRST_PART: usize = 8;
/// How long a name is not looked up again after a lookup without a response in time.
const SILENCE: Duration = Duration::from_secs(5);
/// Files and sockets that the system's resolver has open at once during a lookup.
pub const DESCRIPTORS_PER_LOOKUP: usize = 2;
/// Most addresses used of a name.
const ADDRESSES_MAX: usize = 16;

/// Resolves names. Clones share their lookups.
#[derive(Clone, Debug)]
pub(crate) struct Resolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lookups: Mutex<Lookups>,
    places: SharedPool,
    /// The servers of a name are silent if its lookup takes longer.
    silent_after: Duration,
}

#[derive(Debug, Default)]
struct Lookups {
    running: HashMap<Arc<str>, Running>,
    /// Those that wait for a place of their account.
    waiting: HashMap<(AccountId, Arc<str>), watch::Sender<Option<Found>>>,
    /// Names that are not looked up again before these times.
    silent: HashMap<Arc<str>, Instant>,
}

#[derive(Clone, Debug)]
struct Running {
    begun: Instant,
    found: watch::Receiver<Option<Found>>,
}

/// The addresses of a name in the order to try them; or why there are none.
pub(crate) type Found = Result<Arc<[IpAddr]>, LookupError>;

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// A readable reason.
    #[error("{0}")]
    Failed(Arc<str>),
    /// There was no response in time.
    #[error("no response in time{0}")]
    Late(LookupDelay),
    /// The gateway had no file descriptor free to ask.
    #[error("no file descriptor is free")]
    NoDescriptor,
}

/// Why a name did not resolve in time. Displayed as the end of a sentence that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupDelay {
    /// Its lookup takes longer.
    Slow,
    /// So it was a moment ago.
    Silent,
    /// Lookups of other names of the account take longer.
    NoPlace,
}

impl fmt::Display for LookupDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow => Ok(()),
            Self::Silent => write!(f, " a moment ago, and is not looked up again for {SILENCE:?}"),
            Self::NoPlace => f.write_str(": it waited for slow look-ups of other names of the account"),
        }
    }
}

/// The address that a host in a URL's spelling is; `None` for a name.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Most concurrent lookups of a gateway with so many attempts in flight.
pub fn lookups_max(attempts_in_flight_max: usize) -> usize {
    (attempts_in_flight_max / LOOKUPS_SHARE).clamp(LOOKUPS_MIN, LOOKUPS_MAX)
}

impl Resolver {
    /// A resolver with so many lookups at most, for attempts that wait for one so long at most.
    pub(crate) fn new(lookups_max: usize, timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            lookups: Mutex::default(),
            places: SharedPool::of_places_in_parts(lookups_max, ACCOUNT_PART, FIRST_PART),
            // A little less: an attempt that has waited for so long ends, and the next one is to know.
            silent_after: timeout * 9 / 10,
        }))
    }

    /// The addresses of `host`, a name or an address in a URL's spelling, for an attempt of `account` that waits
    /// until `deadline`.
    pub(crate) async fn resolve(&self, account: AccountId, host: &str, deadline: Instant) -> Found {
        if let Some(address) = literal(host) {
            return Ok([address].into());
        }
        let mut found = self.join_or_start(account, host)?;
        match timeout_at(deadline, found.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().expect("wait_for returns when there is a result"),
            Ok(Err(_)) => Err(LookupError::Failed("the lookup was aborted".into())),
            Err(_) => Err(LookupError::Late(self.0.lookups().delay(account, host))),
        }
    }

    fn join_or_start(
        &self,
        account: AccountId,
        host: &str,
    ) -> Result<watch::Receiver<Option<Found>>, LookupError> {
        let mut lookups = self.0.lookups();
        if lookups.silent.get(host).is_some_and(|until| *until > Instant::now()) {
            return Err(LookupError::Late(LookupDelay::Silent));
        }
        if let Some(running) = lookups.running(host) {
            if running.begun.elapsed() >= self.0.silent_after {
                return Err(LookupError::Late(LookupDelay::Silent));
            }
            return Ok(running.found);
        }
        let key = (account, Arc::from(host));
        if let Some(waiting) = lookups.waiting.get(&key) {
            return Ok(waiting.subscribe());
        }
        let (sender, receiver) = watch::channel(None);
        lookups.waiting.insert(key.clone(), sender.clone());
        // In a task of its own: the attempt that started it may time out before those that joined.
        tokio::spawn(Arc::clone(&self.0).look_up(key, sender));
        Ok(receiver)
    }
}

impl Shared {
    async fn look_up(self: Arc<Self>, key: (AccountId, Arc<str>), sender: watch::Sender<Option<Found>>) {
        let Some(permit) = self.wait_for_place(&key, &sender).await else { return };
        let (_, host) = &key;
        let joined = {
            let mut lookups = self.lookups();
            lookups.waiting.remove(&key);
            let running = lookups.running(host);
            if running.is_none() {
                let running = Running { begun: Instant::now(), found: sender.subscribe() };
                lookups.running.insert(Arc::clone(host), running);
            }
            running
        };
        let found = match joined {
            // Another account was first.
            Some(mut running) => {
                drop(permit);
                let found = running.found.wait_for(Option::is_some).await;
                found.ok().and_then(|found| found.clone())
            }
            None => Some(self.ask(host, permit).await),
        };
        sender.send_replace(found);
    }

    /// Waits for a place of the account; `None` if no attempt waits any more.
    async fn wait_for_place(
        &self,
        key: &(AccountId, Arc<str>),
        sender: &watch::Sender<Option<Found>>,
    ) -> Option<Permit> {
        let mut place = pin!(self.places.acquire(ShareKey::Account(key.0.get()), 1));
        loop {
            tokio::select! {
                biased;
                () = sender.closed() => {
                    let mut lookups = self.lookups();
                    // One may have joined meanwhile.
                    if sender.is_closed() {
                        lookups.waiting.remove(key);
                        return None;
                    }
                }
                permit = &mut place => return Some(permit),
            }
        }
    }

    /// Looks a name up in a place.
    async fn ask(&self, host: &Arc<str>, permit: Permit) -> Found {
        let begun = Instant::now();
        let found = ask_the_system(host).await;
        drop(permit);
        let mut lookups = self.lookups();
        // Removed first: a later attempt starts its own lookup and never gets an old result.
        lookups.running.remove(host);
        let now = Instant::now();
        lookups.silent.retain(|_, until| *until > now);
        if found.is_err() && begun.elapsed() >= self.silent_after {
            lookups.silent.insert(Arc::clone(host), now + SILENCE);
        }
        found
    }

    fn lookups(&self) -> MutexGuard<'_, Lookups> {
        self.lookups.lock().expect("no code panics while it holds this lock")
    }
}

impl Lookups {
    /// The lookup of a name that runs. One whose task is gone without a result does not.
    fn running(&self, host: &str) -> Option<Running> {
        self.running.get(host).filter(|running| running.found.has_changed().is_ok()).cloned()
    }

    /// Why a name did not resolve in time.
    fn delay(&self, account: AccountId, host: &str) -> LookupDelay {
        if self.waiting.contains_key(&(account, Arc::from(host))) {
            LookupDelay::NoPlace
        } else {
            LookupDelay::Slow
        }
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

    fn resolver() -> Resolver {
        Resolver::new(LOOKUPS_MAX, Duration::from_secs(60))
    }

    fn account(number: i64) -> AccountId {
        AccountId::new(number).unwrap()
    }

    async fn resolve(resolver: &Resolver, number: i64, host: &str) -> Found {
        resolver.resolve(account(number), host, Instant::now() + Duration::from_secs(60)).await
    }

    fn assert_all_ended(resolver: &Resolver) {
        let lookups = resolver.0.lookups();
        assert!(lookups.running.is_empty() && lookups.waiting.is_empty(), "{lookups:?}");
    }

    #[tokio::test]
    async fn an_address_needs_no_lookup() {
        let resolver = resolver();
        assert_eq!(*resolve(&resolver, 1, "10.1.2.3").await.unwrap(), [IpAddr::from([10, 1, 2, 3])]);
        assert_eq!(
            *resolve(&resolver, 1, "[fe80::1]").await.unwrap(),
            ["fe80::1".parse::<IpAddr>().unwrap()]
        );
        assert_all_ended(&resolver);
    }

    #[tokio::test]
    async fn concurrent_attempts_share_a_lookup() {
        let resolver = resolver();
        let started = || resolver.join_or_start(account(1), "localhost").unwrap();
        let (first, second) = (started(), started());
        assert!(first.same_channel(&second));
        let found = tokio::join!(resolve(&resolver, 1, "localhost"), resolve(&resolver, 2, "localhost"));
        assert_eq!(found.0, found.1);
        let found = found.0.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        assert_all_ended(&resolver);
    }

    #[tokio::test]
    async fn an_unknown_name_does_not_resolve() {
        let error = resolve(&resolver(), 1, "nobody.invalid").await.unwrap_err();
        let text = error.to_string();
        assert!(!text.is_empty() && text == text.to_lowercase(), "{text}");
    }

    #[tokio::test]
    async fn a_lookup_that_nobody_waits_for_any_more_gives_up_its_turn() {
        let resolver = resolver();
        let share = LOOKUPS_MAX / ACCOUNT_PART;
        let resolver = &resolver;
        let taken: Vec<_> =
            std::iter::from_fn(|| resolver.0.places.try_acquire(ShareKey::Account(1), 1).ok()).collect();
        assert_eq!(taken.len(), share);
        let soon = Instant::now() + Duration::from_millis(20);
        let late = resolver.resolve(account(1), "localhost", soon).await;
        assert_eq!(late, Err(LookupError::Late(LookupDelay::NoPlace)));
        resolve(resolver, 2, "localhost").await.unwrap();
        tokio::task::yield_now().await;
        assert_all_ended(resolver);
        drop(taken);
        resolve(resolver, 1, "localhost").await.unwrap();
    }
}
