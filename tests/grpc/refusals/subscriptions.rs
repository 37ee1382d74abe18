//! Refusals of SubscriptionService.

use prost_types::Duration;
use tidings::proto::v1;
use tonic::Code::{Aborted, FailedPrecondition};

use super::call::*;
use crate::support::{client::update_request, in_process::*};

pub fn subscriptions() -> Vec<Line> {
    let too_many_headers = |subscription: &mut v1::Subscription| {
        subscription.headers = (0..33).map(|n| (format!("x-{n}"), "v".into())).collect();
    };
    let long_annotations = |subscription: &mut v1::Subscription| {
        subscription.annotations = (0..17).map(|n| (n.to_string(), "x".repeat(1000))).collect();
    };
    vec![
        required_of("no parent", |r| r.parent.clear(), "parent"),
        invalid_of("a parent of another form", |r| r.parent = "account/1".into(), "parent"),
        invalid_of("an account of zero", |r| r.parent = "accounts/0".into(), "parent"),
        invalid_of("an account with zeros in front", |r| r.parent = "accounts/01".into(), "parent"),
        invalid_of("all accounts as a parent", |r| r.parent = "accounts/-".into(), "parent"),
        required_of("no subscription", |r| r.subscription = None, "subscription"),
        invalid_of("an id in capitals", |r| r.subscription_id = "New".into(), "subscription_id"),
        invalid_of("an id that ends in a dash", |r| r.subscription_id = "new-".into(), "subscription_id"),
        invalid_of("an id of 64 characters", |r| r.subscription_id = "n".repeat(64), "subscription_id"),
        invalid_of("a request id that is no UUID", |r| r.request_id = "once".into(), "request_id"),
        invalid_of("a secret of 15 characters", |r| r.signing_secret = "x".repeat(15), "signing_secret"),
        invalid_of("a secret of 257 characters", |r| r.signing_secret = "x".repeat(257), "signing_secret"),
        invalid_of("a secret that is not ASCII", |r| r.signing_secret = "ä".repeat(20), "signing_secret"),
        exists_of("an id that is taken", |r| r.subscription_id = "crm".into(), "subscription_id"),
        exists("a URL that is taken", url("https://crm.example.com/"), &["subscription.url"]),
        exists("the same URL in another spelling", url("HTTPS://CRM.example.com:443"), &["subscription.url"]),
        exists_of(
            "a taken id where it is only validated",
            |r| (r.subscription_id, r.validate_only) = ("crm".into(), true),
            "subscription_id",
        ),
        required("no URL", url(""), &["subscription.url"]),
        invalid("a relative URL", url("/hook"), &["subscription.url"]),
        invalid("a URL of another scheme", url("ftp://example.com/"), &["subscription.url"]),
        invalid("a URL without a host", url("http://"), &["subscription.url"]),
        invalid("a URL with an empty user", url("http://@example.com/"), &["subscription.url"]),
        invalid("a URL with two users", url("http://a@b@example.com/"), &["subscription.url"]),
        invalid(
            "credentials in a URL and in a header",
            spoilt(|s| {
                s.url = "http://user:pass@example.com/".into();
                s.headers.insert("Authorization".into(), "Bearer x".into());
            }),
            &["subscription.url"],
        ),
        invalid("a URL with a fragment", url("http://example.com/#here"), &["subscription.url"]),
        invalid("a URL with a space", url("http://example.com/a b"), &["subscription.url"]),
        invalid("a URL with a line break", url("http://example.com/\r\nX: y"), &["subscription.url"]),
        invalid(
            "a URL of 2049 bytes",
            url(&format!("http://e.co/{}", "x".repeat(2037))),
            &["subscription.url"],
        ),
        invalid("a URL with port 0", url("http://example.com:0/"), &["subscription.url"]),
        invalid("a URL with a private address", url("http://10.0.0.1/"), &["subscription.url"]),
        invalid("a URL with a private address in IPv6", url("http://[::ffff:a00:1]/"), &["subscription.url"]),
        required_in("no event types", |s| s.event_types.clear(), "event_types"),
        invalid_in("an event type twice", |s| s.event_types = vec![4, 4], "event_types[1]"),
        invalid_in("an unspecified event type", |s| s.event_types = vec![4, 0], "event_types[1]"),
        invalid_in("an unknown event type", |s| s.event_types = vec![99], "event_types[0]"),
        invalid_in("an inbox of zero", |s| s.inbox_ids = vec![1, 0], "inbox_ids[1]"),
        invalid_in("an inbox twice", |s| s.inbox_ids = vec![7, 7], "inbox_ids[1]"),
        invalid_in("too many inboxes", |s| s.inbox_ids = (1..1002).collect(), "inbox_ids"),
        invalid_in("a name of 64 characters", |s| s.display_name = "ä".repeat(64), "display_name"),
        invalid_in("a name with a line break", |s| s.display_name = "a\nb".into(), "display_name"),
        invalid_in("an unknown form", |s| s.payload_format = 9, "payload_format"),
        invalid("a header name with a space", header("x y", "v"), &["subscription.headers[\"x y\"]"]),
        invalid("an empty header name", header("", "v"), &["subscription.headers[\"\"]"]),
        invalid(
            "a reserved header",
            header("Webhook-Signature", "v"),
            &["subscription.headers[\"Webhook-Signature\"]"],
        ),
        invalid(
            "a header of the connection",
            header("Transfer-Encoding", "v"),
            &["subscription.headers[\"Transfer-Encoding\"]"],
        ),
        invalid(
            "a header value with a line break",
            header("x-a", "v\r\nx-b: w"),
            &["subscription.headers[\"x-a\"]"],
        ),
        invalid("a header value that is not ASCII", header("x-a", "ä"), &["subscription.headers[\"x-a\"]"]),
        invalid(
            "a header value of three stars in a creation",
            header("x-a", "***"),
            &["subscription.headers[\"x-a\"]"],
        ),
        invalid_in(
            "a header twice in two cases",
            |s| s.headers = [("x-a".into(), "1".into()), ("X-A".into(), "2".into())].into(),
            "headers[\"x-a\"]",
        ),
        invalid_in("too many headers", too_many_headers, "headers"),
        invalid("51 attempts", retry(51, None, None), &["subscription.retry_policy.max_attempts"]),
        invalid("attempts below zero", retry(-1, None, None), &["subscription.retry_policy.max_attempts"]),
        invalid("a negative wait", retry(0, Some(-1), None), &["subscription.retry_policy.min_backoff"]),
        invalid(
            "a wait of a year",
            retry(0, None, Some(31_536_000)),
            &["subscription.retry_policy.max_backoff"],
        ),
        invalid(
            "a longest wait below the first",
            retry(0, Some(9), Some(8)),
            &["subscription.retry_policy.max_backoff"],
        ),
        invalid(
            "a longest wait below the server's first",
            retry(0, None, Some(4)),
            &["subscription.retry_policy.max_backoff"],
        ),
        invalid_in(
            "a timeout of a millisecond",
            |s| s.timeout = Some(Duration { seconds: 0, nanos: 1_000_000 }),
            "timeout",
        ),
        invalid_in(
            "a timeout of 31 seconds",
            |s| s.timeout = Some(Duration { seconds: 31, nanos: 0 }),
            "timeout",
        ),
        invalid_in(
            "a timeout of two signs",
            |s| s.timeout = Some(Duration { seconds: 5, nanos: -1 }),
            "timeout",
        ),
        invalid_in("257 in flight", |s| s.max_in_flight = 257, "max_in_flight"),
        invalid_in("fewer than none in flight", |s| s.max_in_flight = -1, "max_in_flight"),
        invalid_in(
            "too many annotations",
            |s| s.annotations = (0..65).map(|n| (n.to_string(), String::new())).collect(),
            "annotations",
        ),
        invalid_in(
            "an annotation without a key",
            |s| drop(s.annotations.insert(String::new(), "v".into())),
            "annotations",
        ),
        invalid_in(
            "an annotation of 1025 bytes",
            |s| drop(s.annotations.insert("k".into(), "x".repeat(1025))),
            "annotations[\"k\"]",
        ),
        invalid_in("annotations of more than 16 KiB", long_annotations, "annotations"),
        invalid(
            "several faults at once",
            created(|r| {
                r.parent = "x".into();
                r.subscription_id = "X".into();
                r.subscription = Some(v1::Subscription::default());
            }),
            &["parent", "subscription.url", "subscription.event_types", "subscription_id"],
        ),
        required(
            "several required fields at once",
            created(|r| r.subscription = Some(v1::Subscription::default())),
            &["subscription.url", "subscription.event_types"],
        ),
        required("no name to get", Call::GetSubscription(""), &["name"]),
        invalid("a name of another kind", Call::GetSubscription("accounts/1/events/e"), &["name"]),
        no_subscription("a subscription that is not there", Call::GetSubscription(NO_SUBSCRIPTION)),
        no_subscription("one of another account", Call::GetSubscription("accounts/2/subscriptions/crm")),
        no_subscription("a pause of nothing", Call::Pause(NO_SUBSCRIPTION)),
        required("a pause without a name", Call::Pause(""), &["name"]),
        no_subscription("a resumption of nothing", Call::Resume(NO_SUBSCRIPTION)),
        no_subscription(
            "a test of nothing",
            Call::Test(v1::TestSubscriptionRequest { name: NO_SUBSCRIPTION.into(), event_type: 0 }),
        ),
        required("a rotation of no name", rotation("", None), &["name"]),
        no_subscription("a rotation of nothing", rotation(NO_SUBSCRIPTION, None)),
        invalid("an overlap before now", rotation(CRM, Some((-1, 0))), &["overlap"]),
        invalid("an overlap of more than 30 days", rotation(CRM, Some((2_592_000, 1))), &["overlap"]),
        invalid("an overlap with too many nanos", rotation(CRM, Some((0, 1_000_000_000))), &["overlap"]),
        invalid(
            "a rotation of what is no name, with a bad overlap",
            rotation("crm", Some((-1, 0))),
            &["name", "overlap"],
        ),
        invalid(
            "a test with an unknown type",
            Call::Test(v1::TestSubscriptionRequest { name: CRM.into(), event_type: 99 }),
            &["event_type"],
        ),
    ]
}

