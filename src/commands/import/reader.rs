//! Reads the input on a thread of its own: objects become requests to publish, or refusals, and wait to be sent. How many bytes may wait
//! is bounded.

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
    Arguments,
    objects::{Found, Objects},
    report::{self, Place},
};
use crate::{
    domain::{
        field_violation::{FieldViolation, FieldViolations},
        ids::AccountId,
    },
    event::parse,
    proto::v1,
};

/// Bytes of objects that were read and are not published yet. At least the longest object.
const ROOM_BYTES: usize = 4 << 20;
/// Objects that were read and are not published yet.
const WAITING_MAX: usize = 1000;
/// What standard input is called.
const STANDARD_INPUT: &str = "-";
/// Where bodies of the twelve events tell their account.
const ACCOUNTS: [&str; 8] = [
    "/account/id",
    "/conversation/account/id",
    "/messages/0/account_id",
    "/conversation/messages/0/account_id",
    "/contact/account/id",
    "/user/account/id",
    "/current_conversation/account/id",
    "/current_conversation/messages/0/account_id",
];

/// What comes of the input, piece by piece.
pub(super) enum Item {
    /// An object that can be published.
    Event(Event),
    /// One that cannot, and why.
    Refused { place: Place, faults: Vec<String> },
    /// The last item: the input cannot be read on.
    Failed(anyhow::Error),
}

/// An object that can be published.
pub(super) struct Event {
    pub(super) place: Place,
    pub(super) request: v1::PublishEventRequest,
    /// Its bytes of what may wait. Given back when it is dropped.
    pub(super) room: OwnedSemaphorePermit,
}

/// Begins to read. The items end with the input.
///
/// # Errors
///
/// There is no further thread.
pub(super) fn start(arguments: &Arguments) -> anyhow::Result<mpsc::Receiver<Item>> {
    let (items, received) = mpsc::channel(WAITING_MAX);
    let reader = Reader {
        account: arguments.account,
        validate_only: arguments.validate_only,
        occurrences: Occurrences { objects_max: arguments.objects_max, ..Occurrences::default() },
        room: Arc::new(Semaphore::new(ROOM_BYTES)),
        items,
        runtime: Handle::current(),
    };
    let files = arguments.files.clone();
    // Not one of the runtime's: a read may wait for ever, and the end of the program does not wait for it.
    let run = move || reader.run(&files);
    thread::Builder::new().name("import-reader".to_owned()).spawn(run).context("cannot start a thread")?;
    Ok(received)
}

struct Reader {
    account: Option<AccountId>,
    validate_only: bool,
    occurrences: Occurrences,
    room: Arc<Semaphore>,
    items: mpsc::Sender<Item>,
    runtime: Handle,
}

/// Nobody wants further items.
struct NotWanted;

impl Reader {
    fn run(mut self, files: &[PathBuf]) {
        let standard_input = [PathBuf::from(STANDARD_INPUT)];
        let files = if files.is_empty() { &standard_input[..] } else { files };
        for file in files {
            match self.read(file) {
                Ok(Ok(())) => {}
                Ok(Err(NotWanted)) => return,
                Err(error) => {
                    drop(self.items.blocking_send(Item::Failed(error)));
                    return;
                }
            }
        }
    }

    fn read(&mut self, file: &Path) -> anyhow::Result<Result<(), NotWanted>> {
        let is_standard = file == Path::new(STANDARD_INPUT);
        let name: Arc<str> = if is_standard { "stdin".into() } else { file.to_string_lossy().into() };
        let context = || format!("cannot read {name}");
        let input: Box<dyn Read> = match is_standard {
            true => Box::new(io::stdin().lock()),
            false => Box::new(File::open(file).with_context(context)?),
        };
        let mut objects = Objects::new(input);
        while let Some(Found { line, object }) = objects.next().with_context(context)? {
            let place = Place { file: Arc::clone(&name), line };
            let event = match &object {
                Ok(body) => self.request(body, line)?,
                Err(problem) => Err(vec![problem.clone()]),
            };
            let item = match event {
                Ok(request) => {
                    let bytes = object.map_or(0, |body| body.len());
                    let bytes = u32::try_from(bytes).expect("an object is not longer than its bound");
                    let room = self.runtime.block_on(Arc::clone(&self.room).acquire_many_owned(bytes));
                    let room = room.expect("nobody closes it");
                    Item::Event(Event { place, request, room })
                }
                Err(faults) => Item::Refused { place, faults },
            };
            if self.items.blocking_send(item).is_err() {
                return Ok(Err(NotWanted));
            }
        }
        Ok(Ok(()))
    }

