//! Happy Eyeballs (RFC 8305): dials the addresses of a name one after another, a quarter of a second apart, and
//! uses the first that accepts. An address that is silent thus costs a moment, not the attempt.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Mutex, MutexGuard},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{
    descriptors,
    domain::ids::AccountId,
    limits::{Permit, ShareKey, SharedPool},
};

/// Wait before the next address is dialed as well.
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Addresses of one name that are dialed at the same time at most.
const AT_ONCE_MAX: usize = 4;
/// How long an address is dialed at least before another one takes its turn.
const DIALED_FOR_MIN: Duration = Duration::from_secs(1);
/// Dials of further addresses at the same time are this part of the attempts in flight at most.
const FURTHER_PART: usize = 8;
/// Bounds of their number: see [`further_dials_max`].
const FURTHER_MIN: usize = 4;
const FURTHER_MAX: usize = 128;
/// Most names whose good address is remembered.
const GOOD_MAX: usize = 1024;
/// How long it is.
const GOOD_FOR: Duration = Duration::from_mins(10);

/// Most dials at the same time besides the first one of each attempt, of a gateway with so many attempts in flight.
pub fn further_dials_max(attempts_in_flight_max: usize) -> usize {
    (attempts_in_flight_max / FURTHER_PART).clamp(FURTHER_MIN, FURTHER_MAX)
}

/// Dials names with several addresses.
pub(super) struct Race {
    /// Places for dials besides the first one of an attempt. Each account has a share.
    further: SharedPool,
    good: Mutex<HashMap<(Box<str>, u16), Good>>,
}

/// The address of a name that accepted when one before it did not.
struct Good {
    address: IpAddr,
    until: Instant,
}

/// Why no address accepted.
#[derive(Debug)]
pub(super) enum RaceError {
    /// The last one that was left refused.
    Refused(SocketAddr, io::Error),
    /// The time ran out.
    Timeout,
    /// No file descriptor was free.
    NoDescriptor,
}

/// What to dial.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) account: AccountId,
    pub(super) host: &'a str,
    /// Those that may be dialed, in the order of preference.
    pub(super) addresses: &'a [IpAddr],
    pub(super) port: u16,
    pub(super) deadline: Instant,
}

/// An address that is being dialed.
struct Dial<F> {
    address: SocketAddr,
    since: Instant,
    dialing: Pin<Box<F>>,
    place: Option<Permit>,
}

/// Whether another address may be dialed.
enum Room {
    Now(Option<Permit>),
    At(Instant),
}

impl Race {
    /// With so many dials at the same time at most besides the first one of each attempt.
    pub(super) fn new(further_max: usize) -> Self {
        Self { further: SharedPool::of_places(further_max), good: Mutex::default() }
    }

    /// Dials the addresses until one accepts.
    pub(super) async fn connect<F, T>(
        &self,
        to: Target<'_>,
        dial: impl Fn(SocketAddr) -> F,
    ) -> Result<(T, SocketAddr), RaceError>
    where
        F: Future<Output = io::Result<T>>,
    {
        let mut left = self.order(to).into_iter().peekable();
        let (mut dials, mut next_at) = (Vec::new(), Instant::now());
        let mut last = RaceError::Timeout;
        loop {
            let now = Instant::now();
            while let Some(&address) = left.peek()
                && (dials.is_empty() || next_at <= now)
            {
                match self.room(to.account, &mut dials, now) {
                    Room::Now(place) => {
                        let dialing = Box::pin(dial(address));
                        dials.push(Dial { address, since: now, dialing, place });
                        left.next();
                        next_at = now + NEXT_AFTER;
                    }
                    Room::At(time) => next_at = time,
                }
            }
            if dials.is_empty() {
                return Err(last);
            }
            tokio::select! {
                // An address that has accepted is used, even if this task runs late.
                biased;
                (address, dialed) = first_ended(&mut dials) => match dialed {
                    Ok(stream) => {
                        self.accepted(to, address.ip());
                        return Ok((stream, address));
                    }
                    Err(error) if descriptors::is_exhausted(&error) => {
                        // Those under way have theirs.
                        last = RaceError::NoDescriptor;
                        left = Vec::new().into_iter().peekable();
                    }
                    Err(error) => {
                        last = RaceError::Refused(address, error);
                        next_at = Instant::now();
                    }
                },
                () = sleep_until(next_at), if left.peek().is_some() => {}
                () = sleep_until(to.deadline) => return Err(RaceError::Timeout),
            }
        }
    }

    /// The addresses in the order to dial them: the good one first, then the families in turn.
    fn order(&self, to: Target<'_>) -> Vec<SocketAddr> {
        let mut order = in_turn(to.addresses);
        if let [_, _, ..] = *order {
            let good = self.good();
            let known = good.get(&(to.host.into(), to.port)).filter(|good| good.until > Instant::now());
            if let Some(at) = known.and_then(|good| order.iter().position(|address| *address == good.address))
            {
                order[..=at].rotate_right(1);
            }
        }
        order.into_iter().map(|address| SocketAddr::new(address, to.port)).collect()
    }

