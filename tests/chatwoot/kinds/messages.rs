//! Receivers of messages.

use serde::Deserialize;

use super::{
    Result, read,
    types::{Iso, Named, Object, Unix, null_or_id, one, present, some},
};

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Incoming,
    Outgoing,
    Template,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Open,
    Resolved,
    Pending,
    Snoozed,
}

/// A bot in TypeScript that replies to incoming messages while nobody else has taken the conversation.
pub fn bot(body: &[u8]) -> Result {
    #[derive(Deserialize)]
    struct Message {
        id: i64,
        #[serde(deserialize_with = "present")]
        content: Option<String>,
        content_attributes: Object,
        message_type: Direction,
        private: bool,
        account: Named,
        inbox: Named,
        conversation: Conversation,
        #[serde(deserialize_with = "present")]
        sender: Option<Sender>,
    }
    #[derive(Deserialize)]
    struct Conversation {
        id: i64,
        status: Status,
        can_reply: bool,
        meta: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(deserialize_with = "present")]
        assignee: Option<Named>,
    }
    #[derive(Deserialize)]
    struct Sender {
        id: i64,
        name: String,
    }

    let Message {
        id,
        content,
        content_attributes,
        message_type,
        private,
        account,
        inbox,
        conversation,
        sender,
    } = read(body)?;
    if message_type != Direction::Incoming || private || !conversation.can_reply {
        return Ok("passes it by".into());
    }
    Ok(format!(
        "answers {id} {content:?} ({:?}) of {:?} in accounts/{}/conversations/{} ({:?}, inbox {} {}, of {:?})",
        content_attributes.get("in_reply_to"),
        sender.map(|sender| (sender.id, sender.name)),
        account.id,
        conversation.id,
        conversation.status,
        inbox.id,
        inbox.name,
        conversation.meta.assignee.map(|user| user.id),
    ))
}

/// A bridge to a messenger: passes on what agents write, and drops what it has brought in itself.
pub fn bridge(body: &[u8]) -> Result {
    #[derive(Deserialize)]
    struct Message {
        #[serde(deserialize_with = "present")]
        content: Option<String>,
        message_type: Direction,
        private: bool,
        #[serde(deserialize_with = "null_or_id")]
        source_id: Option<String>,
        content_attributes: Object,
        #[serde(default, deserialize_with = "some")]
        attachments: Vec<File>,
        conversation: Conversation,
    }
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "what is read is compared as Debug shows it")]
    struct File {
        file_type: String,
        data_url: String,
    }
    #[derive(Deserialize)]
    struct Conversation {
        contact_inbox: ContactInbox,
        meta: Meta,
        #[serde(rename = "messages", deserialize_with = "one")]
        message: Inner,
    }
    #[derive(Deserialize)]
    struct ContactInbox {
        source_id: String,
    }
    #[derive(Deserialize)]
    struct Meta {
        sender: Contact,
    }
    #[derive(Deserialize)]
    struct Contact {
        #[serde(deserialize_with = "present")]
        phone_number: Option<String>,
        #[serde(deserialize_with = "present")]
        identifier: Option<String>,
        custom_attributes: Object,
    }
    #[derive(Deserialize)]
    struct Inner {
        id: i64,
        #[serde(deserialize_with = "present")]
        content: Option<String>,
        #[serde(default, deserialize_with = "some")]
        attachments: Vec<File>,
    }

    let message: Message = read(body)?;
    let Conversation { contact_inbox, meta, message: inner } = message.conversation;
    let recipient = meta.sender.phone_number.or(meta.sender.identifier).unwrap_or(contact_inbox.source_id);
    if inner.content != message.content || inner.attachments.len() != message.attachments.len() {
        return Err(format!("{} is another message", inner.id));
    }
    let echo = message.source_id.is_some();
    if message.private || echo || message.message_type != Direction::Outgoing {
        return Ok(format!("passes by what is for {recipient}: echo {echo}"));
    }
    Ok(format!(
        "sends {} {:?} to {recipient} ({} attributes) in reply to {:?} with {:?}",
        inner.id,
        message.content,
        meta.sender.custom_attributes.len(),
        message.content_attributes.get("in_reply_to_external_id"),
        message.attachments,
    ))
}

