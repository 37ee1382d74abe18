//! Fields of forms and of addresses: what a browser sent, and what was wrong with it.

use std::borrow::Cow;

use axum::{
    body::Bytes,
    extract::{FromRequestParts, Request},
    http::request::Parts,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Longest body of a form. One with certificates takes some tens of kilobytes.
pub(super) const FORM_BYTES_MAX: usize = 256 << 10;

/// Pairs of names and values, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `a=1&b=2`.
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(
            url::form_urlencoded::parse(text)
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// The first value with this name without white space around it; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim())
    }

    /// Every value with this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a box is ticked.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, value)| known == name && !value.is_empty())
    }

    /// The number with this name; `None` if there is none or it is not a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).parse().ok()
    }

    /// The id of the request that the form makes: a new one for a form that was not sent before, so that
    /// sending one twice does its work once.
    pub(super) fn request_id(&self) -> String {
        match self.get("request_id") {
            "" => uuid::Uuid::new_v4().to_string(),
            given => given.to_owned(),
        }
    }

    /// The fields with these names that are not empty, as the query of an address: `?a=1&b=2`, or nothing.
    pub(super) fn query(&self, names: &[&str], more: &[(&str, &str)]) -> String {
        let own = self.0.iter().filter(|(name, value)| names.contains(&name.as_str()) && !value.is_empty());
        query(own.map(|(name, value)| (name.as_str(), value.as_str())).chain(more.iter().copied()))
    }
}

/// The query of an address: `?a=1&b=2`, or nothing without pairs.
pub(super) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut serializer = url::form_urlencoded::Serializer::new(String::new());
    serializer.extend_pairs(pairs);
    let text = serializer.finish();
    if text.is_empty() { text } else { format!("?{text}") }
}

/// A segment of a path, escaped.
pub(super) fn segment(text: &str) -> Cow<'_, str> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).into()
}

/// The fields of an address.
impl<S: Sync> FromRequestParts<S> for Fields {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default().as_bytes()))
    }
}

/// The fields of a form. The middleware has read its body, within its bounds and time.
#[derive(Clone, Debug, Default)]
pub(super) struct Form(pub(super) Fields);

/// The body of a request, once it was read.
#[derive(Clone)]
pub(super) struct ReadBody(pub(super) Bytes);

impl<S: Sync> axum::extract::FromRequest<S> for Form {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Self::Rejection> {
        let body = request.extensions().get::<ReadBody>();
        Ok(Self(body.map(|ReadBody(body)| Fields::parse(body)).unwrap_or_default()))
    }
}

/// What is wrong with a form: for each field, and beyond fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    fields: Vec<(String, String)>,
    /// Above the form.
    summary: String,
}

impl Faults {
    /// Something is wrong with the form as a whole.
    pub(super) fn beyond_fields(summary: String) -> Self {
        Self { summary, fields: Vec::new() }
    }

    pub(super) fn push(&mut self, field: &str, description: impl Into<String>) {
        self.fields.push((field.to_owned(), description.into()));
    }

    /// What a refused call says about the fields of the form. `name` maps the path of the request's field to
    /// the name of the form's; what it does not know stands above the form.
    ///
    /// # Errors
    ///
    /// The refusal is not about what the form has: the caller shows it as a page.
    pub(super) fn from_status(
        status: Status,
        name: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<Self, Status> {
        let of_the_form = matches!(
            status.code(),
            Code::InvalidArgument
                | Code::AlreadyExists
                | Code::FailedPrecondition
                | Code::Aborted
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
        );
        if !of_the_form {
            return Err(status);
        }
        let mut faults = Self::default();
        let mut elsewhere = Vec::new();
        for violation in
            status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default()
        {
            match name(&violation.field) {
                Some(field) => faults.push(field, sentence(&violation.description)),
                None => elsewhere.push(format!("{} {}", violation.field, violation.description)),
            }
        }
        faults.summary = match (faults.fields.is_empty(), elsewhere.is_empty()) {
            (_, false) => sentence(&elsewhere.join("; ")),
            (true, true) => sentence(status.message()),
            (false, true) => String::new(),
        };
        Ok(faults)
    }

    /// What is wrong with a field; empty if nothing is.
    pub(super) fn at(&self, field: &str) -> &str {
        self.fields.iter().find(|(name, _)| name == field).map_or("", |(_, description)| description)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.summary.is_empty()
    }

    /// The number of fields that are wrong, in words for above the form.
    pub(super) fn title(&self) -> String {
        match (self.summary.is_empty(), self.fields.len()) {
            (false, _) => self.summary.clone(),
            (true, 1) => "One field needs another value.".to_owned(),
            (true, number) => format!("{number} fields need other values."),
        }
    }
}

/// A message of the services as a sentence: with a capital and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut characters = text.trim().chars();
    let Some(first) = characters.next() else { return String::new() };
    let mut sentence: String = first.to_uppercase().chain(characters).collect();
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn fields_are_read_as_browsers_write_them() {
        let fields =
            Fields::parse(b"url=https%3A%2F%2Fa.example%2F%3Fx%3D1&event=1&event=4&name=+two+words+&empty=");
        assert_eq!(fields.get("url"), "https://a.example/?x=1");
        assert_eq!(fields.get("name"), "two words");
        assert_eq!(fields.all("event").collect::<Vec<_>>(), ["1", "4"]);
        assert!(fields.has("event") && !fields.has("empty") && !fields.has("other"));
        assert_eq!(fields.number::<i64>("event"), Some(1));
        assert_eq!(fields.query(&["event", "empty"], &[("page", "a b")]), "?event=1&event=4&page=a+b");
        assert_eq!(Fields::default().query(&["event"], &[]), "");
    }

    #[test]
    fn faults_stand_beside_their_fields_or_above_the_form() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("subscription.url", "must be https");
        details.add_bad_request_violation("subscription.tls", "is odd");
        let status = Status::with_error_details(Code::InvalidArgument, "2 fields are invalid", details);
        let faults =
            Faults::from_status(status, |path| (path == "subscription.url").then_some("url")).unwrap();
        assert_eq!((faults.at("url"), faults.at("other")), ("Must be https.", ""));
        assert_eq!(faults.title(), "Subscription.tls is odd.");
        assert!(Faults::from_status(Status::unauthenticated("no"), |_| None).is_err());
        let taken = Faults::from_status(Status::already_exists("there is one"), |_| None).unwrap();
        assert_eq!(taken.title(), "There is one.");
    }
}
