//! `tidings publish`: one event, from an argument, a file or standard input.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use serde_json::Value;

use super::{Administer, errors::FlagNames, events::client, gateway::Gateway, names, output::counted, times};
use crate::{
    commands::{ending::Ending, import::account_of_body, json_form::JsonForm, print_error, printable},
    domain::{
        field_violation::FieldViolations,
        ids::{AccountId, AccountScope},
    },
    event::account_in_payload,
    proto::{
        json,
        v1::{Event, PublishEventRequest, PublishResult},
    },
};

const FLAGS: FlagNames = &[("event", ""), ("event_id", "--id")];
/// Largest input, in bytes. The gateway's limit on messages is 4 MiB.
const INPUT_BYTES_MAX: u64 = 16 << 20;
/// The argument for standard input.
const STANDARD_INPUT: &str = "-";
/// Longest printed fault, in characters.
const FAULT_CHARS_MAX: usize = 400;

/// The form of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Protobuf JSON of tidings.v1.Event
    Protobuf,
    /// What Chatwoot sends
    Chatwoot,
    /// What Chatwoot's documentation describes
    Documented,
    /// The first sample of Chatwoot's documentation
    Sample,
}

impl Format {
    /// The form of webhook JSON; `None` for protobuf JSON.
    fn of_webhook(self) -> Option<JsonForm> {
        match self {
            Self::Protobuf => None,
            Self::Chatwoot => Some(JsonForm::Chatwoot),
            Self::Documented => Some(JsonForm::Documented),
            Self::Sample => Some(JsonForm::Sample),
        }
    }
}

/// One event.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// The event: JSON that begins with {, or a file. Without it, or for -, standard input.
    #[arg(value_name = "JSON|FILE", default_value = STANDARD_INPUT, hide_default_value = true)]
    input: Input,
    /// Form of the input. Without it, JSON whose key "event" has a name is the body of a webhook, in the form that
    /// represents it without loss; all else is protobuf JSON.
    #[arg(long, value_name = "FORM", value_enum)]
    format: Option<Format>,
    /// Your id of the event: publishing it again stores nothing.
    #[arg(long, short = 'i', value_name = "ID")]
    id: Option<String>,
    /// Only check.
    #[arg(long)]
    validate_only: bool,
}

/// Where JSON comes from.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// The argument itself.
    Text(String),
    /// A file, or - for standard input.
    File(PathBuf),
}

impl From<String> for Input {
    fn from(text: String) -> Self {
        if text.trim_start().starts_with('{') { Self::Text(text) } else { Self::File(text.into()) }
    }
}

impl Input {
    /// The file of this path, or - for standard input.
    pub(super) fn of_file(path: PathBuf) -> Self {
        Self::File(path)
    }

    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// It cannot be read, is too large, or is not UTF-8.
    pub(super) fn read(self) -> Result<Body, Ending> {
        let path = match self {
            Self::Text(text) => return Ok(Body { text, source: "the argument".to_owned() }),
            Self::File(path) => path,
        };
        let is_standard = path == Path::new(STANDARD_INPUT);
        let source = if is_standard { "standard input".to_owned() } else { path.display().to_string() };
        let read = || -> io::Result<String> {
            let mut text = String::new();
            match is_standard {
                true => io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)?,
                false => fs::File::open(&path)?.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)?,
            };
            if text.len() as u64 > INPUT_BYTES_MAX {
                return Err(io::Error::other(format!("it has more than {INPUT_BYTES_MAX} bytes")));
            }
            Ok(text)
        };
        let text = read().with_context(|| format!("cannot read {source}")).map_err(Ending::Failed)?;
        Ok(Body { text, source })
    }
}

/// JSON, and where it comes from.
pub(super) struct Body {
    text: String,
    source: String,
}

impl Body {
    /// Whether it is the body of a webhook: its key "event" has a name. In protobuf JSON that key has an object.
    fn is_of_webhook(&self) -> bool {
        serde_json::from_str::<Value>(&self.text).is_ok_and(|value| value["event"].is_string())
    }

