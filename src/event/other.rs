//! Events in Chatwoot's form that no other payload represents (`EVENT_TYPE_OTHER`): kept and sent byte for byte.
//!
//! Of the JSON only an outline is read: its name, and the numbers that decide who gets the event and in which
//! order. Everything else may be anything that JSON allows.

use std::{borrow::Cow, collections::HashMap, fmt};

use prost::Message;
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::EventContent;
use crate::{
    domain::{
        event_routing::{EventRouting, OrderKey},
        field_violation::{FieldViolations, ViolationKind},
        ids::AccountId,
    },
    proto::v1::{self, EventType, event::Payload},
};

/// Longest name of an event, in characters; an event with a longer one has none.
pub const NAME_CHARS_MAX: usize = 128;
/// Most reasons that are kept of why an event has no other payload.
const REASONS_MAX: usize = 10;
/// Longest of them, in bytes. Senders choose parts of them.
const REASON_BYTES_MAX: usize = 240;
/// The byte order mark, which may precede a body.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Paths to the account in the bodies of all events. `0` is the first element of an array.
const ACCOUNTS: [&str; 13] = [
    "account.id",
    "conversation.account.id",
    "messages.0.account_id",
    "conversation.messages.0.account_id",
    "contact.account.id",
    "user.account.id",
    "sender.account.id",
    "current_conversation.account.id",
    "current_conversation.messages.0.account_id",
    "account_id",
    "conversation.account_id",
    "channel.account_id",
    "working_hours.0.account_id",
];

/// Keys that the outline reads.
const KEYS: [&[u8]; 18] = [
    b"account",
    b"account_id",
    b"channel",
    b"contact",
    b"contact_id",
    b"contact_inbox",
    b"conversation",
    b"conversation_id",
    b"current_conversation",
    b"event",
    b"id",
    b"inbox",
    b"inbox_id",
    b"messages",
    b"sender",
    b"type",
    b"user",
    b"working_hours",
];

/// What the gateway reads of an event that it keeps as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Outline {
    /// The text of `event`; empty if it is no text, is longer than [`NAME_CHARS_MAX`], or has control characters.
    pub name: String,
    /// The accounts that it names, with their paths.
    accounts: Vec<(&'static str, i64)>,
    inbox_id: Option<i64>,
    order_key: OrderKey,
}

impl Outline {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// It is no JSON object in UTF-8; with the rule that it breaks.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(json).map_err(|error| format!("is not valid JSON: {error}"))?;
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        // Checks what the outline passes over, too.
        if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
            return Err(format!("is not valid JSON: {error}"));
        }
        let top = Json(text);
        let Some(members) = top.members() else { return Err("must be a JSON object".to_owned()) };
        let top = Members(members);
        let name = top.get("event").and_then(Json::text).filter(|name| is_name(name)).unwrap_or_default();
        let accounts = ACCOUNTS.into_iter().filter_map(|path| Some((path, top.at(path)?.number()?)));
        Ok(Self {
            accounts: accounts.collect(),
            inbox_id: top.first_id(&[
                "inbox.id",
                "inbox_id",
                "conversation.inbox_id",
                "current_conversation.inbox_id",
                "contact_inbox.inbox_id",
                "working_hours.0.inbox_id",
            ]),
            order_key: top.order_key(&name),
            name,
        })
    }

    /// The account that it names first.
    pub fn account(&self) -> Option<i64> {
        self.accounts.first().map(|(_, account)| *account)
    }

    /// Who gets it, and in which order.
    pub(super) fn routing(&self) -> EventRouting {
        EventRouting { event_type: EventType::Other, inbox_id: self.inbox_id, order_key: self.order_key }
    }

    /// The accounts that it names and that are not `account`, with their paths.
    pub(super) fn other_accounts(&self, account: AccountId) -> impl Iterator<Item = &'static str> {
        let others = self.accounts.iter().filter(move |(_, number)| *number != account.get());
        others.map(|(path, _)| *path)
    }
}

/// The event of a webhook's body, byte for byte, and its routing. `why` is what other payloads cannot represent.
///
/// # Errors
///
/// The body is no JSON object, or names another account.
pub fn keep(
    body: &[u8],
    account: AccountId,
    why: &FieldViolations,
) -> Result<(v1::Event, EventRouting), FieldViolations> {
    let mut violations = FieldViolations::default();
    let outline = match Outline::read(body) {
        Ok(outline) => outline,
        Err(rule) => {
            violations.invalid("body", rule);
            return Err(violations);
        }
    };
    for path in outline.other_accounts(account) {
        let rule = format_args!("must be {account}, the account that the body is imported into");
        violations.push(ViolationKind::AccountMismatch, path, rule);
    }
    let reasons = why.iter().take(REASONS_MAX).map(|violation| {
        let reason = format!("{} {}", violation.field, violation.description);
        cut(reason.replace('\0', "\u{fffd}"))
    });
    let routing = outline.routing();
    let other = v1::OtherEvent { name: outline.name, json: body.to_vec(), reasons: reasons.collect() };
    let event = v1::Event { payload: Some(Payload::Other(other)), ..v1::Event::default() };
    violations.into_result((event, routing))
}

