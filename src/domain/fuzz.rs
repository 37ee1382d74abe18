//! Fuzz targets of the domain: responses, names, keys, TLS options and secrets.

use std::{fmt::Display, str::FromStr, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use rand::{SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::{
    delivery::{Attempt, DeliveryState, ERROR_BYTES_KEPT},
    egress::{HostPattern, Proxy},
    ids::{
        AccountId, DeliveryName, EventId, EventName, Seq, SubscriptionId, SubscriptionName,
        parse_account_name,
    },
    payload_format::PayloadFormat,
    response,
    retry::{RetryPolicy, RetryPolicyError},
    seal::{self, SealingKey, SealingKeys},
    secret::Secret,
    signature,
    subscription::{TlsOptions, TlsProfile},
    time::UnixMicros,
    webhook_headers,
};

/// A response of a receiver: for any status, headers and body, the excerpts that are kept are bounded, and so
/// is the wait that it asks for.
pub fn response(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<16>() else { return };
    let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let now = UnixMicros(i64::from_le_bytes(*head.first_chunk().expect("the head has 16 bytes")));
    let status = StatusCode::from_u16(100 + number(8) % 900).expect("it is from 100 to 999");

    let kept = response::excerpt(rest, head[10] & 1 == 1, usize::from(number(8)));
    assert!(kept.len() <= usize::from(number(8)) && !kept.contains('\0'));
    let fitted = response::fit_error(String::from_utf8_lossy(rest).into_owned());
    assert!(fitted.len() <= ERROR_BYTES_KEPT && !fitted.contains(char::is_control));
    assert_eq!(response::fit_error(fitted.clone()), fitted, "a text that fits is not changed");

    let header = HeaderValue::from_bytes(rest).ok();
    let text = response::status_text(status, header.as_ref());
    assert!(text.len() <= ERROR_BYTES_KEPT && !text.contains(char::is_control));
    assert!(!text.contains(['?', '#']), "a query may hold secrets");

    let retry_after = header.and_then(|value| response::parse_retry_after(&value, now));
    assert!(retry_after.is_none_or(|wait| wait <= response::RETRY_AFTER_READ_MAX));
    let waits = [11, 13].map(|at| Duration::from_millis(number(at).into()));
    let policy = RetryPolicy::try_new(u32::from(head[15] % 64), waits[0], waits[1]);
    match policy {
        Ok(policy) => check_wait(policy, status, retry_after, now, u32::from(head[15])),
        Err(error) => assert!(error.to_string().starts_with("must") && is_of(error), "{error}"),
    }
}

fn is_of(error: RetryPolicyError) -> bool {
    ["max_attempts", "min_backoff", "max_backoff"].contains(&error.field())
}

fn check_wait(
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
        outcome: response::classify(status),
        http_status: status.as_u16(),
        error: String::new(),
        response_body: String::new(),
        retry_after,
        resent: 0,
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

/// A resource name or an id: each has one spelling, and a name is of one kind.
pub fn names(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let account = parse_account_name(text).ok();
    assert!(account.is_none_or(|account| format!("accounts/{account}") == text));
    let event: Option<EventName> = parse(text);
    assert!(event.as_ref().is_none_or(|name| name.to_text() == text));
    let kinds = [
        account.is_some(),
        event.is_some(),
        parse::<SubscriptionName>(text).is_some(),
        parse::<DeliveryName>(text).is_some(),
    ];
    assert!(kinds.iter().filter(|is| **is).count() <= 1, "{text:?} is a name of several kinds");

    parse::<AccountId>(text);
    parse::<SubscriptionId>(text);
    if let Some(id) = parse::<EventId>(text)
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
        assert_eq!(parse::<EventId>(id.as_str()), Some(id));
    }
}

/// Parses a text; the value must print as the text.
fn parse<T: FromStr + Display>(text: &str) -> Option<T> {
    let parsed: T = text.parse().ok()?;
    assert_eq!(parsed.to_string(), text);
    Some(parsed)
}

/// Sealing keys, a sealed secret, and a proxy: none of them is printed, and none is accepted in place of
/// another.
pub fn keys(data: &[u8]) {
    let context = seal::SealContext { owner: Uuid::nil(), field: "signing_secret" };
    let given = SealingKeys::one(SealingKey::draw(&mut StdRng::seed_from_u64(1)));
    assert!(given.open(data, context).is_err(), "it was not sealed");
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(keys) = SealingKeys::parse(text) {
        let secret = Secret::new("a secret");
        let sealed = keys.seal(&secret, context, &mut StdRng::seed_from_u64(2));
        assert_eq!(keys.open(&sealed, context).as_ref(), Ok(&secret));
        assert!(given.open(&sealed, context).is_err(), "a different key opens it");
        assert!(keys.all().iter().all(|key| !format!("{keys:?}").contains(key.to_text().expose())));
    }
    if let Ok(proxy) = Proxy::parse(text) {
        let shown = format!("{proxy}{proxy:?}");
        let secret = proxy.authorization().map(|value| value.expose().to_owned());
        assert!(secret.is_none_or(|secret| !shown.contains(&secret)), "a proxy's credentials are printed");
    }
    if let Some(pattern) = HostPattern::parse(text) {
        assert_eq!(HostPattern::parse(&pattern.to_string()), Some(pattern));
    }
}

/// TLS options, separated by zero bytes.
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
    assert_eq!(usable, options.violations().is_empty(), "options without violations can be used");
    // A part of the key may be a word of every output; that is no leak.
    let other =
        TlsOptions { client_key: options.client_key.as_ref().map(|_| Secret::new("x")), ..options.clone() };
    let shown = |options: &TlsOptions| {
        format!("{:?}{options:?}{:?}", TlsProfile::new(options.clone()), options.violations())
    };
    let key = options.client_key.as_ref().map(Secret::expose).filter(|key| key.len() > 16);
    let leaked = key.is_some_and(|key| shown(&options).contains(key) && !shown(&other).contains(key));
    assert!(!leaked, "a key is printed");
}

/// A signing secret in the first line, and headers of a subscription in the others: an accepted secret can
/// sign, and accepted headers can be sent.
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
            let sent = HeaderValue::from_str(value).expect("it was accepted");
            assert_eq!(sent.to_str().ok(), Some(value));
            assert!(!value.contains(['\r', '\n', '\0']));
            assert!(
                !webhook_headers::plain_headers(PayloadFormat::Documented).contains_key(name),
                "{name} is the server's own"
            );
        }
    }
}
