//! The routing of a checked event: its inbox and its order key.

use crate::{
    domain::event_routing::OrderKey,
    event::{catalogue::Record, other::Outline},
    proto::v1::{self, sender::Kind},
};

/// The inbox that an event belongs to. A contact's event belongs to none, and neither does one that leaves
/// the inbox unset.
pub(super) fn inbox_id(record: &Record<'_>) -> Option<i64> {
    let id = match record {
        Record::Conversation(conversation) => of_conversation(*conversation),
        Record::Typing(typing) => of_conversation(typing.conversation),
        Record::Message(message) => of_message(*message),
        Record::Widget(event) => event.inbox.as_ref().map(|inbox| inbox.id),
        Record::Inbox { inbox, .. } => inbox.map(|inbox| inbox.id),
        Record::Contact(_) => None,
        Record::Other(other) => {
            Outline::read(&other.json).ok().and_then(|outline| outline.routing().inbox_id)
        }
    };
    id.filter(|id| *id != 0)
}

fn of_conversation(conversation: Option<&v1::Conversation>) -> Option<i64> {
    conversation.map(|conversation| conversation.inbox_id)
}

fn of_message(message: Option<&v1::Message>) -> Option<i64> {
    let message = message?;
    match &message.inbox {
        Some(inbox) => Some(inbox.id),
        None => of_conversation(message.conversation.as_ref()),
    }
}

/// The order key of an event: its conversation; without one, its contact; without either, its inbox.
pub(in crate::event) fn order_key(record: &Record<'_>) -> OrderKey {
    match record {
        Record::Conversation(conversation) => by_conversation(*conversation),
        Record::Typing(typing) => by_conversation(typing.conversation),
        Record::Message(message) => message_order_key(*message),
        Record::Widget(event) if event.current_conversation.is_some() => {
            by_conversation(event.current_conversation.as_ref())
        }
        Record::Widget(event) => by_contact(event.contact.as_ref()),
        Record::Contact(contact) => by_contact(*contact),
        Record::Inbox { inbox, .. } => OrderKey::Inbox(inbox.map_or(0, |inbox| inbox.id)),
        Record::Other(other) => {
            let outline = Outline::read(&other.json);
            outline.map_or(OrderKey::Conversation(0), |outline| outline.routing().order_key)
        }
    }
}

fn by_conversation(conversation: Option<&v1::Conversation>) -> OrderKey {
    OrderKey::Conversation(conversation.map_or(0, |conversation| conversation.id))
}

fn by_contact(contact: Option<&v1::Contact>) -> OrderKey {
    OrderKey::Contact(contact.map_or(0, |contact| contact.id))
}

