//! Receivers of conversations, contacts and inboxes.

#![expect(dead_code, reason = "what is read is compared as Debug shows it")]

use serde::Deserialize;
use serde_json::Value;

use super::{
    Result, read,
    types::{Change, Iso, Named, Object, Unix, picture, present, some},
};

/// A CRM in Python that keeps contacts.
pub fn crm(body: &[u8]) -> Result {
    #[derive(Debug, Deserialize)]
    struct Contact {
        event: String,
        id: i64,
        name: String,
        #[serde(deserialize_with = "present")]
        email: Option<String>,
        #[serde(deserialize_with = "present")]
        phone_number: Option<String>,
        #[serde(deserialize_with = "present")]
        identifier: Option<String>,
        #[serde(deserialize_with = "picture")]
        avatar: Option<String>,
        thumbnail: String,
        custom_attributes: Object,
        additional_attributes: Object,
        account: Named,
        #[serde(default, deserialize_with = "some")]
        changed_attributes: Vec<Change>,
    }

    let contact: Contact = read(body)?;
    if (contact.event == "contact_updated") == contact.changed_attributes.is_empty() {
        return Err(format!("{} with {} changes", contact.event, contact.changed_attributes.len()));
    }
    Ok(format!("{contact:?}"))
}

/// What a service desk in C# keeps of a conversation.
#[derive(Debug, Deserialize)]
struct Ticket {
    id: i64,
    inbox_id: i64,
    status: String,
    #[serde(deserialize_with = "present")]
    priority: Option<String>,
    labels: Vec<String>,
    custom_attributes: Object,
    additional_attributes: Object,
    can_reply: bool,
    created_at: Unix,
    timestamp: Unix,
    agent_last_seen_at: Unix,
    contact_last_seen_at: Unix,
    #[serde(deserialize_with = "present")]
    snoozed_until: Option<Iso>,
    #[serde(deserialize_with = "present")]
    first_reply_created_at: Option<Iso>,
    contact_inbox: ContactInbox,
    meta: Meta,
    messages: Vec<Message>,
}

#[derive(Debug, Deserialize)]
struct ContactInbox {
    contact_id: i64,
    source_id: String,
    created_at: Iso,
    hmac_verified: bool,
}

#[derive(Debug, Deserialize)]
struct Meta {
    sender: Contact,
    #[serde(deserialize_with = "present")]
    assignee: Option<User>,
    #[serde(deserialize_with = "present")]
    team: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Contact {
    id: i64,
    name: String,
    #[serde(deserialize_with = "present")]
    email: Option<String>,
    #[serde(deserialize_with = "present")]
    phone_number: Option<String>,
    custom_attributes: Object,
}

#[derive(Debug, Deserialize)]
struct User {
    id: i64,
    available_name: String,
    avatar_url: String,
    r#type: String,
}

#[derive(Debug, Deserialize)]
struct Message {
    id: i64,
    account_id: i64,
    message_type: u8,
    created_at: Unix,
    #[serde(deserialize_with = "present")]
    content: Option<String>,
}

/// A service desk in C# that has a ticket for each conversation.
pub fn desk(body: &[u8]) -> Result {
    let ticket: Ticket = read(body)?;
    if ticket.messages.len() > 1 {
        return Err(format!("{} messages", ticket.messages.len()));
    }
    Ok(format!("{ticket:?}"))
}

/// A notifier in TypeScript that posts to a team's chat who took which conversation.
pub fn notifier(body: &[u8]) -> Result {
    #[derive(Deserialize)]
    struct Conversation {
        id: i64,
        #[serde(deserialize_with = "some")]
        changed_attributes: Vec<Change>,
        meta: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(deserialize_with = "present")]
        assignee: Option<User>,
    }

    let Conversation { id, changed_attributes, meta } = read(body)?;
    let changes: Vec<_> = changed_attributes
        .iter()
        .map(|Change { name, values }| {
            format!("{name}: {} to {}", values.previous_value, values.current_value)
        })
        .collect();
    Ok(format!("{id} of {:?}: {}", meta.assignee.map(|user| user.available_name), changes.join(", ")))
}

