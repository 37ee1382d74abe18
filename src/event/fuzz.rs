//! What fuzzing checks of events, answers, names and secrets.

use std::{
    collections::HashSet,
    fmt::{self, Display},
    str::FromStr,
    time::Duration,
};

use http::{HeaderName, HeaderValue, StatusCode};
use prost::Message;
use rand::{SeedableRng, rngs::StdRng};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use uuid::Uuid;

use super::{EventContent, check, parse, render};
use crate::{
    domain::{
        delivery::{Attempt, DeliveryState, ERROR_BYTES_KEPT, RESPONSE_BYTES_KEPT},
        egress::{HostPattern, Proxy},
        event_routing::OrderTag,
        ids::{
            AccountId, DeliveryName, EventId, EventName, Seq, SubscriptionId, SubscriptionName,
            parse_account_name,
        },
        payload_format::PayloadFormat,
        response as receiver,
        retry::{RetryPolicy, RetryPolicyError},
        seal::{self, SealingKey, SealingKeys},
        secret::Secret,
        signature,
        subscription::{TlsOptions, TlsProfile},
        time::UnixMicros,
        webhook_headers,
    },
    proto::v1,
};

/// An event of a publisher: what passes the check is complete, is stored as it is, and has one body in each form, which is sound JSON.
pub fn event(data: &[u8]) {
    let account = AccountId::new(1).expect("one is positive");
    let Ok(mut event) = v1::Event::decode(data) else { return };
    let Ok(facts) = check(&mut event, account, "event") else { return };

    let mut again = event.clone();
    assert_eq!(check(&mut again, account, "event").as_ref(), Ok(&facts), "a second check says the same");
    assert_eq!(again, event, "a second check finds nothing to complete");

    let content = EventContent::from(&event);
    assert_eq!(content.event_type, facts.event_type);
    assert_eq!(content.order_tag, OrderTag::from(facts.order_key));
    assert_eq!(content.decode(), event, "what is stored is the event");
    for format in PayloadFormat::all() {
        let body = render::render(&event, format);
        assert_eq!(content.body(format), body, "an event has one body");
        is_sound(&body);
    }
    comes_out_again(&content.body(PayloadFormat::Chatwoot), account);
}

/// A webhook of Chatwoot: what is taken is an event that passes the check as it is, and that comes out again.
pub fn import(data: &[u8]) {
    let account = AccountId::new(1).expect("one is positive");
    let Ok(event) = parse::read(data, account) else { return };
    let mut checked = event.clone();
    check(&mut checked, account, "event").expect("what was read was checked");
    assert_eq!(checked, event, "a second check finds nothing to complete");
    for format in PayloadFormat::all() {
        is_sound(&render::render(&event, format));
    }
    assert!(
        comes_out_again(&render::render(&event, PayloadFormat::Chatwoot), account),
        "what comes out can be read"
    );
}

/// Whether a body in Chatwoot's form can be read; as it is, it comes out again.
fn comes_out_again(body: &[u8], account: AccountId) -> bool {
    let read = parse::read(body, account);
    if let Ok(event) = &read {
        assert_eq!(render::render(event, PayloadFormat::Chatwoot), body, "what was read comes out as it was");
    }
    read.is_ok()
}

/// That a text is JSON, no object of which has a key twice: readers differ in which of the two they take.
pub(crate) fn is_sound(json: &[u8]) {
    if let Err(error) = serde_json::from_slice::<Sound>(json) {
        panic!("{error}: {}", String::from_utf8_lossy(json));
    }
}

/// JSON of any kind, no object of which has a key twice.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, Self)) = members.next_entry::<String, Self>()? {
            if let Some(twice) = keys.replace(key) {
                return Err(A::Error::custom(format_args!("the key {twice:?} is there twice")));
            }
        }
        Ok(self)
    }
}

