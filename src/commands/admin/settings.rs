//! The settings of a subscription as flags, for `add` and `edit`.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, anyhow};

use super::{choices::one_of, errors::FlagNames};
use crate::{
    commands::ending::Ending,
    config::parse_duration,
    proto::v1::{RateLimit, RetryPolicy, Subscription, TlsOptions},
};

/// Fields of a subscription with the flag that sets each.
pub(super) const FLAGS: FlagNames = &[
    ("subscription_id", "ID"),
    ("signing_secret", "--secret-file"),
    ("subscription.url", "--url"),
    ("subscription.event_types", "--types"),
    ("subscription.all_event_types", "--all-types"),
    ("subscription.inbox_ids", "--inboxes"),
    ("subscription.payload_format", "--format"),
    ("subscription.headers", "--header"),
    ("subscription.display_name", "--display-name"),
    ("subscription.ordered", "--ordered"),
    ("subscription.timeout", "--timeout"),
    ("subscription.max_in_flight", "--max-in-flight"),
    ("subscription.rate_limit", "--rate"),
    ("subscription.rate_limit.burst", "--burst"),
    ("subscription.retry_policy.max_attempts", "--max-attempts"),
    ("subscription.retry_policy.min_backoff", "--min-backoff"),
    ("subscription.retry_policy.max_backoff", "--max-backoff"),
    ("subscription.retry_policy.give_up_statuses", "--give-up"),
    ("subscription.signature_scheme", "--signature"),
    ("subscription.annotations", "--annotation"),
    ("subscription.tls.server_name", "--tls-server-name"),
    ("subscription.tls.ca_certificates", "--tls-ca"),
    ("subscription.tls.client_certificate", "--tls-cert"),
    ("subscription.tls.client_key", "--tls-key"),
];

/// The settings of a subscription. Those that are not given stay as they are.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SettingArguments {
    /// URL that receives the events.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Types of events, such as message_created, separated by commas.
    #[arg(long, short = 't', value_name = "TYPES", value_delimiter = ',', value_parser = one_of("tidings.v1.EventType"), conflicts_with = "all_types", hide_possible_values = true)]
    types: Vec<i32>,
    /// Events of every type, future ones included.
    #[arg(long)]
    all_types: bool,
    /// Form of the body.
    #[arg(long, value_name = "FORM", value_parser = one_of("tidings.v1.Subscription.PayloadFormat"))]
    format: Option<i32>,
    /// Only events of these inboxes, separated by commas.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    inboxes: Vec<i64>,
    /// Header to send along: "Name: value". "Name:" removes it. May be repeated.
    #[arg(long = "header", value_name = "HEADER", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Name for people.
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Deliver the events of one conversation in their order.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ordered: Option<bool>,
    /// Time limit of one POST: 1s to 30s.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, hide_short_help = true)]
    timeout: Option<Duration>,
    /// Most concurrent POSTs: 1 to 256.
    #[arg(long, value_name = "COUNT", hide_short_help = true)]
    max_in_flight: Option<i32>,
    /// Most POSTs in a time, such as 100/1s.
    #[arg(long, value_name = "COUNT/DURATION", value_parser = parse_rate, hide_short_help = true)]
    rate: Option<(i32, Duration)>,
    /// Most POSTs at once after a pause. Needs --rate.
    #[arg(long, value_name = "COUNT", requires = "rate", hide_short_help = true)]
    burst: Option<i32>,
    /// Most attempts of a delivery: 1 to 50.
    #[arg(long, value_name = "COUNT", hide_short_help = true)]
    max_attempts: Option<i32>,
    /// Bound of the wait before the second attempt.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, hide_short_help = true)]
    min_backoff: Option<Duration>,
    /// Bound of the longest wait between attempts.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, hide_short_help = true)]
    max_backoff: Option<Duration>,
    /// Responses after which a delivery fails at once, such as 404,4xx.
    #[arg(long, value_name = "STATUSES", value_delimiter = ',', hide_short_help = true)]
    give_up: Vec<String>,
    /// Kind of webhook-signature.
    #[arg(long, value_name = "SCHEME", value_parser = one_of("tidings.v1.Subscription.SignatureScheme"), hide_short_help = true)]
    signature: Option<i32>,
    /// Annotation for your own use: KEY=VALUE. "KEY=" removes it. May be repeated.
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = parse_annotation, hide_short_help = true)]
    annotations: Vec<(String, String)>,
    /// Name to expect in the endpoint's certificate.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    tls_server_name: Option<String>,
    /// PEM file with the authorities to trust for the endpoint.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tls_ca: Option<PathBuf>,
    /// PEM file with the client certificate to present to the endpoint.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tls_key: Option<PathBuf>,
}

impl SettingArguments {
    /// Whether a map changes, of which the other entries are needed.
    pub(super) fn changes_a_map(&self) -> bool {
        !self.headers.is_empty() || !self.annotations.is_empty()
    }

