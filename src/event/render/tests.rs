//! Properties of every body. `tests/golden.rs` compares the bytes of each event type.

use proptest::prelude::*;
use prost_types::{Struct, Timestamp, value::Kind};
use serde_json::json;

use super::*;
use crate::{
    domain::ids::AccountId,
    event::{self, parse, samples},
    proto::v1::event::Payload,
};

fn account() -> AccountId {
    AccountId::new(7).unwrap()
}

fn read(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap()
}

/// Any free JSON that the check accepts.
fn free_value() -> impl Strategy<Value = prost_types::Value> {
    let leaf = prop_oneof![
        Just(Kind::NullValue(0)),
        any::<bool>().prop_map(Kind::BoolValue),
        (prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL)
            .prop_map(Kind::NumberValue),
        any::<String>().prop_map(Kind::StringValue),
    ]
    .prop_map(|kind| prost_types::Value { kind: Some(kind) });
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(prost_types::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|fields| Kind::StructValue(Struct { fields }))
                .prop_map(|kind| prost_types::Value { kind: Some(kind) }),
        ]
    })
}

prop_compose! {
    fn free_object()(fields in prop::collection::btree_map("[a-z_\"\\\\é]{0,8}x", free_value(), 0..4)) -> Struct {
        Struct { fields }
    }
}

prop_compose! {
    fn message_event()(
        content in prop::option::of(any::<String>()),
        source_id in prop::option::of(any::<String>()),
        referer in any::<String>(),
        id in 1..=i64::MAX,
        seconds in FIRST_SECOND..=LAST_SECOND,
        attributes in prop::option::of(free_object()),
        extra in prop::option::of(free_object()),
    ) -> v1::Event {
        let mut event = samples::typical_message(account(), 3, id);
        let Some(Payload::MessageCreated(created)) = &mut event.payload else { unreachable!() };
        let message = created.message.as_mut().unwrap();
        message.content = content;
        message.source_id = source_id;
        message.created_at = Some(Timestamp { seconds, nanos: 1 });
        message.content_attributes = attributes;
        let conversation = message.conversation.as_mut().unwrap();
        let additional = conversation.additional_attributes.as_mut().unwrap();
        additional.referer = referer;
        additional.extra = extra;
        event
    }
}

proptest! {
    #[test]
    fn a_body_is_json_with_the_values_of_the_event(mut event in message_event()) {
        event::check(&mut event, account(), "event").unwrap();
        let Some(Payload::MessageCreated(created)) = &event.payload else { unreachable!() };
        let message = created.message.as_ref().unwrap();

        let documented = read(&render(&event, PayloadFormat::Documented));
        prop_assert_eq!(&documented["id"], &json!(message.id));
        prop_assert_eq!(&documented["content"], &json!(message.content()));
        prop_assert_eq!(&documented["source_id"], &json!(message.source_id));
        prop_assert_eq!(&documented["created_at"], &json!(message.created_at.unwrap().seconds));

        let sample = read(&render(&event, PayloadFormat::Sample));
        prop_assert_eq!(&sample["id"], &json!(message.id.to_string()));
        prop_assert_eq!(&sample["content_attributes"], &documented["content_attributes"]);

        let chatwoot = read(&render(&event, PayloadFormat::Chatwoot));
        prop_assert_eq!(&chatwoot["id"], &json!(message.id));
        prop_assert_eq!(&chatwoot["content"], &json!(message.content));
        let source_id = message.source_id.as_ref().filter(|id| !id.is_empty());
        prop_assert_eq!(&chatwoot["source_id"], &json!(source_id));
        prop_assert_eq!(&chatwoot["content_attributes"], &documented["content_attributes"]);
        let inner = &chatwoot["conversation"]["messages"][0];
        prop_assert_eq!(&inner["created_at"], &documented["created_at"]);
        prop_assert_eq!(&inner["content"], &chatwoot["content"]);
    }

    #[test]
    fn a_body_is_read_as_an_event_with_the_same_body(mut event in message_event()) {
        event::check(&mut event, account(), "event").unwrap();
        for form in PayloadFormat::all() {
            let body = render(&event, form);
            let again = parse::read_form(form, &body, account()).unwrap();
            let text = |body| String::from_utf8(body).unwrap();
            prop_assert_eq!(text(render(&again, form)), text(body));
        }
    }

    #[test]
    fn the_same_event_gives_the_same_bytes(mut event in message_event()) {
        use prost::Message as _;

        event::check(&mut event, account(), "event").unwrap();
        let stored = v1::Event::decode(event.encode_to_vec().as_slice()).unwrap();
        for format in PayloadFormat::all() {
            prop_assert_eq!(render(&event, format), render(&stored, format));
        }
    }
}

#[test]
fn only_message_events_have_a_sample_form() {
    for kind in EventType::all() {
        let event = samples::sample(kind, account());
        let bodies = [PayloadFormat::Documented, PayloadFormat::Sample].map(|format| render(&event, format));
        let differs = bodies[0] != bodies[1];
        assert_eq!(has_sample_form(kind), differs, "{kind:?}");
        assert_eq!(differs, matches!(kind, EventType::MessageCreated | EventType::MessageUpdated));
    }
}

#[test]
fn the_integers_of_a_body_are_exact() {
    let event = samples::typical_message(account(), i64::MAX, i64::MAX - 1);
    let body = String::from_utf8(render(&event, PayloadFormat::Documented)).unwrap();
    assert!(body.starts_with(r#"{"event":"message_created","id":9223372036854775806,"#), "{body}");
    assert!(body.contains(r#""id":9223372036854775807,"#), "{body}");
}

/// The sample's `sender` and `contact`, for a sender and a contact of the conversation with these ids.
fn sample_people(sender: Option<v1::sender::Kind>, contact: Option<i64>) -> [serde_json::Value; 2] {
    let mut event = samples::typical_message(account(), 1, 1);
    let Some(Payload::MessageCreated(created)) = &mut event.payload else { unreachable!() };
    let message = created.message.as_mut().unwrap();
    message.sender = sender.map(|kind| v1::Sender { kind: Some(kind) });
    let meta = message.conversation.as_mut().unwrap().meta.as_mut().unwrap();
    meta.sender = contact.map(|id| v1::Contact { id, ..v1::Contact::default() });
    let mut body = read(&render(&event, PayloadFormat::Sample));
    ["sender", "contact"].map(|key| body[key].take())
}

#[test]
fn the_sample_separates_agents_from_contacts() {
    use v1::sender::Kind::{AgentBot, Contact, User};

    let user = || Some(User(v1::User { id: 1, email: "a@b".into(), ..v1::User::default() }));
    let bot = || Some(AgentBot(v1::AgentBot { id: 2, ..v1::AgentBot::default() }));
    let contact = || Some(Contact(v1::Contact { id: 3, ..v1::Contact::default() }));
    let agent = |id: &str, email: &str| json!({"id": id, "name": "", "email": email});
    let named = |id: &str| json!({"id": id, "name": ""});

    assert_eq!(sample_people(user(), Some(9)), [agent("1", "a@b"), named("9")]);
    assert_eq!(sample_people(bot(), None), [agent("2", ""), json!(null)]);
    assert_eq!(sample_people(contact(), None), [json!(null), named("3")]);
    assert_eq!(sample_people(contact(), Some(9)), [json!(null), named("9")]);
    assert_eq!(sample_people(None, None), [json!(null), json!(null)]);
}