/// An n8n flow: it picks values by their paths, in both ways in which a message is written, and compares
/// them.
pub fn flow(body: &[u8]) -> Result {
    #[derive(Deserialize)]
    struct Message {
        event: String,
        id: i64,
        created_at: Iso,
        message_type: Direction,
        content_type: String,
        conversation: Conversation,
    }
    #[derive(Deserialize)]
    struct Conversation {
        id: i64,
        additional_attributes: Object,
        #[serde(deserialize_with = "present")]
        channel: Option<String>,
        unread_count: i32,
        #[serde(rename = "messages", deserialize_with = "one")]
        message: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        id: i64,
        account_id: i64,
        conversation_id: i64,
        inbox_id: i64,
        message_type: u8,
        created_at: Unix,
        private: bool,
        #[serde(deserialize_with = "present")]
        sender_id: Option<i64>,
    }

    let message: Message = read(body)?;
    let Conversation { id, additional_attributes, channel, unread_count, message: inner } =
        message.conversation;
    if inner.conversation_id != id {
        return Err(format!("a message of {}", inner.conversation_id));
    }
    Ok(format!(
        "{} {} {} ({}) at {:?} ({:?}): {:?} ({}), accounts/{}/conversations/{id} of inbox {} {channel:?}, {unread_count} \
         unread, by {:?}, private {}, {} attributes",
        message.event,
        message.content_type,
        message.id,
        inner.id,
        message.created_at,
        inner.created_at,
        message.message_type,
        inner.message_type,
        inner.account_id,
        inner.inbox_id,
        inner.sender_id,
        inner.private,
        additional_attributes.len(),
    ))
}

/// A service in Go that has voice messages written down and pictures described.
pub fn transcriber(body: &[u8]) -> Result {
    #[derive(Deserialize)]
    struct Message {
        id: i64,
        message_type: Direction,
        #[serde(default, deserialize_with = "some")]
        attachments: Vec<Attachment>,
        account: Named,
        conversation: Conversation,
    }
    #[derive(Deserialize)]
    struct Conversation {
        id: i64,
    }
    #[derive(Deserialize)]
    #[serde(tag = "file_type", rename_all = "lowercase")]
    enum Attachment {
        Image(File),
        Audio(File),
        Video(File),
        File(File),
        Location {
            coordinates_lat: f64,
            coordinates_long: f64,
        },
        #[serde(other)]
        Other,
    }
    #[derive(Deserialize)]
    struct File {
        id: i64,
        message_id: i64,
        #[serde(deserialize_with = "present")]
        extension: Option<String>,
        data_url: String,
        thumb_url: String,
        file_size: i64,
    }

    let message: Message = read(body)?;
    let mut done = vec![format!("{:?} {}", message.message_type, message.attachments.len())];
    for attachment in message.attachments {
        done.push(match attachment {
            Attachment::Image(file)
            | Attachment::Audio(file)
            | Attachment::Video(file)
            | Attachment::File(file) => {
                if file.message_id != message.id {
                    return Err(format!("a file of {}", file.message_id));
                }
                format!(
                    "{} {:?} {} {}, {} bytes",
                    file.id, file.extension, file.data_url, file.thumb_url, file.file_size
                )
            }
            Attachment::Location { coordinates_lat, coordinates_long } => {
                format!("{coordinates_lat} {coordinates_long}")
            }
            Attachment::Other => "nothing to do".into(),
        });
    }
    Ok(format!(
        "accounts/{}/conversations/{}: {}",
        message.account.id,
        message.conversation.id,
        done.join(", ")
    ))
}

/// A tracker in Python of what became of messages, and of what customers chose in them.
pub fn tracker(body: &[u8]) -> Result {
    #[derive(Deserialize)]
    struct Message {
        id: i64,
        content_type: String,
        content_attributes: Attributes,
        conversation: Conversation,
    }
    #[derive(Deserialize)]
    struct Attributes {
        /// An array of what was chosen; the rating of a survey is in an object.
        #[serde(default)]
        submitted_values: Option<Submitted>,
        #[serde(default)]
        external_error: Option<String>,
        #[serde(default)]
        deleted: bool,
    }
    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "what is read is compared as Debug shows it")]
    enum Submitted {
        Chosen(Vec<Object>),
        Rated(Object),
    }
    #[derive(Deserialize)]
    struct Conversation {
        #[serde(rename = "messages", deserialize_with = "one")]
        message: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        id: i64,
        status: Delivery,
        updated_at: Iso,
        #[serde(deserialize_with = "null_or_id")]
        source_id: Option<String>,
    }
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Delivery {
        Sent,
        Delivered,
        Read,
        Failed,
    }

    let message: Message = read(body)?;
    let inner = message.conversation.message;
    let Attributes { submitted_values, external_error, deleted } = message.content_attributes;
    Ok(format!(
        "{} {} {}: {:?} at {:?}, known as {:?}, {external_error:?}, {deleted}, {submitted_values:?}",
        message.content_type, message.id, inner.id, inner.status, inner.updated_at, inner.source_id,
    ))
}