    /// Sets the fields that are given. Returns their paths.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub(super) fn apply(&self, to: &mut Subscription) -> Result<Vec<&'static str>, Ending> {
        let mut paths = Paths::default();
        paths.set("url", self.url.clone(), &mut to.url);
        if self.all_types || !self.types.is_empty() {
            paths.set("event_types", Some(self.types.clone()), &mut to.event_types);
            paths.set("all_event_types", Some(self.all_types), &mut to.all_event_types);
        }
        paths.set("inbox_ids", list(&self.inboxes), &mut to.inbox_ids);
        paths.set("payload_format", self.format, &mut to.payload_format);
        paths.set("display_name", self.display_name.clone(), &mut to.display_name);
        paths.set("ordered", self.ordered, &mut to.ordered);
        paths.set("timeout", self.timeout.map(|timeout| Some(span(timeout))), &mut to.timeout);
        paths.set("max_in_flight", self.max_in_flight, &mut to.max_in_flight);
        paths.set("rate_limit", self.rate_limit().map(Some), &mut to.rate_limit);
        paths.set("signature_scheme", self.signature, &mut to.signature_scheme);
        paths.merge("headers", &self.headers, &mut to.headers, str::eq_ignore_ascii_case);
        paths.merge("annotations", &self.annotations, &mut to.annotations, |one, other| one == other);
        let mut policy = to.retry_policy.take().unwrap_or_default();
        if self.apply_retry_policy(&mut policy, &mut paths) {
            to.retry_policy = Some(policy);
        }
        let mut tls = to.tls.take().unwrap_or_default();
        if self.apply_tls(&mut tls, &mut paths)? {
            to.tls = Some(tls);
        }
        Ok(paths.0)
    }

    fn rate_limit(&self) -> Option<RateLimit> {
        let (events, interval) = self.rate?;
        Some(RateLimit { events, interval: Some(span(interval)), burst: self.burst.unwrap_or_default() })
    }

    /// Returns whether a field of the policy is given.
    fn apply_retry_policy(&self, to: &mut RetryPolicy, paths: &mut Paths) -> bool {
        let before = paths.0.len();
        paths.set("retry_policy.max_attempts", self.max_attempts, &mut to.max_attempts);
        paths.set(
            "retry_policy.min_backoff",
            self.min_backoff.map(|wait| Some(span(wait))),
            &mut to.min_backoff,
        );
        paths.set(
            "retry_policy.max_backoff",
            self.max_backoff.map(|wait| Some(span(wait))),
            &mut to.max_backoff,
        );
        paths.set("retry_policy.give_up_statuses", list(&self.give_up), &mut to.give_up_statuses);
        paths.0.len() > before
    }

    /// Returns whether a field of the options is given.
    fn apply_tls(&self, to: &mut TlsOptions, paths: &mut Paths) -> Result<bool, Ending> {
        let before = paths.0.len();
        let text = |file: &Option<PathBuf>| file.as_ref().map(read).transpose();
        paths.set("tls.server_name", self.tls_server_name.clone(), &mut to.server_name);
        paths.set("tls.ca_certificates", text(&self.tls_ca)?, &mut to.ca_certificates);
        paths.set("tls.client_certificate", text(&self.tls_cert)?, &mut to.client_certificate);
        paths.set("tls.client_key", text(&self.tls_key)?, &mut to.client_key);
        Ok(paths.0.len() > before)
    }
}

/// The paths of the fields that were set.
#[derive(Default)]
struct Paths(Vec<&'static str>);

impl Paths {
    fn set<T>(&mut self, path: &'static str, given: Option<T>, field: &mut T) {
        if let Some(value) = given {
            *field = value;
            self.0.push(path);
        }
    }

    /// Changes the given entries of a map. An empty value removes one.
    fn merge(
        &mut self,
        path: &'static str,
        given: &[(String, String)],
        field: &mut BTreeMap<String, String>,
        is_same: fn(&str, &str) -> bool,
    ) {
        for (key, value) in given {
            field.retain(|known, _| !is_same(known, key));
            if !value.is_empty() {
                field.insert(key.clone(), value.clone());
            }
        }
        if !given.is_empty() {
            self.0.push(path);
        }
    }
}

/// A list that is given.
fn list<T: Clone>(given: &[T]) -> Option<Vec<T>> {
    (!given.is_empty()).then(|| given.to_vec())
}

/// Sets the fields of these flags back to their defaults. Returns their paths.
///
/// # Errors
///
/// A flag has no field that can be cleared.
pub(super) fn clear(flags: &[String], subscription: &mut Subscription) -> Result<Vec<&'static str>, Ending> {
    let path = |flag: &String| {
        let long = format!("--{}", flag.trim_start_matches("--"));
        let found = FLAGS.iter().find(|(_, known)| *known == long);
        let path = found.and_then(|(path, _)| path.strip_prefix("subscription."));
        path.ok_or_else(|| {
            Ending::Misused(anyhow!("--clear takes the name of another flag, such as rate; not {flag:?}"))
        })
    };
    let paths: Vec<_> = flags.iter().map(path).collect::<Result<_, _>>()?;
    for path in &paths {
        match *path {
            "headers" => subscription.headers.clear(),
            "annotations" => subscription.annotations.clear(),
            // In the message of an edit nothing else is set.
            _ => {}
        }
    }
    Ok(paths)
}

/// Reads a small file of text.
///
/// # Errors
///
/// It cannot be read.
pub(super) fn read(file: &PathBuf) -> Result<String, Ending> {
    fs::read_to_string(file)
        .with_context(|| format!("cannot read {}", file.display()))
        .map_err(Ending::Failed)
}

/// A duration of the contract.
pub(super) fn span(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// Reads `Name: value`.
///
/// # Errors
///
/// The text has no colon.
pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once(':').ok_or_else(|| format!("{text:?} is not a header such as \"X-Token: abc\""))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn parse_annotation(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_rate(text: &str) -> Result<(i32, Duration), String> {
    let rule = || format!("{text:?} is not a rate such as 100/1s");
    let (events, interval) = text.split_once('/').ok_or_else(rule)?;
    Ok((events.parse().map_err(|_| rule())?, parse_duration(interval)?))
}