    /// What publishes an object that begins on this line, or what is at fault.
    fn request(
        &mut self,
        body: &[u8],
        line: u64,
    ) -> anyhow::Result<Result<v1::PublishEventRequest, Vec<String>>> {
        let account = match self.account.map_or_else(|| told_account(body), Ok) {
            Ok(account) => account,
            Err(fault) => return Ok(Err(vec![in_file(&fault, line)])),
        };
        let event_id = self.occurrences.event_id(account, body)?;
        Ok(parse::read(body, account).map_err(|faults| told(&faults, line)).map(|event| {
            v1::PublishEventRequest {
                parent: format!("accounts/{account}"),
                event: Some(event.into()),
                event_id,
                validate_only: self.validate_only,
            }
        }))
    }
}

/// The account that a body tells.
fn told_account(body: &[u8]) -> Result<AccountId, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("is not JSON: {error}"))?;
    let told = ACCOUNTS.iter().find_map(|path| value.pointer(path));
    let told = told.ok_or("does not tell its account: say with --account which one it is of")?;
    let account = told.as_i64().and_then(|number| AccountId::new(number).ok());
    account.ok_or_else(|| "does not tell its account as a positive integer".to_owned())
}

fn told(faults: &FieldViolations, line: u64) -> Vec<String> {
    report::told(faults.iter().map(|FieldViolation { field, description: rule, .. }| match field.as_str() {
        "body" => in_file(rule, line),
        field => format!("{field} {rule}"),
    }))
}

/// What is wrong with an object that begins on this line, with the line in the file. The library that reads JSON counts lines from
/// where the object begins, and tells them last.
fn in_file(fault: &str, line: u64) -> String {
    let place = fault.rsplit_once(" at line ").and_then(|(what, place)| Some((what, place.split_once(' ')?)));
    match place.and_then(|(what, (number, column))| Some((what, number.parse::<u64>().ok()?, column))) {
        None => fault.to_owned(),
        Some((what, ..=1, column)) => format!("{what} at {column}"),
        Some((what, number, column)) => format!("{what} at line {} {column}", line + number - 1),
    }
}

/// Which objects came before, so that equal ones are told apart by their number.
#[derive(Default)]
struct Occurrences {
    seen: HashSet<u64>,
    /// How often those came that came more than once.
    repeated: HashMap<u64, u64>,
    objects_max: u64,
}

impl Occurrences {
    /// The id that this object has as an event: the same for the same place among equal objects.
    fn event_id(&mut self, account: AccountId, body: &[u8]) -> anyhow::Result<String> {
        let mut digest = Sha256::new();
        digest.update(b"tidings import 1\n");
        digest.update(account.get().to_be_bytes());
        digest.update(body);
        // Two that share a tag are counted together, which does no harm: their digests differ.
        let tag = u64::from_be_bytes(*digest.clone().finalize().first_chunk().expect("8 of 32 bytes"));
        let number = if self.seen.insert(tag) {
            anyhow::ensure!(
                self.seen.len() as u64 <= self.objects_max,
                "there are more than {} different objects: take the input apart, or allow more with --objects-max",
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
    fn an_id_is_made_of_the_account_the_bytes_and_the_number_among_equal_ones() {
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
        // What comes before, if it is another object, changes nothing.
        assert_eq!(ids(&[(3, "{}"), (1, "{ }"), (1, "{}")])[1..], [first[3].clone(), first[0].clone()]);
        // It is the same in every version.
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
    fn an_account_is_told_wherever_chatwoot_tells_it() {
        for body in [
            r#"{"event":"message_created","account":{"id":7,"name":"a"}}"#,
            r#"{"event":"conversation_created","messages":[{"account_id":7}]}"#,
            r#"{"event":"conversation_typing_on","conversation":{"account":{"id":7}}}"#,
        ] {
            assert_eq!(told_account(body.as_bytes()), Ok(account(7)), "{body}");
        }
        assert!(told_account(b"{}").unwrap_err().contains("--account"));
        for wrong in ["0", "-1", "\"7\"", "7.5"] {
            let body = format!("{{\"account\":{{\"id\":{wrong}}}}}");
            assert!(told_account(body.as_bytes()).unwrap_err().contains("positive"), "{wrong}");
        }
    }

    #[test]
    fn a_fault_of_json_tells_the_line_in_the_file() {
        let fault = |body: &str| told(&parse::read(body.as_bytes(), account(1)).unwrap_err(), 7);
        let one = fault("{\"a\":nope}");
        assert!(
            one[0].starts_with("is not JSON") && one[0].ends_with(": expected ident at column 7"),
            "{one:?}"
        );
        let further = fault("{\n\"a\":tru}");
        assert!(further[0].ends_with(": expected ident at line 8 column 8"), "{further:?}");
        assert_eq!(in_file("is at line one of", 7), "is at line one of");
    }
}
