//! A failed call in the words of the command: every field at fault by its flag, and when to try again.

use std::{error::Error, time::Duration};

use anyhow::anyhow;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::commands::{
    connection::{Address, chain},
    ending::Ending,
    print_error, printable,
};

/// Fields of a request by their path, with the flag or argument that sets each. A field below one of them has
/// its flag too.
pub(super) type FlagNames = &'static [(&'static str, &'static str)];

/// Longest printed sentence of a gateway, in characters.
const SENTENCE_CHARS_MAX: usize = 1000;

/// Fields that many requests have.
const COMMON: FlagNames =
    &[("parent", "--account"), ("page_size", "--limit"), ("start_time", "--since"), ("end_time", "--until")];

/// The end of a command whose call failed with this status. Prints what the gateway refused.
pub(super) fn ending(status: &Status, address: &Address, flags: FlagNames) -> Ending {
    if let Some(source) = status.source() {
        let cause = chain(status.message().to_owned(), Some(source));
        return Ending::Unavailable(anyhow!("lost the gateway at {address}: {cause}"));
    }
    let message = printable(status.message(), SENTENCE_CHARS_MAX);
    let details = status.get_error_details();
    let reason = details.error_info().map_or_else(String::new, |info| format!(" ({})", info.reason));
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Cancelled => {
            let wait = details.retry_info().and_then(|info| info.retry_delay);
            let wait = wait.map_or_else(String::new, |wait| format!("; try again in {}", seconds(wait)));
            Ending::Unavailable(anyhow!("the gateway has no room or stops: {message}{reason}{wait}"))
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            Ending::Denied(anyhow!("the gateway at {address} rejected the caller: {message}{reason}"))
        }
        Code::Unimplemented => {
            Ending::Failed(anyhow!("{address} is no Tidings gateway, or an older one: {message}{reason}"))
        }
        Code::Internal | Code::Unknown | Code::DataLoss => {
            Ending::Failed(anyhow!("the gateway failed with {:?}: {message}{reason}", status.code()))
        }
        _ => {
            let violations =
                details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
            if violations.is_empty() {
                print_error(format_args!("tidings: {message}{reason}"));
            }
            for violation in violations {
                let field = printable(&in_words_of_flags(&violation.field, flags), SENTENCE_CHARS_MAX);
                let rule = printable(&violation.description, SENTENCE_CHARS_MAX);
                print_error(format_args!("tidings: {field} {rule}"));
            }
            Ending::Refused
        }
    }
}

/// The flag that sets a field, with the rest of the path if the field is a part of it.
fn in_words_of_flags(path: &str, flags: FlagNames) -> String {
    let below = |known: &str| {
        let rest = path.strip_prefix(known)?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
    };
    let found =
        flags.iter().chain(COMMON).filter_map(|(known, flag)| Some((known.len(), *flag, below(known)?)));
    match found.max_by_key(|(length, ..)| *length) {
        None => path.to_owned(),
        Some((_, "", rest)) => rest.trim_start_matches('.').to_owned(),
        Some((_, flag, "")) => flag.to_owned(),
        Some((_, flag, rest)) => format!("{flag} ({})", rest.trim_start_matches('.')),
    }
}

/// A wait in whole seconds, rounded up.
fn seconds(wait: Duration) -> String {
    format!("{}s", wait.as_millis().div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_by_its_flag() {
        let flags: FlagNames =
            &[("subscription.url", "--url"), ("subscription.event_types", "--types"), ("event", "")];
        for (path, expected) in [
            ("subscription.url", "--url"),
            ("subscription.event_types[1]", "--types ([1])"),
            ("subscription.urls", "subscription.urls"),
            ("event.message_created.message", "message_created.message"),
            ("start_time", "--since"),
            ("parent", "--account"),
        ] {
            assert_eq!(in_words_of_flags(path, flags), expected, "{path}");
        }
    }

    #[test]
    fn the_kind_of_a_failure_decides_the_exit_code() {
        let address = "http://127.0.0.1:1".parse().expect("it is an address");
        for (code, expected) in [
            (Code::InvalidArgument, 65),
            (Code::NotFound, 65),
            (Code::FailedPrecondition, 65),
            (Code::ResourceExhausted, 75),
            (Code::Unavailable, 75),
            (Code::PermissionDenied, 77),
            (Code::Internal, 1),
            (Code::Unimplemented, 1),
        ] {
            assert_eq!(ending(&Status::new(code, "no"), &address, &[]).code(), expected, "{code:?}");
        }
    }
}
