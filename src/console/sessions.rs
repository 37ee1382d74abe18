//! Browsers that are signed in. A browser has a random id; memory has the id's hash and the token. A restart
//! signs out.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::{RngExt, rngs::StdRng};
use sha2::{Digest, Sha256};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::domain::secret::Secret;

/// Random bytes of an id.
const ID_BYTES: usize = 32;
/// Sessions of one token at most; one more ends that one of them which was idle longest. Many sign-ins with
/// one token sign nobody else out.
const SESSIONS_PER_TOKEN_MAX: usize = 50;
/// Characters of an id: its bytes in base64.
const ID_CHARS: usize = 43;

/// How long sessions last, and how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionLimits {
    pub(super) sessions_max: usize,
    pub(super) age_max: Duration,
    pub(super) idle_max: Duration,
}

/// The sessions of all browsers.
pub(super) struct Sessions {
    limits: SessionLimits,
    inner: Mutex<Inner>,
}

struct Inner {
    random: StdRng,
    by_hash: HashMap<IdHash, Session>,
}

/// The hash of a session's id: memory that leaks does not sign anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct IdHash([u8; 32]);

struct Session {
    token: Secret,
    begun: Instant,
    used: Instant,
    /// Cancels the token that live streams wait for when the session ends.
    ended: DropGuard,
}

/// A session that lasts.
pub(super) struct Resumed {
    pub(super) hash: IdHash,
    pub(super) token: Secret,
    /// Cancelled when the session ends.
    pub(super) ended: CancellationToken,
}

impl Sessions {
    /// No sessions yet. Ids are drawn from `random`, which the machine's entropy must have seeded.
    pub(super) fn new(limits: SessionLimits, random: StdRng) -> Self {
        Self { limits, inner: Mutex::new(Inner { random, by_hash: HashMap::new() }) }
    }

    /// Begins a session of the holder of `token`, and returns its id.
    pub(super) fn begin(&self, token: Secret, now: Instant) -> String {
        let mut inner = self.lock();
        inner.by_hash.retain(|_, session| session.lasts(self.limits, now));
        let of_token = |session: &Session| session.token.expose() == token.expose();
        if inner.by_hash.values().filter(|session| of_token(session)).count() >= SESSIONS_PER_TOKEN_MAX {
            inner.end_idlest(of_token);
        }
        if inner.by_hash.len() >= self.limits.sessions_max {
            inner.end_idlest(|_| true);
        }
        let id = BASE64_URL_SAFE_NO_PAD.encode(inner.random.random::<[u8; ID_BYTES]>());
        let ended = CancellationToken::new().drop_guard();
        inner.by_hash.insert(IdHash::of(&id), Session { token, begun: now, used: now, ended });
        id
    }

    /// The session with this id and its token, if it lasts. Its idle time begins again.
    pub(super) fn resume(&self, id: &str, now: Instant) -> Option<Resumed> {
        if id.len() != ID_CHARS {
            return None;
        }
        let hash = IdHash::of(id);
        let mut inner = self.lock();
        let session = inner.by_hash.get_mut(&hash)?;
        if !session.lasts(self.limits, now) {
            inner.by_hash.remove(&hash);
            return None;
        }
        session.used = now;
        Some(Resumed { hash, token: session.token.clone(), ended: session.ended.token().clone() })
    }

    /// Ends a session.
    pub(super) fn end(&self, hash: IdHash) {
        self.lock().by_hash.remove(&hash);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn end_idlest(&mut self, among: impl Fn(&Session) -> bool) {
        let sessions = self.by_hash.iter().filter(|(_, session)| among(session));
        let idlest = sessions.min_by_key(|(_, session)| session.used).map(|(hash, _)| *hash);
        idlest.and_then(|hash| self.by_hash.remove(&hash));
    }
}

impl Session {
    fn lasts(&self, limits: SessionLimits, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) < limits.age_max
            && now.saturating_duration_since(self.used) < limits.idle_max
    }
}

impl IdHash {
    fn of(id: &str) -> Self {
        Self(Sha256::digest(id).into())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const LIMITS: SessionLimits = SessionLimits {
        sessions_max: 2,
        age_max: Duration::from_hours(12),
        idle_max: Duration::from_hours(1),
    };

    fn sessions() -> (Sessions, Instant) {
        (Sessions::new(LIMITS, StdRng::seed_from_u64(1)), Instant::now())
    }

    #[test]
    fn an_id_is_long_and_only_its_hash_is_kept() {
        let (sessions, now) = sessions();
        let id = sessions.begin(Secret::new("tdg_1"), now);
        assert_eq!(id.len(), ID_CHARS);
        assert_ne!(id, sessions.begin(Secret::new("tdg_1"), now));
        assert_eq!(sessions.resume(&id, now).unwrap().token.expose(), "tdg_1");
        for wrong in ["", "x", &id[1..], &format!("{id}A"), &"A".repeat(ID_CHARS)] {
            assert!(sessions.resume(wrong, now).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn it_ends_after_an_idle_hour_and_after_twelve_hours_at_most() {
        let (sessions, start) = sessions();
        let id = sessions.begin(Secret::new("t"), start);
        let minutes = |minutes| start + Duration::from_mins(minutes);
        for minute in (0..720).step_by(59) {
            assert!(sessions.resume(&id, minutes(minute)).is_some(), "{minute}");
        }
        assert!(sessions.resume(&id, minutes(720)).is_none());
        let idle = sessions.begin(Secret::new("t"), start);
        assert!(sessions.resume(&idle, minutes(60)).is_none());
        assert!(sessions.resume(&idle, minutes(1)).is_none(), "an ended session does not come back");
    }

    #[test]
    fn a_session_that_was_ended_is_gone() {
        let (sessions, now) = sessions();
        let id = sessions.begin(Secret::new("t"), now);
        let Resumed { hash, ended, .. } = sessions.resume(&id, now).unwrap();
        assert!(!ended.is_cancelled());
        sessions.end(hash);
        assert!(ended.is_cancelled(), "what waits for its end hears of it");
        assert!(sessions.resume(&id, now).is_none());
    }

    #[test]
    fn many_sessions_of_one_token_end_only_its_own() {
        let limits = SessionLimits { sessions_max: 1000, ..LIMITS };
        let (sessions, start) = (Sessions::new(limits, StdRng::seed_from_u64(1)), Instant::now());
        let seconds = |seconds| start + Duration::from_secs(seconds);
        let other = sessions.begin(Secret::new("other"), start);
        let begun: Vec<_> = (0..60).map(|number| sessions.begin(Secret::new("t"), seconds(number))).collect();
        assert!(sessions.resume(&other, seconds(60)).is_some());
        let lasting = begun.iter().filter(|id| sessions.resume(id, seconds(60)).is_some()).count();
        assert_eq!(lasting, SESSIONS_PER_TOKEN_MAX);
        assert!(sessions.resume(&begun[9], seconds(60)).is_none(), "the idlest went first");
    }

    #[test]
    fn past_the_bound_the_idlest_goes() {
        let (sessions, start) = sessions();
        let seconds = |seconds| start + Duration::from_secs(seconds);
        let one = sessions.begin(Secret::new("1"), start);
        let two = sessions.begin(Secret::new("2"), seconds(1));
        sessions.resume(&one, seconds(2)).unwrap();
        let three = sessions.begin(Secret::new("3"), seconds(3));
        let lasts = [&one, &two, &three].map(|id| sessions.resume(id, seconds(4)).is_some());
        assert_eq!(lasts, [true, false, true]);
    }
}
