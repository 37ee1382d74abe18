//! What is published, and how.

use serde::{Deserialize, Serialize};
use tidings::{
    clock::{Clock, SystemClock},
    domain::ids::AccountId,
    event::samples,
    proto::v1::{self, event::Payload},
};

/// Connections of the publisher: one alone does not use two cores well.
pub const CHANNELS: usize = 4;
/// Connections of a flood, which must not be held back by how many calls a connection may have.
pub const FLOOD_CHANNELS: usize = 16;
/// The account of the first endpoint; where events are spread, each endpoint has an account of its own.
const FIRST_ACCOUNT: i64 = 1001;

/// A load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    /// How events are sent.
    pub way: Way,
    /// Events in all, numbered from 1.
    pub events: u64,
    /// Accounts that they are spread over in turn.
    pub accounts: usize,
}

/// How events are sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Way {
    /// One event a call, so many calls at once; the next begins when one is answered.
    Unary {
        /// Calls at once.
        in_flight: usize,
    },
    /// Many events a call, likewise.
    Batches {
        /// Events of a call.
        size: u64,
        /// Calls at once.
        in_flight: usize,
    },
    /// Streams side by side, each sent as fast as the gateway takes it.
    Streams {
        /// Streams at once.
        count: usize,
    },
    /// Calls at a rate that is more than can be served, whatever becomes of those before. Refused ones are not repeated.
    Flood {
        /// Events a second.
        rate: u64,
        /// Events of a call.
        size: u64,
    },
    /// One event a call at a steady rate, whether or not those before are answered.
    Steady {
        /// Events a second.
        rate: u32,
    },
}

/// The account whose events go to this endpoint.
pub fn account(endpoint: usize) -> AccountId {
    let number = i64::try_from(endpoint).expect("endpoints are few");
    AccountId::new(FIRST_ACCOUNT + number).expect("it is positive")
}

/// The machine's clock, which all processes of a run share, in microseconds since the epoch.
pub fn now_micros() -> i64 {
    SystemClock.now().0
}

impl Load {
    /// The request to publish event `number`, stamped with the time at which it was to be sent.
    pub fn request(&self, number: u64, at_micros: i64) -> v1::PublishEventRequest {
        let accounts = self.accounts as u64;
        let account = account(usize::try_from(number % accounts).expect("accounts are few"));
        v1::PublishEventRequest {
            parent: format!("accounts/{account}"),
            event: Some(stamped(account, number, at_micros).into()),
            ..v1::PublishEventRequest::default()
        }
    }
}

/// A typical message that carries its number and the time: as long as without them.
pub fn stamped(account: AccountId, number: u64, at_micros: i64) -> v1::Event {
    let number = i64::try_from(number).expect("events are few");
    let mut event = samples::typical_message(account, 1 + number % 1000, number);
    let Some(Payload::MessageCreated(v1::MessageCreated { message: Some(message) })) = &mut event.payload
    else {
        unreachable!("a typical message is a message");
    };
    message.source_id = Some(format!("{STAMP_WORD}{at_micros:0STAMP_DIGITS$}"));
    event
}

const STAMP_WORD: &str = "wamid.";
const STAMP_DIGITS: usize = 42;
const NUMBER_KEY: &[u8] = b"\"id\":";
const STAMP_KEY: &[u8] = b"\"source_id\":\"wamid.";
/// Both keys are within this part of a body, unless the message's text grows a lot.
const HEAD_BYTES: usize = 640;

/// The number and the time that a body carries, if it is one of ours.
pub fn read_stamp(body: &[u8]) -> Option<(u64, i64)> {
    let head = &body[..body.len().min(HEAD_BYTES)];
    let number = digits_after(head, NUMBER_KEY)?;
    let stamp = digits_after(head, STAMP_KEY)?;
    Some((number, i64::try_from(stamp).ok()?))
}

fn digits_after(text: &[u8], key: &[u8]) -> Option<u64> {
    let start = text.windows(key.len()).position(|window| window == key)? + key.len();
    let mut digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.try_fold(0_u64, |number, byte| number.checked_mul(10)?.checked_add(u64::from(byte - b'0')))
}
