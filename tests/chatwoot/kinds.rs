//! Receivers as people write them for Chatwoot's webhooks, one for each kind that is in use: what each reads,
//! with the types that it takes for granted. A body in Chatwoot's form must be one that it can use.

use super::fixtures::{self, Fixture};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidings::{
    domain::{ids::AccountId, payload_format::PayloadFormat},
    event::{self, parse, render, samples},
    proto::v1::{self, EventType},
};

mod messages;
mod records;
mod types;

/// What a receiver does with a body, in words, or why it breaks on it.
type Result = std::result::Result<String, String>;

/// A kind of receiver.
struct Kind {
    name: &'static str,
    /// What it subscribes to.
    events: &'static [&'static str],
    take: fn(&[u8]) -> Result,
    /// Captured bodies that it cannot use as they are, and why: they are no bodies of Chatwoot 4.
    except: &'static [(&'static str, &'static str)],
}

/// The element of `messages` is one that came while the event waited to be sent.
const LATER: &str = "it has another message in its conversation";
const CUT_SHORT: &str = "its conversation is cut short";
const OLD: &str = "it is of 2021, when bodies had fewer keys";

const MESSAGES: &[&str] = &["message_created", "message_updated"];

const KINDS: &[Kind] = &[
    Kind { name: "a bot that answers", events: &["message_created"], take: messages::bot, except: &[] },
    Kind {
        name: "a bridge to a messenger",
        events: &["message_created"],
        take: messages::bridge,
        except: &[("message_created-6", LATER)],
    },
    Kind {
        name: "a flow in n8n",
        events: MESSAGES,
        take: messages::flow,
        except: &[("message_updated-2", CUT_SHORT)],
    },
    Kind { name: "a transcriber", events: MESSAGES, take: messages::transcriber, except: &[] },
    Kind {
        name: "a tracker of messages",
        events: &["message_updated"],
        take: messages::tracker,
        except: &[("message_updated-2", CUT_SHORT)],
    },
    Kind { name: "a CRM", events: &["contact_created", "contact_updated"], take: records::crm, except: &[] },
    Kind {
        name: "a service desk",
        events: &["conversation_created", "conversation_updated", "conversation_status_changed"],
        take: records::desk,
        except: &[
            ("conversation_opened-1", OLD),
            ("conversation_resolved-1", OLD),
            ("conversation_status_changed-2", OLD),
        ],
    },
    Kind { name: "a notifier", events: &["conversation_updated"], take: records::notifier, except: &[] },
    Kind {
        name: "a dashboard",
        events: &["conversation_status_changed"],
        take: records::dashboard,
        except: &[
            ("conversation_opened-1", OLD),
            ("conversation_resolved-1", OLD),
            ("conversation_status_changed-2", OLD),
        ],
    },
    Kind {
        name: "a relay of typing",
        events: &["conversation_typing_on", "conversation_typing_off"],
        take: records::relay,
        except: &[],
    },
    Kind {
        name: "counts of visits",
        events: &["webwidget_triggered"],
        take: records::visits,
        except: &[("webwidget_triggered-1", OLD)],
    },
    Kind {
        name: "a watch over inboxes",
        events: &["inbox_created", "inbox_updated"],
        take: records::inventory,
        except: &[],
    },
];

