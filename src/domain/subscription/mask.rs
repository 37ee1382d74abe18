//! The update mask: which fields of a subscription an update changes.

use super::fields::Field;
use crate::{domain::field_violation::FieldViolations, proto::v1};

/// A parsed `update_mask`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// No mask, or one without paths: every field that the message sets.
    FieldsSet,
    /// `*`: every field; fields that the message leaves unset become unset.
    AllFields,
    /// These fields, set or not.
    Listed(Vec<Field>),
}

impl Mask {
    /// Parses the paths of a mask, found at `path` in the request. Both spellings are accepted:
    /// `display_name` and `displayName`.
    pub fn parse(paths: &[String], path: &str) -> Result<Self, FieldViolations> {
        if paths.is_empty() {
            return Ok(Self::FieldsSet);
        }
        if paths == ["*"] {
            return Ok(Self::AllFields);
        }
        let mut violations = FieldViolations::default();
        let mut fields = Vec::new();
        for (index, text) in paths.iter().enumerate() {
            let text = snake_case(text);
            match Field::by_path(&text) {
                Some(field) => fields.push(field),
                None => violations.invalid(format!("{path}.paths[{index}]"), why_not(&text)),
            }
        }
        violations.into_result(Self::Listed(fields))
    }

    /// The fields that an update with this `message` changes.
    pub fn fields(&self, message: &v1::Subscription) -> Vec<Field> {
        match self {
            Self::FieldsSet => Field::top_level().filter(|field| field.is_set_in(message)).collect(),
            Self::AllFields => Field::top_level().collect(),
            Self::Listed(fields) => fields.clone(),
        }
    }
}

/// Why a path is not one of a field that can be changed.
fn why_not(path: &str) -> &'static str {
    match path {
        "*" => "must be the only path if it is \"*\"",
        "name" => "cannot be changed: it identifies the subscription",
        "uid" | "state" | "state_reason" | "create_time" | "update_time" | "etag" | "public_key"
        | "owed_count" | "oldest_owed_time" | "failing_since_time" | "last_success_time"
        | "last_failure_time" | "last_error" | "rate_limited" => "is output only and cannot be changed here",
        _ if path.starts_with("headers.") || path.starts_with("annotations.") => {
            "cannot name a single entry: name the whole map, and send it whole"
        }
        _ => {
            "is not a field of a subscription (a path starts with the name of a field, for example display_name)"
        }
    }
}

/// `display_name` for both `displayName` and `display_name`.
fn snake_case(path: &str) -> String {
    let mut snake = String::with_capacity(path.len() + 4);
    for letter in path.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(paths: &[&str]) -> Result<Mask, FieldViolations> {
        Mask::parse(&paths.iter().map(ToString::to_string).collect::<Vec<_>>(), "update_mask")
    }

    fn paths(mask: &Mask, message: &v1::Subscription) -> Vec<&'static str> {
        mask.fields(message).into_iter().map(Field::path).collect()
    }

    #[test]
    fn both_spellings_name_the_same_field() {
        for (snake, camel) in [
            ("display_name", "displayName"),
            ("event_types", "eventTypes"),
            ("all_event_types", "allEventTypes"),
            ("retry_policy.max_attempts", "retryPolicy.maxAttempts"),
            ("tls.ca_certificates", "tls.caCertificates"),
        ] {
            assert_eq!(parse(&[snake]).unwrap(), parse(&[camel]).unwrap());
        }
    }

    #[test]
    fn every_field_of_the_contract_is_in_the_table_or_cannot_be_changed() {
        use prost::Message as _;

        let set = prost_types::FileDescriptorSet::decode(crate::proto::DESCRIPTORS).unwrap();
        let mut messages = set.file.iter().flat_map(|file| &file.message_type);
        let subscription = messages.find(|message| message.name() == "Subscription").unwrap();
        for field in &subscription.field {
            let path = field.name();
            let is_known = Field::by_path(path).is_some() || !why_not(path).starts_with("is not a field");
            assert!(is_known, "{path} is missing in the table of fields");
        }
        let in_contract = |field: Field| subscription.field.iter().any(|known| known.name() == field.path());
        assert!(Field::top_level().all(in_contract));
    }

    #[test]
    fn a_field_is_found_by_its_path() {
        let of_policy = ["max_attempts", "min_backoff", "max_backoff", "give_up_statuses"]
            .map(|part| format!("retry_policy.{part}"));
        let of_policy = of_policy.iter().map(|path| Field::by_path(path).unwrap());
        for known in Field::top_level().chain(of_policy) {
            assert_eq!(Field::by_path(known.path()), Some(known));
        }
    }

    #[test]
    fn every_bad_path_is_named_by_its_index() {
        let violations = parse(&["url", "etag", "nonsense", "*", "headers.x"]).unwrap_err();
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(
            fields,
            ["update_mask.paths[1]", "update_mask.paths[2]", "update_mask.paths[3]", "update_mask.paths[4]"]
        );
    }

    #[test]
    fn without_a_mask_only_fields_that_are_set_change() {
        let message = v1::Subscription { url: "http://a".into(), max_in_flight: 3, ..Default::default() };
        assert_eq!(paths(&parse(&[]).unwrap(), &message), ["url", "max_in_flight"]);
        assert_eq!(parse(&[]).unwrap().fields(&v1::Subscription::default()), []);
        assert_eq!(parse(&["*"]).unwrap().fields(&message).len(), Field::top_level().count());
    }
}
