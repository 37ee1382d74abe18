//! The captured payloads, and for each the event that it is in protobuf JSON.

use std::{fs, path::PathBuf};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use tidings::{
    domain::ids::AccountId,
    proto::{DESCRIPTORS, v1},
};

use super::{
    exceptions::{EXCEPTIONS, NONE_OF_THE_TWELVE},
    json::{self, Difference},
};

/// A payload that Chatwoot sent.
pub struct Fixture {
    /// `message_created-1`
    pub name: String,
    /// As it was captured, with personal data replaced.
    pub captured: Vec<u8>,
}

/// All of them, by name.
pub fn all() -> Vec<Fixture> {
    let mut names: Vec<_> = fs::read_dir(folder("captured"))
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let read = |name: &String| fs::read(folder("captured").join(format!("{name}.json"))).unwrap();
    names.iter().map(|name| Fixture { name: name.clone(), captured: read(name) }).collect()
}

impl Fixture {
    /// The account that it is of, wherever it says so; 1 where it does not.
    pub fn account(&self) -> AccountId {
        let body: serde_json::Value = serde_json::from_slice(&self.captured).unwrap();
        let id = body["account"]["id"].as_i64().or(body["messages"][0]["account_id"].as_i64());
        AccountId::new(id.unwrap_or(1)).unwrap()
    }

    /// The event that is kept for it.
    pub fn event(&self) -> v1::Event {
        let file = self.file();
        let json = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut json = serde_json::Deserializer::from_str(&json);
        let message = DynamicMessage::deserialize(descriptor(), &mut json)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        message.transcode_to().unwrap()
    }

    /// Keeps an event for it.
    pub fn keep(&self, event: &v1::Event) {
        let message = DynamicMessage::decode(descriptor(), event.encode_to_vec().as_slice()).unwrap();
        let options = prost_reflect::SerializeOptions::new()
            .use_proto_field_name(true)
            .stringify_64_bit_integers(false);
        let mut json = Vec::new();
        let mut pretty = serde_json::Serializer::pretty(&mut json);
        message.serialize_with_options(&mut pretty, &options).unwrap();
        json.push(b'\n');
        fs::write(self.file(), json).unwrap();
    }

    /// Whether the payload is one of agent bots and automation rules.
    pub fn is_an_unknown_event(&self) -> bool {
        NONE_OF_THE_TWELVE.iter().any(|(name, _)| *name == self.name)
    }

    /// The payload with the name of an event that has the same record.
    pub fn as_one_of_the_twelve(&self) -> Vec<u8> {
        let mut body: serde_json::Value = serde_json::from_slice(&self.captured).unwrap();
        if let Some((_, event)) = NONE_OF_THE_TWELVE.iter().find(|(name, _)| *name == self.name) {
            body["event"] = (*event).into();
        }
        serde_json::to_vec(&body).unwrap()
    }

    /// The differences of a body from the captured one, with paths as the exceptions have them.
    pub fn differences(&self, body: &[u8]) -> Vec<Difference> {
        let found = json::differences(&json::read(&self.captured), &json::read(body)).into_iter();
        found.map(|difference| Difference { path: self.general(&difference.path), ..difference }).collect()
    }

    /// Asserts that a body differs from the captured one as the exceptions say, and nowhere else.
    pub fn assert_differs_as_excepted(&self, body: &[u8]) {
        for Difference { path, sort, what } in self.differences(body) {
            let is_excepted = EXCEPTIONS.iter().any(|exception| {
                exception.sort == sort
                    && exception.payloads().any(|payload| payload == self.name)
                    && exception.paths().any(|excepted| excepted == path)
            });
            assert!(is_excepted, "{}: {path} {sort:?}: {what}", self.name);
        }
    }

    /// A path as the exceptions have it.
    fn general(&self, path: &str) -> String {
        let path: String = path.split(['[', ']']).step_by(2).collect();
        if self.name.starts_with("conversation_") {
            return format!("~{path}");
        }
        match path.strip_prefix("conversation") {
            Some(within) => format!("~{}", within.trim_start_matches('.')),
            None => path,
        }
    }

    fn file(&self) -> PathBuf {
        folder("events").join(format!("{}.json", self.name))
    }
}

fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "chatwoot", name].iter().collect()
}

fn descriptor() -> MessageDescriptor {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    pool.get_message_by_name("tidings.v1.Event").unwrap()
}
