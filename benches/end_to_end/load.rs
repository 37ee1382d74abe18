//! Loads: the events to publish, and the way to publish them.

use serde::{Deserialize, Serialize};
use tidings::{
    clock::{Clock, SystemClock},
    domain::ids::AccountId,
    event::samples,
    proto::v1::{self, event::Payload},
};

/// Connections of the publisher. A single one cannot use two cores well.
pub const CHANNELS: usize = 4;
/// Connections of a flood: enough that the limit of calls on a connection does not matter.
pub const FLOOD_CHANNELS: usize = 16;
/// The account of the first endpoint. If events are spread, each endpoint has an account of its own.
const FIRST_ACCOUNT: i64 = 1001;

/// A load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    /// The way to publish them.
    pub way: Way,
    /// Number of events, which are numbered from 1.
    pub events: u64,
    /// Accounts that get the events in turn.
    pub accounts: usize,
    /// Inboxes that get the events in turn; with 0 all are of the sample's inbox.
    pub inboxes: usize,
}

/// The way to publish events.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Way {
    /// One event in a call. The next call begins when one has ended.
    Unary {
        /// Concurrent calls.
        in_flight: usize,
    },
    /// As `Unary`, in JSON over the Connect protocol.
    Json {
        /// Concurrent calls.
        in_flight: usize,
        /// Over HTTP/1.1, with a connection for each call under way; otherwise over HTTP/2.
        is_http1: bool,
    },
    /// Many events in a call. The next call begins when one has ended.
    Batches {
        /// Events in a call.
        size: u64,
        /// Concurrent calls.
        in_flight: usize,
    },
    /// Concurrent streams, each as fast as the gateway reads it.
    Streams {
        /// Number of streams.
        count: usize,
    },
    /// Calls at more than the sustainable rate, without regard to earlier calls. Refused calls are not
    /// repeated.
    Flood {
        /// Events per second.
        rate: u64,
        /// Events in a call.
        size: u64,
    },
    /// One event in a call at a steady rate, without waiting for earlier calls.
    Steady {
        /// Events per second.
        rate: u32,
    },
}

/// The account of an endpoint.
pub fn account(endpoint: usize) -> AccountId {
    let number = i64::try_from(endpoint).expect("endpoints are few");
    AccountId::new(FIRST_ACCOUNT + number).expect("the number is positive")
}

/// The machine's clock in microseconds since 1970. All processes of a run use it.
pub fn now_micros() -> i64 {
    SystemClock::default().now().0
}

impl Load {
    /// The request for event `number`, stamped with the time at which it was due.
    pub fn request(&self, number: u64, at_micros: i64) -> v1::PublishEventRequest {
        let accounts = self.accounts as u64;
        let account = account(usize::try_from(number % accounts).expect("accounts are few"));
        let mut event = stamped(account, number, at_micros);
        if self.inboxes > 0 {
            let place = usize::try_from(number % self.inboxes as u64).expect("inboxes are few");
            move_to_inbox(&mut event, inbox(place));
        }
        v1::PublishEventRequest {
            parent: format!("accounts/{account}"),
            event: Some(event.into()),
            ..v1::PublishEventRequest::default()
        }
    }
}

/// The number of an inbox.
pub fn inbox(place: usize) -> i64 {
    1 + i64::try_from(place).expect("inboxes are few")
}

fn move_to_inbox(event: &mut v1::Event, id: i64) {
    let Some(Payload::MessageCreated(v1::MessageCreated { message: Some(message) })) = &mut event.payload
    else {
        unreachable!("a typical message is a message");
    };
    if let Some(inbox) = &mut message.inbox {
        inbox.id = id;
    }
    if let Some(conversation) = &mut message.conversation {
        conversation.inbox_id = id;
    }
}

/// A typical message with its number and a time. Its length is that of a message without them.
pub fn stamped(account: AccountId, number: u64, at_micros: i64) -> v1::Event {
    let number = i64::try_from(number).expect("events are few");
    let mut event = samples::typical_message(account, 1 + number % 1000, number);
    let Some(Payload::MessageCreated(v1::MessageCreated { message: Some(message) })) = &mut event.payload
    else {
        unreachable!("a typical message is a message");
    };
    message.source_id = Some(stamp(at_micros));
    event
}

/// The text of a time.
pub fn stamp(at_micros: i64) -> String {
    format!("{STAMP_WORD}{at_micros:0STAMP_DIGITS$}")
}

const STAMP_WORD: &str = "wamid.";
const STAMP_DIGITS: usize = 42;
const NUMBER_KEY: &[u8] = b"\"id\":";
const STAMP_KEY: &[u8] = b"\"source_id\":\"wamid.";
/// The part of a body that contains both keys.
const HEAD_BYTES: usize = 640;

/// The number and the time in a body, if it has them.
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