    /// Room to dial one address more. If there is none, the one that is dialed for longest gives way in a while.
    fn room<F>(&self, account: AccountId, dials: &mut Vec<Dial<F>>, now: Instant) -> Room {
        let Some(oldest) = dials.first() else { return Room::Now(None) };
        let key = ShareKey::Account(account.get());
        if dials.len() < AT_ONCE_MAX
            && let Ok(place) = self.further.try_acquire(key, 1)
        {
            return Room::Now(Some(place));
        }
        let gives_way_at = oldest.since + DIALED_FOR_MIN;
        if gives_way_at > now {
            return Room::At(gives_way_at);
        }
        Room::Now(dials.remove(0).place)
    }

    /// Remembers the address that accepted, unless it is the one that is dialed first anyway.
    fn accepted(&self, to: Target<'_>, address: IpAddr) {
        let [first, _, ..] = to.addresses else { return };
        let (key, now) = ((to.host.into(), to.port), Instant::now());
        let mut good = self.good();
        if address == *first {
            good.remove(&key);
            return;
        }
        if good.len() >= GOOD_MAX {
            good.retain(|_, good| good.until > now);
        }
        // Without room it is found again each time.
        if good.len() < GOOD_MAX || good.contains_key(&key) {
            // An address that is known stays good for its time only: the first may be back.
            good.entry(key)
                .and_modify(|known| {
                    if known.address != address || known.until <= now {
                        *known = Good { address, until: now + GOOD_FOR };
                    }
                })
                .or_insert(Good { address, until: now + GOOD_FOR });
        }
    }

    fn good(&self) -> MutexGuard<'_, HashMap<(Box<str>, u16), Good>> {
        self.good.lock().expect("no code panics while it holds this lock")
    }
}

/// The addresses with their families in turn, that of the first one first.
fn in_turn(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let mut of_first = addresses.iter().filter(|address| address.is_ipv6() == is_v6);
    let mut of_other = addresses.iter().filter(|address| address.is_ipv6() != is_v6);
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(of_first.next());
        order.extend(of_other.next());
    }
    order
}

/// Waits for the first of the dials to end, and takes it out. Looks at them in their order.
async fn first_ended<F: Future>(dials: &mut Vec<Dial<F>>) -> (SocketAddr, F::Output) {
    poll_fn(|context| {
        for at in 0..dials.len() {
            if let Poll::Ready(dialed) = dials[at].dialing.as_mut().poll(context) {
                return Poll::Ready((dials.remove(at).address, dialed));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const GOOD: &str = "192.0.2.1";

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn to(addresses: &[IpAddr]) -> Target<'_> {
        let deadline = Instant::now() + Duration::from_secs(5);
        Target { account: AccountId::new(1).unwrap(), host: "a.example", addresses, port: 443, deadline }
    }

    /// Only one address accepts; 198.51.100.0/24 refuses, and the others are silent.
    async fn dial(address: SocketAddr) -> io::Result<()> {
        match address.ip() {
            ip if ip.to_string() == GOOD => Ok(()),
            IpAddr::V4(ip) if ip.octets()[0] == 198 => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => std::future::pending().await,
        }
    }

    async fn took(race: &Race, texts: &[&str]) -> (bool, Duration) {
        let (addresses, begun) = (addresses(texts), Instant::now());
        let connected = race.connect(to(&addresses), dial).await;
        (connected.is_ok(), begun.elapsed())
    }

    #[test]
    fn families_take_turns() {
        let given = addresses(&["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let turns = addresses(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(in_turn(&given), turns);
        assert_eq!(in_turn(&given[2..]), given[2..]);
        assert!(in_turn(&[]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_of_a_second_and_then_nothing_for_a_while() {
        let race = Race::new(8);
        let silent_first = ["2001:db8::1", "2001:db8::2", GOOD];
        assert_eq!(took(&race, &silent_first).await, (true, NEXT_AFTER));
        assert_eq!(took(&race, &silent_first).await, (true, Duration::ZERO), "it is remembered");
        // Only among the addresses that may be dialed now.
        assert_eq!(took(&race, &["2001:db8::1", "2001:db8::2"]).await, (false, Duration::from_secs(5)));
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!(took(&race, &silent_first).await, (true, NEXT_AFTER));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_refusal_the_next_address_is_dialed_at_once() {
        let race = Race::new(8);
        assert_eq!(took(&race, &["198.51.100.1", "198.51.100.2", GOOD]).await, (true, Duration::ZERO));
        let refused = addresses(&["198.51.100.1", "198.51.100.2"]);
        let error = race.connect(to(&refused), dial).await.unwrap_err();
        assert!(matches!(&error, RaceError::Refused(last, _) if last.ip() == refused[1]), "{error:?}");
    }

    /// A dial that has ended, or was dropped.
    struct Ended<'a>(&'a AtomicUsize);

    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dials_at_the_same_time_are_bounded_and_every_address_has_its_turn() {
        let silent: Vec<String> = (2..17).map(|number| format!("192.0.2.{number}")).collect();
        let mut texts: Vec<&str> = silent.iter().map(String::as_str).collect();
        texts.push(GOOD);
        for (further, most) in [(8, AT_ONCE_MAX), (1, 2)] {
            let (race, dialing) = (Race::new(further), AtomicUsize::new(0));
            let dialing = &dialing;
            let counted = |address| async move {
                assert!(dialing.fetch_add(1, Ordering::Relaxed) < most, "of {further}");
                let _ended = Ended(dialing);
                dial(address).await
            };
            let texts = if further == 1 { &texts[10..] } else { &texts[..] };
            let addresses = addresses(texts);
            race.connect(to(&addresses), counted).await.expect("the last one accepts");
            assert_eq!(race.further.free(), further);
        }
    }
}
