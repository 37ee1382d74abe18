//! Reads the input on a thread of its own: converts objects to requests, or refuses them, and queues them for
//! publishing. The bytes in the queue are bounded.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::Context;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::{
    Arguments, JsonForm,
    objects::{Found, Objects},
    report::{self, Position},
};
use crate::{
    domain::{
        field_violation::{FieldViolation, FieldViolations},
        ids::AccountId,
    },
    proto::v1,
};

/// Most bytes of objects that wait to be published. At least the longest object.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Most objects that wait to be published.
const QUEUE_OBJECTS_MAX: usize = 1000;
/// The argument for standard input.
const STANDARD_INPUT: &str = "-";
/// JSON pointers to the account in the bodies of all events, in every form.
const ACCOUNTS: [&str; 11] = [
    "/account/id",
    "/account_id",
    "/conversation/account_id",
    "/current_conversation/account_id",
    "/conversation/account/id",
    "/messages/0/account_id",
    "/conversation/messages/0/account_id",
    "/contact/account/id",
    "/user/account/id",
    "/current_conversation/account/id",
    "/current_conversation/messages/0/account_id",
];

/// One part of the input.
pub(super) enum Item {
    /// An object that can be published.
    Event(Event),
    /// An object that cannot be published, and the reasons.
    Refused { position: Position, faults: Vec<String> },
    /// The last item: the input cannot be read further.
    Failed(anyhow::Error),
}

/// An object that can be published.
pub(super) struct Event {
    pub(super) position: Position,
    pub(super) request: v1::PublishEventRequest,
    /// Its share of the queue's bytes, until it is dropped.
    pub(super) permit: OwnedSemaphorePermit,
}

/// Starts to read. The channel closes at the end of the input.
///
/// # Errors
///
/// The thread cannot be started.
pub(super) fn start(arguments: &Arguments) -> anyhow::Result<mpsc::Receiver<Item>> {
    let (items, received) = mpsc::channel(QUEUE_OBJECTS_MAX);
    let reader = Reader {
        account: arguments.account,
        format: arguments.format,
        validate_only: arguments.validate_only,
        occurrences: Occurrences { objects_max: arguments.objects_max, ..Occurrences::default() },
        queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
        items,
        runtime: Handle::current(),
    };
    let files = arguments.files.clone();
    // Not a thread of the runtime: a read may block for ever, and the program ends without waiting for it.
    let run = move || reader.run(&files);
    thread::Builder::new().name("import-reader".to_owned()).spawn(run).context("cannot start a thread")?;
    Ok(received)
}

struct Reader {
    account: Option<AccountId>,
    format: Option<JsonForm>,
    validate_only: bool,
    occurrences: Occurrences,
    queue_bytes: Arc<Semaphore>,
    items: mpsc::Sender<Item>,
    runtime: Handle,
}

/// The receiver of the items is gone.
struct ReceiverGone;

impl Reader {
    fn run(mut self, files: &[PathBuf]) {
        let standard_input = [PathBuf::from(STANDARD_INPUT)];
        let files = if files.is_empty() { &standard_input[..] } else { files };
        for file in files {
            match self.read(file) {
                Ok(Ok(())) => {}
                Ok(Err(ReceiverGone)) => return,
                Err(error) => {
                    drop(self.items.blocking_send(Item::Failed(error)));
                    return;
                }
            }
        }
    }