/// A receiver's answer: whatever its status, its headers and its body are, what is kept of it has its bounds, and so has the wait that it
/// asks for.
pub fn answer(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<16>() else { return };
    let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let now = UnixMicros(i64::from_le_bytes(*head.first_chunk().expect("the head has 16 bytes")));
    let status = StatusCode::from_u16(100 + number(8) % 900).expect("it is from 100 to 999");

    let kept = receiver::excerpt(rest, head[10] & 1 == 1);
    assert!(kept.len() <= RESPONSE_BYTES_KEPT && !kept.contains('\0'));
    let fitted = receiver::fit_error(String::from_utf8_lossy(rest).into_owned());
    assert!(fitted.len() <= ERROR_BYTES_KEPT && !fitted.contains(char::is_control));
    assert_eq!(receiver::fit_error(fitted.clone()), fitted, "what fits stays as it is");

    let header = HeaderValue::from_bytes(rest).ok();
    let text = receiver::status_text(status, header.as_ref());
    assert!(text.len() <= ERROR_BYTES_KEPT && !text.contains(char::is_control));
    assert!(!text.contains(['?', '#']), "a query may hold secrets");

    let asked = header.and_then(|value| receiver::parse_retry_after(&value, now));
    assert!(asked.is_none_or(|wait| wait <= receiver::RETRY_AFTER_READ_MAX));
    let waits = [11, 13].map(|at| Duration::from_millis(number(at).into()));
    let policy = RetryPolicy::try_new(u32::from(head[15] % 64), waits[0], waits[1]);
    match policy {
        Ok(policy) => waits_as_long_as_it_may(policy, status, asked, now, u32::from(head[15])),
        Err(error) => assert!(error.to_string().starts_with("must") && is_of(error), "{error}"),
    }
}

fn is_of(error: RetryPolicyError) -> bool {
    ["max_attempts", "min_backoff", "max_backoff"].contains(&error.field())
}

fn waits_as_long_as_it_may(
    policy: RetryPolicy,
    status: StatusCode,
    retry_after: Option<Duration>,
    now: UnixMicros,
    attempts: u32,
) {
    let longest = Duration::from_hours(1);
    let attempt = Attempt {
        start_time: now,
        duration: Duration::ZERO,
        outcome: receiver::classify(status),
        http_status: status.as_u16(),
        error: String::new(),
        response_body: String::new(),
        retry_after,
        url: String::new(),
    };
    let random = || StdRng::seed_from_u64(u64::from(attempts));
    let next = policy.next_state(&attempt, attempts, now, longest, &mut random());
    assert_eq!(next, policy.next_state(&attempt, attempts, now, longest, &mut random()));
    if let DeliveryState::Retrying { due } = next {
        let asked = retry_after.unwrap_or_default().min(longest);
        let most = policy.backoff(attempts).max(asked);
        assert!(policy.backoff(attempts) <= policy.max_backoff);
        assert!(now.plus(asked) <= due && due <= now.plus(most), "{asked:?} {most:?} {now:?} {due:?}");
    }
    assert_eq!(status.is_success(), next == DeliveryState::Succeeded);
}

/// A resource name or an id: whoever is named has one spelling, and a name is of one kind.
pub fn names(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let account = parse_account_name(text).ok();
    assert!(account.is_none_or(|account| format!("accounts/{account}") == text));
    let event: Option<EventName> = same(text);
    assert!(event.as_ref().is_none_or(|name| name.to_text() == text));
    let kinds = [
        account.is_some(),
        event.is_some(),
        same::<SubscriptionName>(text).is_some(),
        same::<DeliveryName>(text).is_some(),
    ];
    assert!(kinds.iter().filter(|is| **is).count() <= 1, "{text:?} is a name of several kinds");

    same::<AccountId>(text);
    same::<SubscriptionId>(text);
    if let Some(id) = same::<EventId>(text)
        && let Some(seq) = id.made_for()
    {
        assert!(seq.0 < 1 << 50);
    }
    if let Some((time, rest)) = data.split_first_chunk::<8>()
        && let Some(seq) = rest.first_chunk::<8>()
    {
        let seq = Seq(u64::from_le_bytes(*seq) >> 14);
        let id = EventId::made(UnixMicros(i64::from_le_bytes(*time)), seq, u32::from(rest[0]));
        assert_eq!(id.made_for(), Some(seq));
        assert_eq!(same::<EventId>(id.as_str()), Some(id));
    }
}

