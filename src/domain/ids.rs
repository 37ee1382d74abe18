//! Identifiers and resource names.

use std::{
    fmt::{self, Write},
    str::FromStr,
    sync::Arc,
};

use uuid::Uuid;

use super::time::UnixMicros;

/// Longest event id in characters, from the contract (`PublishEventRequest.event_id`).
pub const EVENT_ID_CHARS_MAX: usize = 128;
/// Longest subscription id in characters, from the contract (`CreateSubscriptionRequest.subscription_id`).
pub const SUBSCRIPTION_ID_CHARS_MAX: usize = 63;

/// Why a string is not an identifier or a resource name; shown to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(&'static str);

impl IdError {
    /// An error with this description.
    pub(super) const fn new(description: &'static str) -> Self {
        Self(description)
    }
}

/// An account: the tenant of every resource. Positive, but for [`AccountId::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(i64);

impl AccountId {
    /// Stands for all accounts: has the sinks of notices about any account, and their notices. Callers name it
    /// `accounts/-`, and only where they name a sink.
    pub const ALL: Self = Self(0);

    /// The account with this id. Errors unless it is positive.
    pub const fn new(number: i64) -> Result<Self, IdError> {
        if number > 0 { Ok(Self(number)) } else { Err(IdError("must be a positive integer")) }
    }

    /// The account with this id on disk: also [`AccountId::ALL`].
    pub const fn stored(number: i64) -> Result<Self, IdError> {
        if number == Self::ALL.0 { Ok(Self::ALL) } else { Self::new(number) }
    }

    /// The scope of a caller that may name it.
    pub fn scope(self) -> AccountScope {
        if self == Self::ALL { AccountScope::All } else { AccountScope::One(self) }
    }

    /// The number, at least 1 but for [`AccountId::ALL`].
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL { f.write_str("-") } else { write!(f, "{}", self.0) }
    }
}

impl FromStr for AccountId {
    type Err = IdError;

    /// Parses the decimal form without sign or leading zeros, so that an account has only one name.
    fn from_str(text: &str) -> Result<Self, IdError> {
        const RULE: IdError = IdError("must be a positive integer without leading zeros");
        if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(RULE);
        }
        text.parse().ok().and_then(|n| Self::new(n).ok()).ok_or(RULE)
    }
}

/// The last part of a subscription's name: `^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`. The sinks of notices are stored
/// beside subscriptions; their ids begin with a mark here, which no caller can send.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(Arc<str>);

/// Distinguishes the ids of sinks.
const SINK_MARK: char = '~';

impl SubscriptionId {
    /// The id that the server generates from a subscription's uid.
    pub fn made_from(uid: Uuid) -> Self {
        Self(format!("s{}", uid.simple()).into())
    }

    /// The id of the sink with this id.
    #[must_use]
    pub fn of_sink(&self) -> Self {
        Self(format!("{SINK_MARK}{}", self.0).into())
    }

    /// The id of a sink as in its name; `None` if it is a subscription's.
    fn sink(&self) -> Option<&str> {
        self.0.strip_prefix(SINK_MARK)
    }

    /// A bound that sorts before every id; not a valid id itself.
    pub fn lowest() -> Self {
        Self("".into())
    }

    /// The id as in resource names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SubscriptionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = text.len() <= SUBSCRIPTION_ID_CHARS_MAX
            && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && text.bytes().all(inner)
            && !text.ends_with('-');
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(IdError("must match ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"))
        }
    }
}

/// The last part of an event's name: 1 to 128 characters of `[A-Za-z0-9._~-]`, chosen by the publisher or the
/// server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Arc<str>);

impl EventId {
    /// The id as in resource names.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text is a valid id.
    pub fn fits(text: &str) -> bool {
        (1..=EVENT_ID_CHARS_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b))
    }
}

