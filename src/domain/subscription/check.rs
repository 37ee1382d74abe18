//! Checks the settings that an owner sends: from the contract's message to [`Settings`], with every
//! violation.

use std::sync::Arc;

use http::header::AUTHORIZATION;

use super::{
    fields::{Draft, Field, Reader},
    mask::Mask,
    settings::{RetryOverrides, Settings},
    tls::{TlsOptions, TlsProfile},
};
use crate::{
    domain::{
        field_violation::FieldViolations,
        retry::RetryPolicy,
        secret::{REDACTED, Secret},
        webhook_headers::check_headers_total,
    },
    proto::v1,
};

/// The settings of a new subscription, or every violation, with paths that start with `path`.
///
/// `defaults` is the server's retry policy. It must be compatible with the parts that are set.
pub fn check_new(
    message: &v1::Subscription,
    path: &str,
    defaults: RetryPolicy,
) -> Result<Settings, FieldViolations> {
    // Never returned with this URL: a missing URL is a violation.
    let blank = Settings::new("http://url.invalid".parse().expect("a literal that is a URL"), Vec::new());
    check_update(&blank, message, &Mask::AllFields, path, defaults)
}

/// `stored` with the fields of `mask` replaced from `message`, or every violation of these fields.
pub fn check_update(
    stored: &Settings,
    message: &v1::Subscription,
    mask: &Mask,
    path: &str,
    defaults: RetryPolicy,
) -> Result<Settings, FieldViolations> {
    let stored_tls = stored.tls_options();
    let mut reader = Reader::new(message, path, stored);
    let mut draft = Draft { settings: stored.clone(), tls: stored_tls.clone(), credentials: None };
    for field in mask.fields(message) {
        Field::apply(field, &mut reader, &mut draft);
    }
    let Draft { mut settings, tls, credentials } = draft;
    if let Some(credentials) = credentials {
        reader.put_credentials(&mut settings, credentials);
    }
    if tls != stored_tls {
        settings.tls = reader.tls_profile(tls);
        reader.check_tls_needs_https(&settings, "tls");
    } else {
        reader.check_tls_needs_https(&settings, "url");
    }
    if settings.retry != stored.retry {
        // Only then: the server's defaults may have changed since, and this request did not cause that.
        reader.check_backoffs(settings.retry, defaults);
    }
    reader.violations.into_result(settings)
}

impl Reader<'_> {
    /// Makes a header of the credentials of the URL.
    fn put_credentials(&mut self, settings: &mut Settings, credentials: Secret) {
        let is_set = |(name, value): (&String, &String)| {
            name.eq_ignore_ascii_case(AUTHORIZATION.as_str()) && value != REDACTED
        };
        if self.message.headers.iter().any(is_set) {
            self.invalid(
                "url",
                "must not have credentials where headers have authorization: give one of them",
            );
        }
        settings.headers.insert(AUTHORIZATION.as_str().to_owned(), credentials);
        let all = settings.headers.iter().map(|(name, value)| (name.as_str(), value.expose()));
        if let Err(description) = check_headers_total(all)
            && !self.is_invalid("headers")
        {
            self.invalid("headers", description);
        }
    }

    fn tls_profile(&mut self, options: TlsOptions) -> Option<Arc<TlsProfile>> {
        // A key that could not be kept was reported already.
        if !self.is_invalid("tls.client_key") {
            for violation in options.violations() {
                self.invalid(&format!("tls.{}", violation.field), violation.description);
            }
        }
        TlsProfile::new(options).map(Arc::new)
    }

    /// Reports a violation of `field` if there are TLS options for a URL without TLS.
    fn check_tls_needs_https(&mut self, settings: &Settings, field: &str) {
        if settings.tls.is_some() && settings.url.scheme() != "https" && !self.is_invalid("url") {
            let description = match field {
                "tls" => "must not be set where the url is http: nothing would be encrypted",
                _ => "must be https: the subscription has tls options",
            };
            self.invalid(field, description);
        }
    }
    /// Checks that the longest wait is not below the shortest one.
    fn check_backoffs(&mut self, retry: RetryOverrides, defaults: RetryPolicy) {
        let min = retry.min_backoff.unwrap_or(defaults.min_backoff);
        let Some(max) = retry.max_backoff else {
            return; // The server's default is raised to a longer minimum.
        };
        if max < min {
            let origin = if retry.min_backoff.is_some() { "" } else { ", the server's default" };
            self.invalid(
                "retry_policy.max_backoff",
                format_args!("must not be less than min_backoff ({min:?}{origin})"),
            );
        }
    }
}

#[cfg(test)]
mod tests;
