//! Values as the pages show them: times, durations, numbers, states, names of events. Everything that is
//! markup is written here, of text that nobody else chose; templates escape the rest.

use std::{fmt, time::Duration};

use askama::filters::HtmlSafe;
use jiff::Timestamp;

use crate::proto::v1::{self, EventType};

/// Events as Chatwoot calls them in its own settings, in the order of its documentation.
const EVENTS: [(EventType, &str); 13] = [
    (EventType::ConversationCreated, "Conversation created"),
    (EventType::ConversationUpdated, "Conversation updated"),
    (EventType::ConversationStatusChanged, "Conversation status changed"),
    (EventType::MessageCreated, "Message created"),
    (EventType::MessageUpdated, "Message updated"),
    (EventType::WebwidgetTriggered, "Live chat widget opened by the user"),
    (EventType::ContactCreated, "Contact created"),
    (EventType::ContactUpdated, "Contact updated"),
    (EventType::InboxCreated, "Inbox created"),
    (EventType::InboxUpdated, "Inbox updated"),
    (EventType::ConversationTypingOn, "Conversation typing on"),
    (EventType::ConversationTypingOff, "Conversation typing off"),
    (EventType::Other, "Anything else, as it came"),
];

/// A type of event, as it is offered and named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventName {
    /// In the webhook's JSON: `message_created`.
    pub(super) word: String,
    /// For people: `Message created`.
    pub(super) title: &'static str,
}

impl EventName {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        EVENTS.iter().map(|(event, title)| Self { word: event_word(*event), title }).collect()
    }

    /// That of a number of the contract.
    pub(super) fn of(number: i32) -> Self {
        let known = EventType::try_from(number).unwrap_or_default();
        let title =
            EVENTS.iter().find(|(event, _)| *event == known).map_or("Unknown event", |(_, title)| title);
        Self { word: event_word(known), title }
    }
}

/// The type with this word; `None` if there is none.
pub(super) fn event_type(word: &str) -> Option<EventType> {
    EVENTS.iter().map(|(event, _)| *event).find(|event| event_word(*event) == word)
}

fn event_word(event: EventType) -> String {
    event.as_str_name().trim_start_matches("EVENT_TYPE_").to_ascii_lowercase()
}

/// A moment. Shown in UTC; the script shows it in the reader's zone. The exact time is its title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(Timestamp);

impl Time {
    pub(super) fn of(time: Option<prost_types::Timestamp>) -> Option<Self> {
        let time = time?;
        Timestamp::new(time.seconds, time.nanos).ok().map(Self)
    }