    /// Reads an event, or a whole request of PublishEvent, in protobuf JSON.
    ///
    /// # Errors
    ///
    /// The text is neither. The faults are printed.
    pub(super) fn protobuf(&self) -> Result<PublishEventRequest, Ending> {
        let value: Value = serde_json::from_str(&self.text)
            .map_err(|error| self.refused([format!("is not JSON: {error}")]))?;
        let read = match value["event"].is_object() {
            true => json::from_json::<PublishEventRequest>(&self.text),
            false => json::from_json::<Event>(&self.text).map(request_of),
        };
        read.map_err(|error| self.refused([format!("is no protobuf JSON of an event: {error}")]))
    }

    /// Reads the body of a webhook, of this account or of the one that it names.
    fn webhook(
        &self,
        form: Option<JsonForm>,
        account: Option<AccountId>,
    ) -> Result<PublishEventRequest, Ending> {
        let body = self.text.as_bytes();
        let account =
            account.map_or_else(|| account_of_body(body), Ok).map_err(|fault| self.refused([fault]))?;
        let event =
            JsonForm::read(form, body, account).map_err(|violations| self.refused(faults(&violations)))?;
        let parent = names::account(AccountScope::One(account));
        Ok(PublishEventRequest { parent, ..request_of(event) })
    }

    fn refused(&self, faults: impl IntoIterator<Item = String>) -> Ending {
        for fault in faults {
            print_error(format_args!("tidings: {}: {}", self.source, printable(&fault, FAULT_CHARS_MAX)));
        }
        Ending::Refused
    }
}

fn request_of(event: Event) -> PublishEventRequest {
    PublishEventRequest { event: Some(event.into()), ..PublishEventRequest::default() }
}

fn faults(violations: &FieldViolations) -> Vec<String> {
    violations.iter().map(|violation| format!("{} {}", violation.field, violation.description)).collect()
}

impl Administer for Arguments {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let chosen = match gateway.account {
            Some(AccountScope::One(account)) => Some(account),
            _ => None,
        };
        let body = self.input.read()?;
        let mut request = match self.format {
            Some(Format::Protobuf) => body.protobuf()?,
            None if !body.is_of_webhook() => body.protobuf()?,
            format => body.webhook(format.and_then(Format::of_webhook), chosen)?,
        };
        if request.parent.is_empty() {
            request.parent = parent_of(&request, chosen)?;
        }
        if let Some(id) = self.id {
            request.event_id = id;
        }
        request.validate_only |= self.validate_only;
        let is_check = request.validate_only;
        let response = gateway.call(FLAGS, client(gateway).publish_event(gateway.request(request))).await?;
        let result = response.result.clone().unwrap_or_default();
        for warning in &result.warnings {
            print_error(format_args!(
                "warning: {}: {}",
                printable(&warning.description, FAULT_CHARS_MAX),
                warning.fields.join(", ")
            ));
        }
        gateway.output.change(&response, &result.event, &outcome(&result, is_check))
    }
}

/// The account of an event that its request does not name: the chosen one, or the one in its payload.
fn parent_of(request: &PublishEventRequest, chosen: Option<AccountId>) -> Result<String, Ending> {
    let account = chosen.or_else(|| account_in_payload(request.event.as_ref()?));
    let account = account.ok_or_else(|| {
        Ending::Misused(anyhow!(
            "the event does not name its account: use --account NUMBER, or a context with an account"
        ))
    })?;
    Ok(names::account(AccountScope::One(account)))
}

/// The result in words.
fn outcome(result: &PublishResult, is_check: bool) -> String {
    let count = counted(result.delivery_count(), "subscription");
    match result {
        _ if is_check => format!("is valid; it would go to {count}"),
        PublishResult { duplicate: true, create_time, .. } => {
            format!("was stored before, at {}; it goes to {count}", times::shown(create_time.as_ref()))
        }
        _ => format!("stored; it goes to {count}"),
    }
}