impl EventId {
    /// The id that the server generates for the event `seq`, stored at `time`: a UUIDv7 whose 74 free bits
    /// are the sequence number (50 bits) and randomness (24 bits). It sorts by time, is unique, and finds its
    /// event without an index ([`EventId::made_for`]).
    pub fn made(time: UnixMicros, seq: Seq, random: u32) -> Self {
        assert!(seq.0 < 1 << 50, "a store holds less than 2^50 events");
        let millis = u128::try_from(time.0.div_euclid(1000)).unwrap_or(0) & ((1 << 48) - 1);
        let free = (u128::from(seq.0) << 24) | u128::from(random & 0x00ff_ffff);
        let bits =
            (millis << 80) | (0x7 << 76) | ((free >> 62) << 64) | (0b10 << 62) | (free & ((1 << 62) - 1));
        Uuid::from_u128(bits).into()
    }

    /// The sequence number in this id, if it has the format of a generated one. A publisher may choose such
    /// an id too: compare it with the id of the event found.
    pub fn made_for(&self) -> Option<Seq> {
        let uuid = Uuid::try_parse(&self.0).ok().filter(|uuid| uuid.get_version_num() == 7)?;
        let bits = uuid.as_u128();
        let free = (((bits >> 64) & 0xfff) << 62) | (bits & ((1 << 62) - 1));
        u64::try_from(free >> 24).ok().map(Seq)
    }
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        let text: &str = uuid.hyphenated().encode_lower(&mut buffer);
        Self(text.into())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EventId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if Self::fits(text) {
            Ok(Self(text.into()))
        } else {
            Err(IdError("must be 1 to 128 characters of [A-Za-z0-9._~-]"))
        }
    }
}

/// The number of a subscription in the store. Never reused for another subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionKey(pub u64);

/// The sequence number of an event in the store. The first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// `accounts/{account}`, or `accounts/-` for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountScope {
    /// One account.
    One(AccountId),
    /// Every account.
    All,
}

impl AccountScope {
    /// Whether an account is in it.
    pub fn contains(self, account: AccountId) -> bool {
        match self {
            Self::One(one) => one == account,
            Self::All => true,
        }
    }
}

/// `accounts/{account}/subscriptions/{subscription}`, or the name of a sink: see [`NoticeSinkName`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionName {
    /// Its account.
    pub account: AccountId,
    /// Its id within the account.
    pub id: SubscriptionId,
}

impl SubscriptionName {
    /// Parses the name of a subscription or of a sink.
    pub fn parse_any(text: &str) -> Result<Self, IdError> {
        text.parse().or_else(|error| match text.contains("/noticeSinks/") {
            true => text.parse().map(|NoticeSinkName(name)| name),
            false => Err(error),
        })
    }

    /// Whether it names a sink.
    pub fn is_sink(&self) -> bool {
        self.id.sink().is_some()
    }
}

/// `accounts/{account}/noticeSinks/{notice_sink}`; for all accounts, the account is `-`. It names the
/// subscription as which the sink is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoticeSinkName(pub SubscriptionName);

/// `accounts/{account}/events/{event}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventName {
    /// Its account.
    pub account: AccountId,
    /// Its id within the account.
    pub id: EventId,
}

impl EventName {
    /// The same as `to_string`, in one allocation: called for every event and every attempt.
    pub fn to_text(&self) -> String {
        const DIGITS_MAX: usize = 19;
        let mut text = String::with_capacity("accounts//events/".len() + DIGITS_MAX + self.id.as_str().len());
        write!(text, "{self}").expect("a String grows as needed");
        text
    }
}

/// `accounts/{account}/subscriptions/{subscription}/deliveries/{event}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryName {
    /// Its subscription.
    pub subscription: SubscriptionName,
    /// Its event.
    pub event: EventId,
}

const ACCOUNT_FORM: IdError = IdError("must be accounts/{account}, the account being a positive integer");
const ACCOUNT_PART: IdError = IdError("must have a positive integer without leading zeros as the account");
const SUBSCRIPTION_PART: IdError =
    IdError("must have a subscription that matches ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$");