/// A dashboard in Go of how long customers wait.
pub fn dashboard(body: &[u8]) -> Result {
    #[derive(Deserialize)]
    struct Conversation {
        id: i64,
        status: String,
        /// Null, or the changes of the status.
        #[serde(deserialize_with = "present")]
        changed_attributes: Option<Vec<Change>>,
        created_at: Unix,
        #[serde(default)]
        waiting_since: Option<Unix>,
        #[serde(deserialize_with = "present")]
        first_reply_created_at: Option<Iso>,
        unread_count: u32,
    }

    let conversation: Conversation = read(body)?;
    let from = conversation
        .changed_attributes
        .unwrap_or_default()
        .into_iter()
        .find(|change| change.name == "status")
        .map_or(Value::Null, |change| change.values.previous_value);
    Ok(format!(
        "{} from {from} to {}, created {:?}, waits {:?}, answered {:?}, {} unread",
        conversation.id,
        conversation.status,
        conversation.created_at,
        conversation.waiting_since.unwrap_or(Unix::try_from(0)?),
        conversation.first_reply_created_at,
        conversation.unread_count,
    ))
}

/// A relay in Rust that shows in a messenger that an agent types.
pub fn relay(body: &[u8]) -> Result {
    #[derive(Deserialize)]
    struct Typing {
        event: String,
        user: User,
        conversation: Conversation,
        is_private: bool,
    }
    /// A contact has no type.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum User {
        Typed { r#type: String, id: i64 },
        Contact { id: i64, account: Named },
    }
    #[derive(Deserialize)]
    struct Conversation {
        id: i64,
        meta: Meta,
        contact_inbox: ContactInbox,
    }
    #[derive(Deserialize)]
    struct Meta {
        sender: Contact,
    }

    let Typing { event, user, conversation, is_private } = read(body)?;
    let by = match user {
        User::Typed { r#type, id } => format!("{type} {id}"),
        User::Contact { id, account } => format!("contact {id} of {}", account.id),
    };
    let to = conversation.meta.sender.phone_number.unwrap_or(conversation.contact_inbox.source_id);
    Ok(format!("{event} by {by} in {} for {to}, private {is_private}", conversation.id))
}

/// Counts of visits in Ruby: who opened the widget, where, and whether they had written before.
pub fn visits(body: &[u8]) -> Result {
    #[derive(Debug, Deserialize)]
    struct Visit {
        id: i64,
        source_id: String,
        contact: Visitor,
        inbox: Named,
        account: Named,
        #[serde(deserialize_with = "present")]
        current_conversation: Option<Ticket>,
        event_info: EventInfo,
    }
    #[derive(Debug, Deserialize)]
    struct Visitor {
        id: i64,
        name: String,
        #[serde(deserialize_with = "present")]
        identifier: Option<String>,
        #[serde(deserialize_with = "picture")]
        avatar: Option<String>,
    }
    #[derive(Debug, Deserialize)]
    struct EventInfo {
        #[serde(default)]
        referer: Option<String>,
        #[serde(default)]
        initiated_at: Option<InitiatedAt>,
        #[serde(deserialize_with = "present")]
        browser_language: Option<String>,
        #[serde(deserialize_with = "present")]
        widget_language: Option<String>,
        browser: Browser,
    }
    #[derive(Debug, Deserialize)]
    struct InitiatedAt {
        timestamp: String,
    }
    #[derive(Debug, Deserialize)]
    struct Browser {
        browser_name: String,
        device_name: String,
        platform_name: String,
    }

    Ok(format!("{:?}", read::<Visit>(body)?))
}

/// A watch in Python over how inboxes are set up. Settings are flat, and a key `id` or `name` would be taken
/// for one.
pub fn inventory(body: &[u8]) -> Result {
    #[derive(Debug, Deserialize)]
    struct Inbox {
        event: String,
        #[serde(default, deserialize_with = "some")]
        changed_attributes: Vec<Change>,
        #[serde(flatten)]
        settings: Object,
    }

    let inbox: Inbox = read(body)?;
    if (inbox.event == "inbox_updated") == inbox.changed_attributes.is_empty() {
        return Err(format!("{} with {} changes", inbox.event, inbox.changed_attributes.len()));
    }
    match inbox
        .settings
        .keys()
        .find(|key| ["id", "name", "inbox", "settings", "data"].contains(&key.as_str()))
    {
        Some(key) => Err(format!("{key} is no setting")),
        None => Ok(format!("{inbox:?}")),
    }
}