pub fn changes() -> Vec<Line> {
    let delete = |name: &str, etag: &str| {
        Call::Delete(v1::DeleteSubscriptionRequest { name: name.into(), etag: etag.into(), force: false })
    };
    vec![
        required(
            "an update of nothing",
            Call::Update(v1::UpdateSubscriptionRequest::default()),
            &["subscription"],
        ),
        required("an update without a name", update(&[], |s| s.name.clear()), &["subscription.name"]),
        no_subscription("an update of what is not there", update(&[], |s| s.name = NO_SUBSCRIPTION.into())),
        invalid(
            "a mask of an unknown field",
            update(&["url", "nonsense"], |_| ()),
            &["update_mask.paths[1]"],
        ),
        invalid("a mask of an output only field", update(&["state"], |_| ()), &["update_mask.paths[0]"]),
        invalid("a mask of the name", update(&["name"], |_| ()), &["update_mask.paths[0]"]),
        invalid("a mask of one header", update(&["headers.x-a"], |_| ()), &["update_mask.paths[0]"]),
        invalid("a mask of everything and more", update(&["*", "url"], |_| ()), &["update_mask.paths[0]"]),
        invalid(
            "a mask that starts a level too high",
            update(&["subscription.url"], |_| ()),
            &["update_mask.paths[0]"],
        ),
        required("a required field unset by its mask", update(&["url"], |_| ()), &["subscription.url"]),
        required(
            "required fields unset by a star",
            update(&["*"], |_| ()),
            &["subscription.url", "subscription.event_types"],
        ),
        invalid(
            "a bad URL in an update",
            update(&["url"], |s| s.url = "http://:@h/".into()),
            &["subscription.url"],
        ),
        invalid(
            "another URL, with a private address",
            update(&["url"], |s| s.url = "http://10.0.0.1/".into()),
            &["subscription.url"],
        ),
        invalid(
            "a bad part of the retry policy",
            update(&["retryPolicy.maxAttempts"], |s| {
                s.retry_policy = Some(v1::RetryPolicy { max_attempts: 51, ..Default::default() });
            }),
            &["subscription.retry_policy.max_attempts"],
        ),
        invalid(
            "three stars for a header that is not stored",
            update(&["headers"], |s| drop(s.headers.insert("x-new".into(), "***".into()))),
            &["subscription.headers[\"x-new\"]"],
        ),
        invalid(
            "a success that is given up on, and one status twice",
            update(&["retry_policy.give_up_statuses"], |s| {
                let give_up_statuses = ["404", "200", "404", "410"].map(str::to_owned).into();
                s.retry_policy = Some(v1::RetryPolicy { give_up_statuses, ..Default::default() });
            }),
            &[
                "subscription.retry_policy.give_up_statuses[1]",
                "subscription.retry_policy.give_up_statuses[2]",
                "subscription.retry_policy.give_up_statuses[3]",
            ],
        ),
        exists(
            "the URL of another subscription",
            update(&["url"], |s| s.url = "https://other.example.com/".into()),
            &["subscription.url"],
        ),
        line(
            "an update with another etag",
            update(&["display_name"], |s| (s.etag, s.display_name) = ("\"x\"".into(), "new".into())),
            Aborted,
            "ETAG_MISMATCH",
            &[],
        ),
        line(
            "an update that changes nothing with another etag",
            update(&[], |s| s.etag = "x".into()),
            Aborted,
            "ETAG_MISMATCH",
            &[],
        ),
        required("a deletion without a name", delete("", ""), &["name"]),
        no_subscription("a deletion of what is not there", delete(NO_SUBSCRIPTION, "")),
        line("a deletion with another etag", delete(CRM, "\"x\""), Aborted, "ETAG_MISMATCH", &[]),
        line(
            "a deletion of what is still owed",
            delete(CRM, ""),
            FailedPrecondition,
            "UNDELIVERED_EVENTS",
            &[],
        ),
    ]
}