/// What a text stands for, if it is one: it comes back as it was written.
fn same<T: FromStr + Display>(text: &str) -> Option<T> {
    let parsed: T = text.parse().ok()?;
    assert_eq!(parsed.to_string(), text);
    Some(parsed)
}

/// Keys that secrets are sealed with, a sealed secret, and a proxy: none of them is shown, and none is taken for another.
pub fn keys(data: &[u8]) {
    let place = seal::Place { owner: Uuid::nil(), field: "signing_secret" };
    let given = SealingKeys::one(SealingKey::draw(&mut StdRng::seed_from_u64(1)));
    assert!(given.open(data, place).is_err(), "nobody sealed it");
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(keys) = SealingKeys::parse(text) {
        let secret = Secret::new("a secret");
        let sealed = keys.seal(&secret, place, &mut StdRng::seed_from_u64(2));
        assert_eq!(keys.open(&sealed, place).as_ref(), Ok(&secret));
        assert!(given.open(&sealed, place).is_err(), "another key opens it");
        assert!(keys.all().iter().all(|key| !format!("{keys:?}").contains(key.to_text().expose())));
    }
    if let Ok(proxy) = Proxy::parse(text) {
        let shown = format!("{proxy}{proxy:?}");
        let secret = proxy.authorization().map(|value| value.expose().to_owned());
        assert!(secret.is_none_or(|secret| !shown.contains(&secret)), "how it is asked is shown");
    }
    if let Some(pattern) = HostPattern::parse(text) {
        assert_eq!(HostPattern::parse(&pattern.to_string()), Some(pattern));
    }
}

/// TLS options, each in a part of its own, with a zero byte in between.
pub fn tls(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut parts = text.split('\0').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let (server_name, ca_certificates, client_certificate) = (part(), part(), part());
    let client_key = Some(part()).filter(|key| !key.is_empty()).map(Secret::new);
    let options = TlsOptions { server_name, ca_certificates, client_certificate, client_key };
    if TlsProfile::new(options.clone()).is_none() {
        return;
    }
    let usable = options.name().is_ok() && options.authorities().is_ok() && options.identity().is_ok();
    assert_eq!(usable, options.violations().is_empty(), "what has no fault can be used");
    // What is shown with another key is not this key, but words that are there anyway.
    let other =
        TlsOptions { client_key: options.client_key.as_ref().map(|_| Secret::new("x")), ..options.clone() };
    let shown = |options: &TlsOptions| {
        format!("{:?}{options:?}{:?}", TlsProfile::new(options.clone()), options.violations())
    };
    let key = options.client_key.as_ref().map(Secret::expose).filter(|key| key.len() > 16);
    let leaked = key.is_some_and(|key| shown(&options).contains(key) && !shown(&other).contains(key));
    assert!(!leaked, "a key is shown");
}

/// A signing secret in the first line, and headers of a subscription's own in the others: what is taken can be signed with and sent.
pub fn secrets(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (secret, headers) = text.split_once('\n').unwrap_or((text, ""));
    if signature::check_secret(secret).is_ok() {
        let secret = Secret::new(secret);
        assert!(!format!("{secret:?}{secret}").contains(secret.expose()), "a secret is printed");
        let standard =
            signature::standard(&[secret.clone().into(), secret.clone().into()], Uuid::nil(), 1, data);
        let (one, other) = standard.split_once(' ').expect("two secrets sign twice");
        assert!(one == other && one.len() == "v1,".len() + 44 && one.starts_with("v1,"), "{standard}");
        let chatwoot = signature::chatwoot(&secret, 1, data);
        assert!(chatwoot.len() == "sha256=".len() + 64, "{chatwoot}");
    }
    for (name, value) in headers.split('\n').filter_map(|line| line.split_once(':')) {
        if webhook_headers::check_header(name, value).is_ok() {
            let lower = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
            assert_eq!(lower.ok(), HeaderName::from_bytes(name.as_bytes()).ok());
            let sent = HeaderValue::from_str(value).expect("it was taken");
            assert_eq!(sent.to_str().ok(), Some(value));
            assert!(!value.contains(['\r', '\n', '\0']));
            assert!(
                !webhook_headers::plain_headers(PayloadFormat::Documented).contains_key(name),
                "{name} is the server's own"
            );
        }
    }
}
