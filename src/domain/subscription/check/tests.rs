//! Settings that are accepted, and the violations of those that are not.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    domain::{give_up::GiveUpStatuses, rate_limit::RateLimit, secret::REDACTED, subscription::EventTypes},
    proto::v1::EventType,
};

const DEFAULTS: RetryPolicy = RetryPolicy {
    max_attempts: 12,
    min_backoff: Duration::from_secs(5),
    max_backoff: Duration::from_secs(6 * 3600),
    give_up: GiveUpStatuses::NONE,
};

fn message() -> v1::Subscription {
    v1::Subscription {
        url: "https://example.com/hook".into(),
        event_types: vec![EventType::MessageCreated.into()],
        ..Default::default()
    }
}

fn stored() -> Settings {
    let message = v1::Subscription { headers: BTreeMap::from([("X-Token".into(), "t".into())]), ..message() };
    check_new(&message, "subscription", DEFAULTS).unwrap()
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn mask(paths: &[&str]) -> Mask {
    Mask::parse(&paths.iter().map(ToString::to_string).collect::<Vec<_>>(), "update_mask").unwrap()
}

fn fields(violations: &FieldViolations) -> Vec<&str> {
    violations.iter().map(|violation| violation.field.as_str()).collect()
}

#[test]
fn all_event_types_are_those_that_a_message_names_or_every_one() {
    let all = v1::Subscription { event_types: Vec::new(), all_event_types: true, ..message() };
    let named = v1::Subscription { all_event_types: false, ..message() };
    let types_of = |settings: &Settings| settings.event_types.clone();
    let check = |message: &v1::Subscription| check_new(message, "s", DEFAULTS).map(|s| types_of(&s));
    assert_eq!(check(&all), Ok(EventTypes::All));
    assert_eq!(check(&named), Ok(vec![EventType::MessageCreated].into()));
    let both = v1::Subscription { all_event_types: true, ..message() };
    let neither = v1::Subscription { event_types: Vec::new(), ..message() };
    for refused in [&both, &neither] {
        assert_eq!(fields(&check(refused).unwrap_err()), ["s.event_types"]);
    }

    let stored = check_new(&all, "s", DEFAULTS).unwrap();
    assert!(EventType::all().all(|event_type| stored.event_types.wants(event_type)));
    let update = |stored: &Settings, message: &v1::Subscription, mask: &Mask| {
        check_update(stored, message, mask, "s", DEFAULTS).map(|s| types_of(&s))
    };
    // Naming types ends it, and wanting all replaces those that are named, with or without a mask.
    for (paths, whole) in
        [(&["event_types"][..], false), (&["event_types", "all_event_types"], false), (&["*"], true)]
    {
        let named_types = Ok(vec![EventType::MessageCreated].into());
        assert_eq!(update(&stored, &named, &mask(paths)), named_types, "{paths:?}");
        if whole || paths.len() > 1 {
            let named = check_new(&named, "s", DEFAULTS).unwrap();
            assert_eq!(update(&named, &all, &mask(paths)), Ok(EventTypes::All), "{paths:?}");
        }
    }
    assert_eq!(update(&stored, &named, &Mask::FieldsSet), Ok(vec![EventType::MessageCreated].into()));
    let named = check_new(&named, "s", DEFAULTS).unwrap();
    assert_eq!(update(&named, &all, &Mask::FieldsSet), Ok(EventTypes::All));
    assert_eq!(update(&named, &all, &mask(&["all_event_types"])), Ok(EventTypes::All));
    let nothing = v1::Subscription::default();
    let refused = update(&stored, &nothing, &mask(&["all_event_types"])).unwrap_err();
    assert_eq!(fields(&refused), ["s.event_types"], "no types would be left");
    assert_eq!(update(&named, &nothing, &mask(&["all_event_types"])), Ok(types_of(&named)));
}

#[test]
fn every_violation_is_found_at_once() {
    let message = v1::Subscription {
        display_name: "x".repeat(64),
        event_types: vec![0, 4, 4, 99],
        inbox_ids: vec![0, 7, 7],
        payload_format: 4,
        headers: BTreeMap::from([("host".into(), "h".into()), ("x-a".into(), "***".into())]),
        retry_policy: Some(v1::RetryPolicy {
            max_attempts: 51,
            min_backoff: seconds(-1),
            max_backoff: None,
            give_up_statuses: ["404", "2xx", "404"].map(str::to_owned).into(),
        }),
        timeout: seconds(31),
        max_in_flight: 257,
        rate_limit: Some(v1::RateLimit { events: 10_001, interval: seconds(0), burst: 1 }),
        annotations: BTreeMap::from([(String::new(), String::new())]),
        signature_scheme: 3,
        ..Default::default()
    };
    assert_eq!(
        fields(&check_new(&message, "s", DEFAULTS).unwrap_err()),
        [
            "s.display_name",
            "s.url",
            "s.event_types[0]",
            "s.event_types[2]",
            "s.event_types[3]",
            "s.inbox_ids[0]",
            "s.inbox_ids[2]",
            "s.payload_format",
            "s.headers[\"host\"]",
            "s.headers[\"x-a\"]",
            "s.retry_policy.max_attempts",
            "s.retry_policy.min_backoff",
            "s.retry_policy.give_up_statuses[1]",
            "s.retry_policy.give_up_statuses[2]",
            "s.timeout",
            "s.max_in_flight",
            "s.rate_limit.events",
            "s.rate_limit.interval",
            "s.annotations",
            "s.signature_scheme",
        ]
    );
}

#[test]
fn an_update_changes_the_fields_of_its_mask_and_no_others() {
    let message = v1::Subscription { url: "http://other".into(), max_in_flight: 9, ..Default::default() };
    let mask = mask(&["max_in_flight", "display_name"]);
    let new = check_update(&stored(), &message, &mask, "s", DEFAULTS).unwrap();
    assert_eq!(new, Settings { max_in_flight: Some(9), ..stored() });
}

#[test]
fn a_mask_of_all_fields_requires_the_required_ones() {
    let violations =
        check_update(&stored(), &v1::Subscription::default(), &Mask::AllFields, "s", DEFAULTS).unwrap_err();
    assert_eq!(fields(&violations), ["s.url", "s.event_types"]);
}

#[test]
fn three_stars_keep_a_stored_header_and_nothing_else() {
    let update = |name: &str| {
        let headers = BTreeMap::from([(name.into(), REDACTED.into()), ("x-new".into(), "n".into())]);
        let message = v1::Subscription { headers, ..Default::default() };
        check_update(&stored(), &message, &Mask::FieldsSet, "s", DEFAULTS)
    };
    let kept = update("X-TOKEN").unwrap().headers;
    assert_eq!(kept["x-token"].expose(), "t");
    assert_eq!(kept["x-new"].expose(), "n");
    assert_eq!(fields(&update("x-other").unwrap_err()), ["s.headers[\"x-other\"]"]);
}

#[test]
fn a_longest_wait_below_the_servers_first_one_is_refused() {
    let policy = v1::RetryPolicy { max_backoff: seconds(2), ..Default::default() };
    let with = |policy| v1::Subscription { retry_policy: Some(policy), ..message() };
    let violations = check_new(&with(policy.clone()), "s", DEFAULTS).unwrap_err();
    assert_eq!(fields(&violations), ["s.retry_policy.max_backoff"]);
    let policy = v1::RetryPolicy { min_backoff: seconds(1), ..policy };
    assert!(check_new(&with(policy), "s", DEFAULTS).is_ok());
}

#[test]
fn one_part_of_the_retry_policy_can_be_set_and_unset() {
    let policy = v1::RetryPolicy { max_attempts: 3, min_backoff: seconds(7), ..Default::default() };
    let message = v1::Subscription { retry_policy: Some(policy), ..Default::default() };
    let mask = mask(&["retry_policy.max_attempts"]);
    let new = check_update(&stored(), &message, &mask, "s", DEFAULTS).unwrap();
    assert_eq!(new.retry, RetryOverrides { max_attempts: Some(3), ..Default::default() });
    let unset = check_update(&new, &v1::Subscription::default(), &mask, "s", DEFAULTS).unwrap();
    assert_eq!(unset.retry, RetryOverrides::default());
}

#[test]
fn credentials_of_a_url_take_the_place_of_the_stored_ones_and_of_none_that_are_sent() {
    let with = |url: &str, headers: &[(&str, &str)]| v1::Subscription {
        url: url.into(),
        headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..Default::default()
    };
    let update = |stored: &Settings, message: &v1::Subscription| {
        check_update(stored, message, &Mask::FieldsSet, "s", DEFAULTS)
    };
    let first = update(&stored(), &with("https://user:first@example.com/hook", &[])).unwrap();
    assert_eq!(first.url.as_str(), "https://example.com/hook");
    assert_eq!(first.headers["authorization"].expose(), "Basic dXNlcjpmaXJzdA==");
    assert_eq!(first.headers["x-token"].expose(), "t");
    let kept = with("https://user:second@example.com/hook", &[("Authorization", REDACTED)]);
    let second = update(&first, &kept).unwrap();
    assert_eq!(second.headers["authorization"].expose(), "Basic dXNlcjpzZWNvbmQ=");
    assert_eq!(second.headers.len(), 1, "the headers were sent, too");
    let both = with("https://user:third@example.com/hook", &[("AUTHORIZATION", "Bearer x")]);
    assert_eq!(fields(&update(&second, &both).unwrap_err()), ["s.url"]);
    let without = update(&second, &with("https://other.example.com/", &[])).unwrap();
    assert_eq!(without.headers, second.headers, "a URL without credentials changes no header");
}

#[test]
fn a_rate_limit_has_an_interval_of_a_second_and_a_burst_of_as_many_events() {
    let with = |rate_limit| v1::Subscription { rate_limit: Some(rate_limit), ..message() };
    let limit = check_new(&with(v1::RateLimit { events: 7, interval: None, burst: 0 }), "s", DEFAULTS);
    let expected = RateLimit { events: 7, interval: Duration::from_secs(1), burst: 7 };
    assert_eq!(limit.unwrap().rate_limit, Some(expected));
    let burst = v1::RateLimit { events: 7, interval: seconds(60), burst: -1 };
    assert_eq!(fields(&check_new(&with(burst), "s", DEFAULTS).unwrap_err()), ["s.rate_limit.burst"]);
    let none = v1::RateLimit::default();
    assert_eq!(fields(&check_new(&with(none), "s", DEFAULTS).unwrap_err()), ["s.rate_limit.events"]);
}