/// Messages without conversation, contact and inbox share one order, "conversation 0": nothing says which of
/// them belong together.
fn message_order_key(message: Option<&v1::Message>) -> OrderKey {
    let sender = message.and_then(|message| message.sender.as_ref()).and_then(|sender| sender.kind.as_ref());
    let conversation = message.and_then(|message| message.conversation.as_ref());
    let inbox = message.and_then(|message| message.inbox.as_ref());
    match (conversation, sender, inbox) {
        (Some(conversation), _, _) => OrderKey::Conversation(conversation.id),
        (None, Some(Kind::Contact(contact)), _) => OrderKey::Contact(contact.id),
        (None, _, Some(inbox)) => OrderKey::Inbox(inbox.id),
        (None, _, None) => OrderKey::Conversation(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::ids::AccountId,
        event::{samples, validate::check},
        proto::v1::{EventType, event::Payload},
    };

    fn account() -> AccountId {
        AccountId::new(7).unwrap()
    }

    fn sample(kind: EventType) -> v1::Event {
        samples::sample(kind, account())
    }

    /// Inbox and order key of an event.
    fn routing(mut event: v1::Event) -> (Option<i64>, OrderKey) {
        let routing = check(&mut event, account(), "event").unwrap();
        (routing.inbox_id, routing.order_key)
    }

    /// A conversation with the id 30 in the inbox 20.
    fn conversation() -> Option<v1::Conversation> {
        Some(v1::Conversation { id: 30, inbox_id: 20, ..v1::Conversation::default() })
    }

    fn event(payload: Payload) -> v1::Event {
        v1::Event { payload: Some(payload), ..v1::Event::default() }
    }

    fn agent() -> Option<v1::Sender> {
        Some(v1::Sender { kind: Some(Kind::User(v1::User { id: 40, ..v1::User::default() })) })
    }

    #[test]
    fn the_events_of_a_conversation_are_ordered_by_it() {
        let user = agent();
        let payloads = [
            Payload::ConversationCreated(v1::ConversationCreated { conversation: conversation() }),
            Payload::ConversationUpdated(v1::ConversationUpdated {
                conversation: conversation(),
                changed_attributes: vec![],
            }),
            Payload::ConversationStatusChanged(v1::ConversationStatusChanged {
                conversation: conversation(),
                changed_attributes: vec![],
            }),
            Payload::ConversationTypingOn(v1::ConversationTypingOn {
                user: user.clone(),
                conversation: conversation(),
                is_private: false,
                extra: None,
            }),
            Payload::ConversationTypingOff(v1::ConversationTypingOff {
                user,
                conversation: conversation(),
                is_private: false,
                extra: None,
            }),
        ];
        for payload in payloads {
            assert_eq!(routing(event(payload)), (Some(20), OrderKey::Conversation(30)));
        }
    }

    #[test]
    fn a_message_belongs_to_the_closest_that_it_names() {
        let bare = |change: fn(&mut v1::Message)| {
            let mut message = v1::Message { id: 1, message_type: 1, ..v1::Message::default() };
            change(&mut message);
            routing(event(Payload::MessageCreated(v1::MessageCreated { message: Some(message) })))
        };
        let from_contact = |message: &mut v1::Message| {
            let contact = v1::Contact { id: 50, ..v1::Contact::default() };
            message.sender = Some(v1::Sender { kind: Some(Kind::Contact(contact)) });
        };
        let inbox =
            |message: &mut v1::Message| message.inbox = Some(v1::Inbox { id: 60, ..v1::Inbox::default() });
        let in_conversation = |message: &mut v1::Message| message.conversation = conversation();

        let everything: fn(&mut v1::Message) = |message| {
            message.conversation = conversation();
            message.inbox = Some(v1::Inbox { id: 60, ..v1::Inbox::default() });
        };
        assert_eq!(bare(everything), (Some(60), OrderKey::Conversation(30)));
        assert_eq!(bare(in_conversation), (Some(20), OrderKey::Conversation(30)));
        assert_eq!(bare(from_contact), (None, OrderKey::Contact(50)));
        assert_eq!(bare(inbox), (Some(60), OrderKey::Inbox(60)));
        assert_eq!(bare(|_| {}), (None, OrderKey::Conversation(0)));
    }

    #[test]
    fn the_widget_contacts_and_inboxes_have_their_own_order() {
        assert_eq!(routing(sample(EventType::WebwidgetTriggered)), (Some(1), OrderKey::Contact(1)));
        let mut in_conversation = sample(EventType::WebwidgetTriggered);
        let Some(Payload::WebwidgetTriggered(e)) = &mut in_conversation.payload else { unreachable!() };
        e.current_conversation = conversation();
        assert_eq!(routing(in_conversation), (Some(1), OrderKey::Conversation(30)));

        assert_eq!(routing(sample(EventType::ContactCreated)), (None, OrderKey::Contact(1)));
        assert_eq!(routing(sample(EventType::ContactUpdated)), (None, OrderKey::Contact(1)));
        assert_eq!(routing(sample(EventType::InboxCreated)), (Some(1), OrderKey::Inbox(1)));
        assert_eq!(routing(sample(EventType::InboxUpdated)), (Some(1), OrderKey::Inbox(1)));
    }
}