/// Reads a body as the receiver's types have it.
fn read<T: DeserializeOwned>(body: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn account() -> AccountId {
    AccountId::new(1).unwrap()
}

/// Every made-up event, by its name in JSON.
fn made_up() -> Vec<(String, v1::Event)> {
    // What has no type of its own has nothing that a receiver could take for granted.
    let kinds = EventType::all().filter(|kind| *kind != EventType::Other);
    let mut events: Vec<_> = kinds.map(|kind| samples::sample(kind, account())).collect();
    events.push(samples::typical_message(account(), 3, 7));
    let named = |event| (name_in(&render::render(&event, PayloadFormat::Chatwoot)), event);
    events.into_iter().map(checked).map(named).collect()
}

fn checked(mut event: v1::Event) -> v1::Event {
    event::check(&mut event, account(), "event").unwrap();
    event
}

/// The event that a body names.
fn name_in(body: &[u8]) -> String {
    let body: Value = read(body).unwrap();
    body["event"].as_str().unwrap().to_owned()
}

#[test]
fn every_kind_can_use_the_synthetic_events() {
    for kind in KINDS {
        for event in kind.events {
            let of_this: Vec<_> = made_up().into_iter().filter(|(name, _)| name == event).collect();
            assert!(!of_this.is_empty(), "{event}");
            for (_, event) in of_this {
                let body = render::render(&event, PayloadFormat::Chatwoot);
                if let Err(why) = (kind.take)(&body) {
                    panic!("{} breaks: {why}\n{}", kind.name, String::from_utf8_lossy(&body));
                }
            }
        }
    }
}

#[test]
fn every_event_is_used_by_some_kind() {
    for (event, _) in made_up() {
        assert!(KINDS.iter().any(|kind| kind.events.contains(&event.as_str())), "{event}");
    }
}

/// What a receiver does with Chatwoot's own body, it does with the gateway's.
#[test]
fn every_kind_makes_the_same_of_a_captured_body_and_of_ours() {
    let captured = captured();
    let mut faults = Vec::new();
    for kind in KINDS {
        for event in kind.events {
            let of_this: Vec<_> = captured.iter().filter(|body| body.event == *event).collect();
            let mut compared = 0;
            for Captured { file, theirs, ours, .. } in &of_this {
                let except = kind.except.iter().find(|(except, _)| except == file);
                match ((kind.take)(theirs), except) {
                    (Ok(done), None) => {
                        let with_ours = (kind.take)(ours);
                        compared += 1;
                        if with_ours.as_ref() != Ok(&done) {
                            faults.push(format!("{}, {file}:\n    {done}\n    {with_ours:?}", kind.name));
                        }
                    }
                    (Err(_), Some(_)) => {}
                    (Ok(_), Some((_, why))) => faults.push(format!("{} can use {file} ({why})", kind.name)),
                    (Err(why), None) => faults.push(format!("{} breaks on {file}: {why}", kind.name)),
                }
            }
            if compared == 0 && !of_this.is_empty() {
                faults.push(format!("{}: no captured {event} was compared", kind.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A body that was captured, and the one that the gateway sends for it.
struct Captured {
    file: String,
    event: String,
    theirs: Vec<u8>,
    ours: Vec<u8>,
}

fn captured() -> Vec<Captured> {
    let of = |fixture: &Fixture| {
        let theirs = fixture.as_one_of_the_twelve();
        let event = parse::read(&theirs, fixture.account()).unwrap();
        let ours = render::render(&event, PayloadFormat::Chatwoot);
        Captured { file: fixture.name.clone(), event: name_in(&theirs), theirs, ours }
    };
    fixtures::all().iter().map(of).collect()
}

/// So the form matters: no kind can use the documented one.
#[test]
fn every_kind_breaks_on_the_documented_form() {
    for kind in KINDS {
        for (name, event) in made_up() {
            if kind.events.contains(&name.as_str()) {
                let done = (kind.take)(&render::render(&event, PayloadFormat::Documented));
                assert!(done.is_err(), "{} takes {name}: {done:?}", kind.name);
            }
        }
    }
}

/// What public receivers rely on: with one of these values each, a message is of no use to some kind.
#[test]
fn some_kind_breaks_on_each_wrong_value() {
    let wrong = [
        ("", "id", json!("7")),
        ("", "message_type", json!(0)),
        ("", "created_at", json!(1_583_240_757)),
        ("", "private", json!(null)),
        ("", "content_attributes", json!(null)),
        ("", "attachments", json!([])),
        ("", "source_id", json!("")),
        ("/conversation", "id", json!("3")),
        ("/conversation", "status", json!(0)),
        ("/conversation", "messages", json!([])),
        ("/conversation/meta", "sender", json!({"id": 1, "name": "contact-name", "type": "contact"})),
        ("/conversation/meta/sender", "custom_attributes", json!(null)),
        ("/conversation/contact_inbox", "source_id", json!(null)),
        ("/conversation/messages/0", "message_type", json!("incoming")),
        ("/conversation/messages/0", "created_at", json!("2020-03-03T13:05:57.000Z")),
    ];
    let message =
        render::render(&checked(samples::typical_message(account(), 3, 7)), PayloadFormat::Chatwoot);
    let breaking = |body: &[u8]| {
        let kinds = KINDS.iter().filter(|kind| kind.events.contains(&"message_created"));
        kinds.filter(|kind| (kind.take)(body).is_err()).map(|kind| kind.name).collect::<Vec<_>>()
    };
    assert_eq!(breaking(&message), [""; 0]);
    for (record, key, value) in wrong {
        let mut body: Value = read(&message).unwrap();
        let keys = body.pointer_mut(record).and_then(Value::as_object_mut).unwrap();
        keys.insert(key.to_owned(), value.clone());
        assert!(!breaking(&serde_json::to_vec(&body).unwrap()).is_empty(), "{record}/{key}: {value}");
    }
}