const EVENT_PART: IdError = IdError("must have an event of 1 to 128 characters of [A-Za-z0-9._~-]");
const SUBSCRIPTION_FORM: IdError = IdError("must be accounts/{account}/subscriptions/{subscription}");
const SINK_PART: IdError = IdError("must have a sink that matches ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$");
const SINK_FORM: IdError = IdError("must be accounts/{account}/noticeSinks/{notice_sink}");
const EVENT_FORM: IdError = IdError("must be accounts/{account}/events/{event}");
const DELIVERY_FORM: IdError =
    IdError("must be accounts/{account}/subscriptions/{subscription}/deliveries/{event}");

/// A part of a name, or the rule of the name that it breaks.
fn part<T: FromStr>(text: &str, rule: IdError) -> Result<T, IdError> {
    text.parse().map_err(|_| rule)
}

impl FromStr for AccountScope {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.strip_prefix("accounts/").ok_or(ACCOUNT_FORM)? {
            "-" => Ok(Self::All),
            id if id.contains('/') => Err(ACCOUNT_FORM),
            id => part(id, ACCOUNT_PART).map(Self::One),
        }
    }
}

/// Parses `accounts/{account}`; `-` is not allowed.
pub fn parse_account_name(text: &str) -> Result<AccountId, IdError> {
    match text.parse()? {
        AccountScope::One(account) => Ok(account),
        AccountScope::All => Err(ACCOUNT_FORM),
    }
}

impl FromStr for SubscriptionName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("accounts"), Some(account), Some("subscriptions"), Some(id), None) => {
                Ok(Self { account: part(account, ACCOUNT_PART)?, id: part(id, SUBSCRIPTION_PART)? })
            }
            _ => Err(SUBSCRIPTION_FORM),
        }
    }
}

impl FromStr for NoticeSinkName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (account, id) = text.split_once("/noticeSinks/").ok_or(SINK_FORM)?;
        let account = match account.parse().map_err(|_| SINK_FORM)? {
            AccountScope::All => AccountId::ALL,
            AccountScope::One(account) => account,
        };
        Ok(Self(SubscriptionName { account, id: part::<SubscriptionId>(id, SINK_PART)?.of_sink() }))
    }
}

impl FromStr for EventName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("accounts"), Some(account), Some("events"), Some(id), None) => {
                Ok(Self { account: part(account, ACCOUNT_PART)?, id: part(id, EVENT_PART)? })
            }
            _ => Err(EVENT_FORM),
        }
    }
}

impl FromStr for DeliveryName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (subscription, event) = text.split_once("/deliveries/").ok_or(DELIVERY_FORM)?;
        if event.contains('/') {
            return Err(DELIVERY_FORM);
        }
        let subscription = SubscriptionName::parse_any(subscription)
            .map_err(|e| if e == SUBSCRIPTION_FORM { DELIVERY_FORM } else { e })?;
        Ok(Self { subscription, event: part(event, EVENT_PART)? })
    }
}

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id.sink() {
            None => write!(f, "accounts/{}/subscriptions/{}", self.account, self.id),
            Some(id) => write!(f, "accounts/{}/noticeSinks/{id}", self.account),
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accounts/{}/events/{}", self.account, self.id)
    }
}

