//! The request ids that are remembered: for a time, and at most so many of an account. The oldest go first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::domain::{access::TokenId, time::UnixMicros};

/// How long a request id is remembered. A later repetition is a new request.
pub const REQUEST_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);
/// Request ids of one account that are remembered at most. Those about access tokens count as of one account.
pub const REQUESTS_PER_ACCOUNT_MAX: usize = 10_000;
/// Bytes of one account's request ids with their results at most.
pub const REQUEST_BYTES_PER_ACCOUNT_MAX: u64 = 16 * 1024 * 1024;

/// Bytes of the key of a request.
pub const REQUEST_KEY_BYTES: usize = 25;

/// The key of the row of a request: it begins with the account's number.
pub type RequestRowKey = [u8; REQUEST_KEY_BYTES];

/// A request: when it was made, and the key of its row.
pub type RequestEntry = (UnixMicros, RequestRowKey);

/// What is remembered, by age.
#[derive(Default)]
pub struct RememberedRequests {
    by_age: BTreeMap<RequestEntry, Remembered>,
    by_account: HashMap<[u8; 8], OfAccount>,
}

/// A request's row.
pub struct Remembered {
    /// Its length.
    pub bytes: u64,
    /// The access token that the request created, if it did.
    pub token: Option<TokenId>,
}

#[derive(Default)]
struct OfAccount {
    by_age: BTreeSet<RequestEntry>,
    bytes: u64,
}

impl RememberedRequests {
    /// Adds a request.
    pub fn add(&mut self, entry: RequestEntry, remembered: Remembered) {
        self.remove(&entry);
        let account = self.by_account.entry(account_of(&entry)).or_default();
        account.by_age.insert(entry);
        account.bytes += remembered.bytes;
        self.by_age.insert(entry, remembered);
    }

    /// Forgets a request.
    pub fn remove(&mut self, entry: &RequestEntry) {
        let Some(Remembered { bytes, .. }) = self.by_age.remove(entry) else { return };
        let key = account_of(entry);
        if let Some(account) = self.by_account.get_mut(&key) {
            account.by_age.remove(entry);
            account.bytes -= bytes;
            if account.by_age.is_empty() {
                self.by_account.remove(&key);
            }
        }
    }

    /// Those that are older than [`REQUEST_MEMORY`].
    pub fn old(&self, now: UnixMicros) -> impl Iterator<Item = RequestEntry> {
        self.by_age.keys().take_while(move |(time, _)| now.since(*time) > REQUEST_MEMORY).copied()
    }

    /// The oldest of the account that must go before one more of `bytes` bytes.
    pub fn in_excess(&self, key: &RequestRowKey, bytes: u64) -> Vec<RequestEntry> {
        let Some(account) = self.by_account.get(&key[1..9]) else { return Vec::new() };
        let (mut count, mut left) = (account.by_age.len() + 1, account.bytes + bytes);
        let too_many = |entry: &&RequestEntry| {
            let is_too_many = count > REQUESTS_PER_ACCOUNT_MAX || left > REQUEST_BYTES_PER_ACCOUNT_MAX;
            count -= 1;
            left -= self.by_age[*entry].bytes;
            is_too_many
        };
        account.by_age.iter().take_while(too_many).copied().collect()
    }

    /// Those that created one of these tokens.
    pub fn of_tokens(&self, tokens: &[TokenId]) -> Vec<RequestEntry> {
        let of_none = self.by_account.get(&[0; 8]).into_iter().flat_map(|account| &account.by_age);
        let created = |entry: &&RequestEntry| {
            self.by_age[*entry].token.as_ref().is_some_and(|token| tokens.contains(token))
        };
        of_none.filter(created).copied().collect()
    }
}

fn account_of((_, key): &RequestEntry) -> [u8; 8] {
    *key[1..].first_chunk().expect("a key is longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(account: u8, number: usize) -> RequestEntry {
        let mut key = [0; REQUEST_KEY_BYTES];
        key[8] = account;
        key[17..].copy_from_slice(&(number as u64).to_be_bytes());
        (UnixMicros(i64::try_from(number).unwrap()), key)
    }

    fn remembered(bytes: u64) -> Remembered {
        Remembered { bytes, token: None }
    }

    #[test]
    fn the_oldest_of_an_account_go_when_there_are_too_many() {
        let mut requests = RememberedRequests::default();
        for number in 1..=REQUESTS_PER_ACCOUNT_MAX {
            assert_eq!(requests.in_excess(&entry(1, number).1, 10), []);
            requests.add(entry(1, number), remembered(10));
        }
        requests.add(entry(2, 1), remembered(10));
        let one_more = entry(1, 20_000).1;
        assert_eq!(requests.in_excess(&one_more, 10), [entry(1, 1)]);
        requests.remove(&entry(1, 1));
        assert_eq!(requests.in_excess(&one_more, 10), []);
        let most = REQUEST_BYTES_PER_ACCOUNT_MAX - 10 * (REQUESTS_PER_ACCOUNT_MAX as u64 - 3);
        assert_eq!(requests.in_excess(&one_more, most), [entry(1, 2), entry(1, 3)]);
        assert_eq!(requests.in_excess(&entry(2, 2).1, most), []);
        assert_eq!(requests.in_excess(&entry(3, 2).1, most), []);
    }

    #[test]
    fn the_old_ones_of_all_accounts_are_known_by_age() {
        let mut requests = RememberedRequests::default();
        requests.add(entry(2, 1), remembered(1));
        requests.add(entry(1, 3), remembered(1));
        requests.add(entry(1, 5), remembered(1));
        let now = UnixMicros(4 + i64::try_from(REQUEST_MEMORY.as_micros()).unwrap());
        assert_eq!(requests.old(now).collect::<Vec<_>>(), [entry(2, 1), entry(1, 3)]);
    }
}