    fn read(&mut self, file: &Path) -> anyhow::Result<Result<(), ReceiverGone>> {
        let is_standard = file == Path::new(STANDARD_INPUT);
        let name: Arc<str> = if is_standard { "stdin".into() } else { file.to_string_lossy().into() };
        let context = || format!("cannot read {name}");
        let input: Box<dyn Read> = match is_standard {
            true => Box::new(io::stdin().lock()),
            false => Box::new(File::open(file).with_context(context)?),
        };
        let mut objects = Objects::new(input);
        while let Some(Found { line, object }) = objects.next().with_context(context)? {
            let position = Position { file: Arc::clone(&name), line };
            let event = match &object {
                Ok(body) => self.request(body, line)?,
                Err(problem) => Err(vec![problem.clone()]),
            };
            let item = match event {
                Ok(request) => {
                    let bytes = object.map_or(0, |body| body.len());
                    let bytes = u32::try_from(bytes).expect("an object is not longer than its bound");
                    let permit =
                        self.runtime.block_on(Arc::clone(&self.queue_bytes).acquire_many_owned(bytes));
                    let permit = permit.expect("this semaphore is never closed");
                    Item::Event(Event { position, request, permit })
                }
                Err(faults) => Item::Refused { position, faults },
            };
            if self.items.blocking_send(item).is_err() {
                return Ok(Err(ReceiverGone));
            }
        }
        Ok(Ok(()))
    }

    /// The request for an object that begins on this line, or its faults.
    fn request(
        &mut self,
        body: &[u8],
        line: u64,
    ) -> anyhow::Result<Result<v1::PublishEventRequest, Vec<String>>> {
        let account = match self.account.map_or_else(|| account_of(body), Ok) {
            Ok(account) => account,
            Err(fault) => return Ok(Err(vec![in_file(&fault, line)])),
        };
        let event_id = self.occurrences.event_id(account, body)?;
        let read = JsonForm::read(self.format, body, account);
        Ok(read.map_err(|violations| describe(&violations, line)).map(|event| v1::PublishEventRequest {
            parent: format!("accounts/{account}"),
            event: Some(event.into()),
            event_id,
            validate_only: self.validate_only,
            include_warnings: None,
        }))
    }
}

/// The account that a body names. Errors continue a sentence about the body.
pub(in crate::commands) fn account_of(body: &[u8]) -> Result<AccountId, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("is not JSON: {error}"))?;
    let found = ACCOUNTS.iter().find_map(|path| value.pointer(path));
    let found = found.ok_or("does not name its account: use --account")?;
    // The sample form writes ids as strings.
    let number = found.as_i64().or_else(|| found.as_str()?.parse().ok());
    let account = number.and_then(|number| AccountId::new(number).ok());
    account.ok_or_else(|| "has an account that is not a positive integer".to_owned())
}

fn describe(violations: &FieldViolations, line: u64) -> Vec<String> {
    report::describe(violations.iter().map(
        |FieldViolation { field, description, .. }| match field.as_str() {
            "body" => in_file(description, line),
            field => format!("{field} {description}"),
        },
    ))
}

/// Converts the line in a fault of serde_json to the line in the file. serde_json counts lines from the
/// beginning of the object, which is on `line`, and puts the position last.
fn in_file(fault: &str, line: u64) -> String {
    let parts = fault.rsplit_once(" at line ");
    let parts = parts.and_then(|(what, position)| Some((what, position.split_once(' ')?)));
    match parts.and_then(|(what, (number, column))| Some((what, number.parse::<u64>().ok()?, column))) {
        None => fault.to_owned(),
        Some((what, ..=1, column)) => format!("{what} at {column}"),
        Some((what, number, column)) => format!("{what} at line {} {column}", line + number - 1),
    }
}

/// The objects so far, to number equal ones.
#[derive(Default)]
struct Occurrences {
    seen: HashSet<u64>,
    /// The counts of those that occurred more than once.
    repeated: HashMap<u64, u64>,
    objects_max: u64,
}