    pub(super) fn seconds(&self) -> i64 {
        self.0.as_second()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = self.0.strftime("%Y-%m-%d %H:%M:%S%.3f UTC");
        let (iso, shown) = (self.0.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"), self.0.strftime("%Y-%m-%d %H:%M:%S"));
        write!(f, r#"<time datetime="{iso}" title="{exact}">{shown}</time>"#)
    }
}

impl HtmlSafe for Time {}

/// A timestamp of the contract from the text of a date field: `2026-11-30T14:12` in UTC, or with a zone.
pub(super) fn timestamp(text: &str) -> Option<prost_types::Timestamp> {
    let zoned = text.parse::<Timestamp>().ok();
    let time = zoned.or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })?;
    Some(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

/// How long something took, to two or three digits: `12 ms`, `1.2 s`, `4 min`.
pub(super) fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let seconds = duration.as_secs_f64();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{:.1} ms", seconds * 1e3),
        10_000..1_000_000 => format!("{:.0} ms", seconds * 1e3),
        1_000_000..100_000_000 => format!("{seconds:.1} s"),
        100_000_000..7_200_000_000 => format!("{:.0} min", seconds / 60.0),
        7_200_000_000..172_800_000_000 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

/// The same of the contract's durations.
pub(super) fn proto_duration(value: Option<prost_types::Duration>) -> String {
    value.and_then(|value| Duration::try_from(value).ok()).map(duration).unwrap_or_default()
}

/// A number with its thousands apart: `12,345`.
pub(super) fn number(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = if value < 0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 delivery`, `3 deliveries`.
pub(super) fn counted(value: i64, one: &str, many: &str) -> String {
    format!("{} {}", number(value), if value == 1 { one } else { many })
}

/// Bytes in units that people read: `1.5 MiB`.
pub(super) fn bytes(value: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if value < 1024 {
        return format!("{value} bytes");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    let mut amount = value as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(amount < 100.0);
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// A state as a sign and a word: the sign has a shape of its own, so that colour alone says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Badge {
    kind: &'static str,
    sign: &'static str,
    pub(super) word: &'static str,
}

impl Badge {
    const fn new(kind: &'static str, sign: &'static str, word: &'static str) -> Self {
        Self { kind, sign, word }
    }

    /// The state of a subscription. One that is active and fails says so.
    pub(super) fn of_webhook(subscription: &v1::Subscription) -> Self {
        use v1::subscription::State;
        match subscription.state() {
            State::Active if is_failing(subscription) => Self::new("bad", "✕", "failing"),
            State::Active => Self::new("good", "✓", "active"),
            State::Paused => Self::new("idle", "Ⅱ", "paused"),
            State::Suspended => Self::new("bad", "■", "suspended"),
            State::Unspecified => Self::new("idle", "?", "unknown"),
        }
    }

    pub(super) fn of_delivery(state: v1::delivery::State) -> Self {
        use v1::delivery::State;
        match state {
            State::Pending => Self::new("wait", "…", "pending"),
            State::Retrying => Self::new("wait", "↻", "retrying"),
            State::Succeeded => Self::new("good", "✓", "succeeded"),
            State::Failed => Self::new("bad", "✕", "failed"),
            State::Cancelled => Self::new("idle", "–", "cancelled"),
            State::Unspecified => Self::new("idle", "?", "unknown"),
        }
    }

    pub(super) fn of_attempt(outcome: v1::delivery_attempt::Outcome) -> Self {
        use v1::delivery_attempt::Outcome;
        match outcome {
            Outcome::Ok => Self::new("good", "✓", "succeeded"),
            Outcome::HttpStatus => Self::new("bad", "✕", "refused"),
            Outcome::Timeout => Self::new("bad", "✕", "timed out"),
            Outcome::Connect => Self::new("bad", "✕", "no connection"),
            Outcome::Io => Self::new("bad", "✕", "connection broke"),
            Outcome::Blocked => Self::new("bad", "✕", "address blocked"),
            Outcome::Damaged => Self::new("bad", "✕", "event damaged"),
            Outcome::Expired => Self::new("bad", "✕", "given up while paused"),
            Outcome::Unspecified => Self::new("idle", "?", "unknown"),
        }
    }

    pub(super) fn of_token(state: v1::access_token::State) -> Self {
        use v1::access_token::State;
        match state {
            State::Active => Self::new("good", "✓", "active"),
            State::Expired => Self::new("idle", "–", "expired"),
            State::Revoked => Self::new("idle", "✕", "revoked"),
            State::Unspecified => Self::new("idle", "?", "unknown"),
        }
    }

    pub(super) fn of_record(outcome: v1::audit_record::Outcome) -> Self {
        use v1::audit_record::Outcome;
        match outcome {
            Outcome::Ok => Self::new("good", "✓", "done"),
            Outcome::Refused => Self::new("bad", "✕", "refused"),
            Outcome::Unknown | Outcome::Unspecified => Self::new("wait", "?", "unknown"),
        }
    }
}

impl fmt::Display for Badge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, sign, word } = self;
        write!(f, r#"<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {word}</span>"#)
    }
}

impl HtmlSafe for Badge {}

/// Whether the latest attempts of an active subscription failed.
pub(super) fn is_failing(subscription: &v1::Subscription) -> bool {
    subscription.failing_since_time.is_some()
}

/// The last part of a resource name: `crm` of `accounts/1/subscriptions/crm`.
pub(super) fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// The account and the id of `accounts/{account}/{collection}/{id}`.
pub(super) fn account_of(name: &str) -> Option<i64> {
    name.strip_prefix("accounts/")?.split('/').next()?.parse().ok()
}

/// The subscription of the name of a delivery.
pub(super) fn subscription_of(delivery: &str) -> &str {
    delivery.split('/').nth(3).unwrap_or_default()
}

/// A body as people read it: JSON with line breaks, anything else as it is.
pub(super) fn pretty(body: &str) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(body).is_err() {
        return body.to_owned();
    }
    let mut text = String::with_capacity(body.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let characters: Vec<char> = body.chars().collect();
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth.min(40)));
    };
    for (index, character) in characters.iter().copied().enumerate() {
        if in_string {
            text.push(character);
            in_string = escaped || character != '"';
            escaped = character == '\\' && !escaped;
            continue;
        }
        match character {
            '"' => {
                in_string = true;
                text.push(character);
            }
            '{' | '[' => {
                text.push(character);
                let next = characters[index + 1..].iter().find(|next| !next.is_whitespace());
                if !matches!(next, Some('}' | ']')) {
                    depth += 1;
                    line(&mut text, depth);
                } else {
                    // The closing one takes the depth back.
                    depth += 1;
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !text.ends_with(['{', '[']) {
                    line(&mut text, depth);
                }
                text.push(character);
            }
            ',' => {
                text.push(character);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            other if other.is_whitespace() => {}
            other => text.push(other),
        }
    }
    text
}

/// Text of others with everything that could change how the text around it is read made visible: control
/// characters, marks of direction.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\t' => character.to_string(),
            '\r' => String::new(),
            control if control.is_control() => format!("\\u{{{:x}}}", u32::from(control)),
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                format!("\\u{{{:x}}}", u32::from(character))
            }
            other => other.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_the_contract_has_a_title_and_a_word() {
        let mut number = 1;
        while EventType::try_from(number).is_ok() {
            let name = EventName::of(number);
            assert_ne!(name.title, "Unknown event", "{number}");
            assert_eq!(event_type(&name.word).map(i32::from), Some(number));
            number += 1;
        }
        assert_eq!(EventName::all().len(), usize::try_from(number - 1).unwrap());
        assert_eq!(event_type("nothing"), None);
    }

    #[test]
    fn quantities_have_units() {
        for (micros, shown) in [
            (7, "7 µs"),
            (1_500, "1.5 ms"),
            (12_000, "12 ms"),
            (1_234_000, "1.2 s"),
            (240_000_000, "4 min"),
            (10_800_000_000, "3 h"),
            (259_200_000_000, "3 days"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), shown);
        }
        for (value, shown) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-12_345_678, "-12,345,678")] {
            assert_eq!(number(value), shown);
        }
        assert_eq!(counted(1, "delivery", "deliveries"), "1 delivery");
        for (value, shown) in
            [(12, "12 bytes"), (1536, "1.5 KiB"), (200 << 20, "200 MiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(bytes(value), shown);
        }
    }

    #[test]
    fn times_are_markup_of_our_own() {
        let time =
            Time::of(Some(prost_types::Timestamp { seconds: 1_583_240_757, nanos: 5_000_000 })).unwrap();
        assert_eq!(
            time.to_string(),
            r#"<time datetime="2020-03-03T13:05:57.005Z" title="2020-03-03 13:05:57.005 UTC">2020-03-03 13:05:57</time>"#
        );
        assert_eq!(timestamp("2020-03-03T13:05"), timestamp("2020-03-03T13:05:00Z"));
        assert_eq!(timestamp("2020-03-03T14:05+01:00").map(|time| time.seconds), Some(1_583_240_700));
        assert_eq!(timestamp("yesterday"), None);
    }

    #[test]
    fn json_gets_line_breaks_and_keeps_every_character_of_its_values() {
        assert_eq!(
            pretty(r#"{"a":[1, 2.50,{}],"b":"x{,\"y","c":[]}"#),
            "{\n  \"a\": [\n    1,\n    2.50,\n    {}\n  ],\n  \"b\": \"x{,\\\"y\",\n  \"c\": []\n}"
        );
        assert_eq!(pretty("<html>"), "<html>");
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(pretty(&deep).len() < 20_000);
    }

    #[test]
    fn marks_that_reorder_or_hide_text_are_visible() {
        assert_eq!(visible("a\u{202e}b\u{1b}[31m\r\nc"), "a\\u{202e}b\\u{1b}[31m\nc");
    }
}