impl fmt::Display for DeliveryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/deliveries/{}", self.subscription, self.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were_written() {
        for name in ["accounts/1/subscriptions/a", "accounts/9223372036854775807/subscriptions/a-0"] {
            assert_eq!(name.parse::<SubscriptionName>().unwrap().to_string(), name);
        }
        for name in ["accounts/1/events/-", "accounts/1/events/A.b_c~d-1"] {
            assert_eq!(name.parse::<EventName>().unwrap().to_string(), name);
        }
        let name = "accounts/7/subscriptions/crm/deliveries/e.1";
        assert_eq!(name.parse::<DeliveryName>().unwrap().to_string(), name);
    }

    #[test]
    fn a_rule_is_about_the_id_or_about_the_name_that_has_it() {
        let id = "A".parse::<SubscriptionId>().unwrap_err().to_string();
        assert_eq!(id, "must match ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$");
        let name = "accounts/1/subscriptions/A".parse::<SubscriptionName>().unwrap_err().to_string();
        assert_eq!(name, "must have a subscription that matches ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$");
        let account = "accounts/0/events/e".parse::<EventName>().unwrap_err().to_string();
        assert_eq!(account, "must have a positive integer without leading zeros as the account");
    }

    #[test]
    fn an_account_has_one_spelling() {
        for text in ["", "0", "01", "-1", "+1", "1 ", "9223372036854775808", "1/2", "x", "１"] {
            assert!(text.parse::<AccountId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn subscription_ids_keep_to_the_pattern() {
        let long = format!("a{}", "b".repeat(SUBSCRIPTION_ID_CHARS_MAX - 1));
        for text in ["a", "a1", "a-b", &long] {
            assert!(text.parse::<SubscriptionId>().is_ok(), "{text:?} was refused");
        }
        for text in ["", "A", "1a", "-a", "a-", "a_b", "a.b", "ä", &format!("{long}b")] {
            assert!(text.parse::<SubscriptionId>().is_err(), "{text:?} was accepted");
        }
        assert!(SubscriptionId::made_from(Uuid::nil()).as_str().parse::<SubscriptionId>().is_ok());
    }

    #[test]
    fn a_generated_event_id_is_a_uuid_v7_with_its_sequence_number() {
        for seq in [1, 255, (1 << 38) - 1, 1 << 38, (1 << 50) - 1] {
            let id = EventId::made(UnixMicros(1_700_000_000_123_456), Seq(seq), u32::MAX);
            let uuid: Uuid = id.as_str().parse().unwrap();
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
            assert_eq!(uuid.get_timestamp().unwrap().to_unix(), (1_700_000_000, 123_000_000));
            assert_eq!(id.made_for(), Some(Seq(seq)));
        }
        assert_eq!("order-17".parse::<EventId>().unwrap().made_for(), None);
    }

    #[test]
    fn generated_event_ids_sort_as_their_events() {
        let ids: Vec<_> = (1..2000)
            .map(|n: u32| EventId::made(UnixMicros(i64::from(n) / 7 * 1000), Seq(n.into()), 7))
            .collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn a_sink_has_a_name_of_its_own_and_no_subscription_can_have_it() {
        for name in ["accounts/7/noticeSinks/ops", "accounts/-/noticeSinks/a-0"] {
            let NoticeSinkName(parsed) = name.parse().unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.is_sink()), (name, true));
            assert_eq!(SubscriptionName::parse_any(name).as_ref(), Ok(&parsed));
            assert!(
                name.parse::<SubscriptionName>().is_err()
                    && parsed.id.as_str().parse::<SubscriptionId>().is_err()
            );
            let delivery = format!("{name}/deliveries/e.1");
            assert_eq!(delivery.parse::<DeliveryName>().unwrap().to_string(), delivery);
        }
        assert!(!"accounts/7/subscriptions/ops".parse::<SubscriptionName>().unwrap().is_sink());
        for text in [
            "accounts/0/noticeSinks/a",
            "accounts/1/noticeSinks/~a",
            "accounts/1/noticeSinks/",
            "x/noticeSinks/a",
        ] {
            assert!(text.parse::<NoticeSinkName>().is_err(), "{text:?} was accepted");
        }
        let error = SubscriptionName::parse_any("accounts/1/subscription/a").unwrap_err();
        assert_eq!(error, SUBSCRIPTION_FORM);
    }

    #[test]
    fn other_names_are_refused_with_the_form_that_is_expected() {
        for text in [
            "",
            "accounts/1",
            "accounts/1/subscriptions/a/b",
            "accounts/-/subscriptions/a",
            "/accounts/1/subscriptions/a",
        ] {
            assert!(text.parse::<SubscriptionName>().is_err(), "{text:?} was accepted");
        }
        for text in
            ["accounts/1/events/", "accounts/1/events/a b", "accounts/1/events/a/b", "accounts/1/event/a"]
        {
            assert!(text.parse::<EventName>().is_err(), "{text:?} was accepted");
        }
        let error = "accounts/1/events/x".parse::<DeliveryName>().unwrap_err();
        assert_eq!(error, DELIVERY_FORM);
    }
}