/// The name of an event of this content, without decoding its JSON.
pub(super) fn name_of(content: &EventContent) -> String {
    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Event {
        #[prost(message, optional, tag = "22")]
        other: Option<Named>,
    }
    let event = Event::decode(&*content.encoded);
    let event = event.expect("it was encoded here, and records of the disk have a checksum");
    event.other.unwrap_or_default().name
}

/// Whether JSON has the character U+0000 in one of its texts, where it is always escaped.
pub fn has_null_character(json: &[u8]) -> bool {
    const ESCAPE: &[u8] = b"\\u0000";
    let escapes = json.windows(ESCAPE.len()).enumerate().filter(|(_, window)| *window == ESCAPE);
    // An even number of backslashes before it are backslashes themselves.
    let backslashes = |end: usize| json[..end].iter().rev().take_while(|byte| **byte == b'\\').count();
    escapes.into_iter().any(|(at, _)| backslashes(at).is_multiple_of(2))
}

fn is_name(name: &str) -> bool {
    name.chars().count() <= NAME_CHARS_MAX && !name.chars().any(char::is_control)
}

fn cut(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text.push('…');
    }
    text
}

/// The text of a JSON value that was found valid.
#[derive(Clone, Copy)]
struct Json<'j>(&'j str);

/// The members of an object with one of the [`KEYS`]; of several with the same key the last one, as most readers
/// have it.
struct Members<'j>(HashMap<Vec<u8>, &'j RawValue>);

impl<'j> Json<'j> {
    fn members(self) -> Option<HashMap<Vec<u8>, &'j RawValue>> {
        serde_json::Deserializer::from_str(self.0).deserialize_map(Known).ok()
    }

    /// The value at a path below this one.
    fn at(self, path: &str) -> Option<Self> {
        match path.strip_prefix('0') {
            Some("") => self.first(),
            Some(rest) => self.first()?.at(rest.strip_prefix('.')?),
            None => Members(self.members()?).at(path),
        }
    }

    fn first(self) -> Option<Self> {
        let first = serde_json::Deserializer::from_str(self.0).deserialize_seq(First).ok()?;
        first.map(|value| Self(value.get()))
    }

    fn text(self) -> Option<String> {
        serde_json::from_str(self.0).ok()
    }

    /// A number, also one in quotes.
    fn number(self) -> Option<i64> {
        let text = self.text().map_or(Cow::Borrowed(self.0), Cow::Owned);
        text.parse().ok()
    }
}

impl<'j> Members<'j> {
    fn get(&self, key: &str) -> Option<Json<'j>> {
        self.0.get(key.as_bytes()).map(|value| Json(value.get()))
    }

    fn at(&self, path: &str) -> Option<Json<'j>> {
        match path.split_once('.') {
            None => self.get(path),
            Some((key, rest)) => self.get(key)?.at(rest),
        }
    }

    /// The first of these paths that has an id.
    fn first_id(&self, paths: &[&str]) -> Option<i64> {
        paths.iter().find_map(|path| self.at(path)?.number().filter(|id| *id > 0))
    }

    /// The conversation; without one the contact, without either the inbox: as with other payloads.
    fn order_key(&self, name: &str) -> OrderKey {
        let is_conversation = name.starts_with("conversation_") || self.get("messages").is_some();
        let conversation = self.first_id(&["conversation.id", "current_conversation.id", "conversation_id"]);
        let own = |is: bool| if is { self.first_id(&["id"]) } else { None };
        if let Some(id) = conversation.or_else(|| own(is_conversation)) {
            return OrderKey::Conversation(id);
        }
        let sender = match self.at("sender.type").and_then(Json::text).as_deref() {
            None | Some("contact") => self.first_id(&["sender.id"]),
            Some(_) => None,
        };
        let contact = self.first_id(&["contact.id", "contact_id"]);
        if let Some(id) = contact.or_else(|| own(name.starts_with("contact_"))).or(sender) {
            return OrderKey::Contact(id);
        }
        let inboxes = ["inbox.id", "inbox_id", "contact_inbox.inbox_id", "working_hours.0.inbox_id"];
        self.first_id(&inboxes).map_or(OrderKey::Conversation(0), OrderKey::Inbox)
    }
}

/// Reads the members with one of the [`KEYS`].
struct Known;

impl<'de> Visitor<'de> for Known {
    type Value = HashMap<Vec<u8>, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut known = HashMap::new();
        while let Some(key) = members.next_key_seed(Key)? {
            match key {
                Some(key) => drop(known.insert(key, members.next_value()?)),
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(known)
    }
}

/// A key, if it is one of the [`KEYS`]. Read as bytes: an escape in it may be no character.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<Vec<u8>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<Vec<u8>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E: Error>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(KEYS.contains(&key).then(|| key.to_owned()))
    }
}

/// Reads the first element of an array.
struct First;

impl<'de> Visitor<'de> for First {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let first = items.next_element()?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

#[cfg(test)]
mod tests;
