//! The captured payloads, and for each the event that it is in protobuf JSON.

use std::{fs, path::PathBuf};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use tidings::{
    domain::ids::AccountId,
    proto::{DESCRIPTORS, v1},
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
        let told = body["account"]["id"].as_i64().or(body["messages"][0]["account_id"].as_i64());
        AccountId::new(told.unwrap_or(1)).unwrap()
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