impl Occurrences {
    /// The event id of an object: derived from the account, its bytes and its number among equal objects.
    fn event_id(&mut self, account: AccountId, body: &[u8]) -> anyhow::Result<String> {
        let mut digest = Sha256::new();
        digest.update(b"tidings import 1\n");
        digest.update(account.get().to_be_bytes());
        digest.update(body);
        // Different objects with the same tag are counted together. That is harmless, since their digests
        // differ.
        let tag = u64::from_be_bytes(*digest.clone().finalize().first_chunk().expect("8 of 32 bytes"));
        let number = if self.seen.insert(tag) {
            anyhow::ensure!(
                self.seen.len() as u64 <= self.objects_max,
                "there are more than {} different objects: split the input, or raise --objects-max",
                self.objects_max
            );
            1
        } else {
            let number = self.repeated.entry(tag).or_insert(1);
            *number += 1;
            *number
        };
        digest.update(number.to_be_bytes());
        let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("import-{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: i64) -> AccountId {
        AccountId::new(number).unwrap()
    }

    #[test]
    fn an_id_is_derived_from_the_account_the_bytes_and_the_number_among_equal_objects() {
        let ids = |objects: &[(i64, &str)]| -> Vec<String> {
            let mut occurrences = Occurrences { objects_max: 10, ..Occurrences::default() };
            let id = |(number, body): &(i64, &str)| occurrences.event_id(account(*number), body.as_bytes());
            objects.iter().map(id).collect::<Result<_, _>>().unwrap()
        };
        let input = [(1, "{}"), (1, "{}"), (2, "{}"), (1, "{ }"), (1, "{}")];
        let first = ids(&input);
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 5, "{first:?}");
        assert!(first.iter().all(|id| crate::domain::ids::EventId::fits(id)), "{first:?}");
        assert_eq!(ids(&input), first);
        // Other objects before it change nothing.
        assert_eq!(ids(&[(3, "{}"), (1, "{ }"), (1, "{}")])[1..], [first[3].clone(), first[0].clone()]);
        // It must stay the same in every version.
        assert_eq!(first[0], "import-15fe5478ba31ec720fad778bdad455761ede639da32146110315decb2c0bd174");
    }

    #[test]
    fn more_different_objects_than_the_bound_are_refused_and_equal_ones_are_not() {
        let mut occurrences = Occurrences { objects_max: 2, ..Occurrences::default() };
        for body in ["1", "2", "1", "2", "2"] {
            occurrences.event_id(account(1), body.as_bytes()).unwrap();
        }
        let error = occurrences.event_id(account(1), b"3").unwrap_err().to_string();
        assert!(error.contains("more than 2") && error.contains("--objects-max"), "{error}");
    }

    #[test]
    fn the_account_is_found_in_the_body_of_every_event() {
        for body in [
            r#"{"event":"message_created","account":{"id":7,"name":"a"}}"#,
            r#"{"event":"conversation_created","messages":[{"account_id":7}]}"#,
            r#"{"event":"conversation_typing_on","conversation":{"account":{"id":7}}}"#,
            r#"{"event":"conversation_created","id":1,"account_id":7}"#,
            r#"{"event":"message_created","id":"1","account":{"id":"7","name":"a"}}"#,
        ] {
            assert_eq!(account_of(body.as_bytes()), Ok(account(7)), "{body}");
        }
        assert!(account_of(b"{}").unwrap_err().contains("--account"));
        for wrong in ["0", "-1", "\"seven\"", "7.5"] {
            let body = format!("{{\"account\":{{\"id\":{wrong}}}}}");
            assert!(account_of(body.as_bytes()).unwrap_err().contains("positive"), "{wrong}");
        }
    }

    #[test]
    fn a_fault_of_json_has_the_line_in_the_file() {
        let fault = |body: &str| describe(&JsonForm::read(None, body.as_bytes(), account(1)).unwrap_err(), 7);
        let one = fault("{\"a\":nope}");
        assert!(
            one[0].starts_with("is not valid JSON") && one[0].ends_with(": expected ident at column 7"),
            "{one:?}"
        );
        let further = fault("{\n\"a\":tru}");
        assert!(further[0].ends_with(": expected ident at line 8 column 8"), "{further:?}");
        assert_eq!(in_file("is at line one of", 7), "is at line one of");
    }
}