fn new_subscription() -> v1::CreateSubscriptionRequest {
    create("new", "https://new.example.com/")
}

/// The creation of a valid subscription after a change by `spoil`.
pub fn spoilt(spoil: impl FnOnce(&mut v1::Subscription)) -> Call {
    let mut request = new_subscription();
    spoil(request.subscription.as_mut().expect("it is set"));
    Call::Create(request)
}

fn required_in(what: &'static str, spoil: impl FnOnce(&mut v1::Subscription), field: &str) -> Line {
    required(what, spoilt(spoil), &[&format!("subscription.{field}")])
}

fn invalid_in(what: &'static str, spoil: impl FnOnce(&mut v1::Subscription), field: &str) -> Line {
    invalid(what, spoilt(spoil), &[&format!("subscription.{field}")])
}

fn url(url: &str) -> Call {
    spoilt(|subscription| subscription.url = url.into())
}

fn header(name: &str, value: &str) -> Call {
    spoilt(|subscription| drop(subscription.headers.insert(name.into(), value.into())))
}

fn retry(max_attempts: i32, min_backoff: Option<i64>, max_backoff: Option<i64>) -> Call {
    let seconds = |seconds| Duration { seconds, nanos: 0 };
    let (min_backoff, max_backoff) = (min_backoff.map(seconds), max_backoff.map(seconds));
    spoilt(|subscription| {
        subscription.retry_policy =
            Some(v1::RetryPolicy { max_attempts, min_backoff, max_backoff, ..Default::default() });
    })
}

fn rotation(name: &str, overlap: Option<(i64, i32)>) -> Call {
    let overlap = overlap.map(|(seconds, nanos)| Duration { seconds, nanos });
    Call::Rotate(v1::RotateSigningSecretRequest { name: name.into(), overlap, ..Default::default() })
}

fn created(change: impl FnOnce(&mut v1::CreateSubscriptionRequest)) -> Call {
    let mut request = new_subscription();
    change(&mut request);
    Call::Create(request)
}

fn required_of(
    what: &'static str,
    change: impl FnOnce(&mut v1::CreateSubscriptionRequest),
    field: &str,
) -> Line {
    required(what, created(change), &[field])
}

fn invalid_of(
    what: &'static str,
    change: impl FnOnce(&mut v1::CreateSubscriptionRequest),
    field: &str,
) -> Line {
    invalid(what, created(change), &[field])
}

fn exists_of(
    what: &'static str,
    change: impl FnOnce(&mut v1::CreateSubscriptionRequest),
    field: &str,
) -> Line {
    exists(what, created(change), &[field])
}

/// An update of the stored subscription by the fields that `change` sets, with a mask of `paths`.
pub fn update(paths: &[&str], change: impl FnOnce(&mut v1::Subscription)) -> Call {
    let mut subscription = v1::Subscription { name: CRM.into(), ..Default::default() };
    change(&mut subscription);
    Call::Update(update_request(subscription, paths))
}
