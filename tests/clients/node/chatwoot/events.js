"use strict";

// The twelve events as a service publishes them. Each says what it knows once: what Chatwoot repeats is the gateway's to make.

const seconds = (time) => ({ seconds: Math.floor(Date.parse(time) / 1000), nanos: (Date.parse(time) % 1000) * 1_000_000 });

// A google.protobuf.Struct.
function struct(object) {
  return { fields: Object.fromEntries(Object.entries(object).map(([name, json]) => [name, value(json)])) };
}

// A google.protobuf.Value.
function value(json) {
  if (json === null) return { nullValue: "NULL_VALUE" };
  if (Array.isArray(json)) return { listValue: { values: json.map(value) } };
  if (typeof json === "object") return { structValue: struct(json) };
  return { [{ string: "stringValue", number: "numberValue", boolean: "boolValue" }[typeof json]]: json };
}

const change = (name, previousValue, currentValue) => ({
  name,
  previousValue: value(previousValue),
  currentValue: value(currentValue),
});

const inbox = { id: 3, name: "Website" };
const browser = {
  deviceName: "Unknown",
  browserName: "Chrome",
  platformName: "macOS",
  browserVersion: "128.0.0.0",
  platformVersion: "10.15.7",
};
const initiatedAt = { timestamp: "Fri Sep 06 2024 19:20:41 GMT-0300 (Argentina Standard Time)" };
const user = { id: 2, name: "Anna", email: "anna@example.com", availabilityStatus: "online" };

function contact(account) {
  return {
    id: 5,
    name: "Zoë",
    account: { id: account, name: "Acme" },
    email: "zoe@example.com",
    phoneNumber: "+4915170000000",
    blocked: false,
    additionalAttributes: struct({ city: "Köln", social_profiles: { github: "zoe" } }),
    customAttributes: struct({ plan: "gold", seats: 3, trial: null }),
  };
}

function conversation(account) {
  return {
    id: 7,
    inboxId: 3,
    account: { id: account, name: "Acme" },
    additionalAttributes: {
      browser,
      referer: "https://shop.example.com/",
      initiatedAt,
      extra: struct({ browser_language: "de" }),
    },
    canReply: true,
    channel: "Channel::WebWidget",
    contactInbox: {
      id: 9,
      contactId: 5,
      inboxId: 3,
      sourceId: "a8877d29-1b82-4563-8d95-491666f1e267",
      createdAt: seconds("2024-09-06T22:20:32.538Z"),
      updatedAt: seconds("2024-09-06T22:20:32.538Z"),
      pubsubToken: "MUewFJkusYttJShxwP8osBkW",
    },
    meta: { sender: contact(account), assignee: user, team: { id: 1, name: "Support" }, hmacVerified: false },
    labels: ["shipping"],
    status: "open",
    unreadCount: 1,
    priority: "high",
    waitingSince: seconds("2024-09-06T23:16:34Z"),
    lastActivityAt: seconds("2024-09-06T23:16:34Z"),
    createdAt: seconds("2024-09-06T22:20:41Z"),
    updatedAt: seconds("2024-09-06T23:16:34.107Z"),
  };
}

// A message of a contact to whose conversation nobody has answered yet.
function message(account, number) {
  return {
    id: number,
    content: "Where is my order?",
    messageType: "MESSAGE_TYPE_INCOMING",
    createdAt: seconds("2024-09-06T23:16:34.107Z"),
    contentAttributes: struct({ in_reply_to: null }),
    sender: { contact: contact(account) },
    account: { id: account, name: "Acme" },
    inbox,
    conversation: conversation(account),
  };
}

function settings(account) {
  const hours = { open_hour: 9, open_minutes: 0, close_hour: 17, close_minutes: 0 };
  const noHours = { open_hour: null, open_minutes: null, close_hour: null, close_minutes: null };
  return struct({
    allow_messages_after_resolved: true,
    lock_to_single_conversation: false,
    auto_assignment_config: { max_assignment_limit: 5 },
    enable_auto_assignment: true,
    enable_email_collect: true,
    greeting_enabled: true,
    greeting_message: "Hello",
    csat_survey_enabled: false,
    business_name: null,
    sender_name_type: "friendly",
    timezone: "Europe/Berlin",
    out_of_office_message: null,
    working_hours_enabled: true,
    working_hours: [
      { day_of_week: 0, closed_all_day: true, ...noHours, open_all_day: false },
      { day_of_week: 1, closed_all_day: false, ...hours, open_all_day: false },
    ],
    created_at: "2024-09-06T22:20:32.538Z",
    updated_at: "2024-09-06T22:20:32.538Z",
    channel: { id: 1, website_url: "https://shop.example.com", welcome_title: null },
    account: { id: account, name: "Acme" },
  });
}

// All twelve, of this account, by their names in JSON; Event.payload is the same in camel case.
function events(account) {
  const typing = { conversation: conversation(account), isPrivate: true };
  return {
    conversation_created: { conversation: conversation(account) },
    conversation_updated: {
      conversation: { ...conversation(account), messages: [message(account, 11)] },
      changedAttributes: [change("assignee_id", null, 2), change("label_list", [], ["shipping"])],
    },
    conversation_status_changed: {
      conversation: { ...conversation(account), status: "snoozed", snoozedUntil: seconds("2024-09-07T08:00:00Z") },
      changedAttributes: [change("status", "open", "snoozed")],
    },
    message_created: { message: message(account, 11) },
    message_updated: {
      message: {
        ...message(account, 12),
        content: null,
        messageType: "MESSAGE_TYPE_OUTGOING",
        sender: { user },
        sourceId: "wamid.HBgNNDkxNTE3MDAwMDAwMBUCABIYFjNFQjBDMEY5",
        attachments: attachments(account),
      },
    },
    webwidget_triggered: {
      id: 9,
      contact: contact(account),
      inbox,
      account: { id: account, name: "Acme" },
      currentConversation: conversation(account),
      sourceId: "a8877d29-1b82-4563-8d95-491666f1e267",
      eventInfo: { initiatedAt, referer: "https://shop.example.com/", widgetLanguage: "de", browserLanguage: "de", browser },
    },
    contact_created: { contact: contact(account) },
    contact_updated: { contact: contact(account), changedAttributes: [change("name", "cold-wind-258", "Zoë")] },
    inbox_created: { inbox, settings: settings(account) },
    inbox_updated: { inbox, settings: settings(account), changedAttributes: [change("greeting_enabled", false, true)] },
    conversation_typing_on: { user: { user }, ...typing },
    conversation_typing_off: { user: { contact: contact(account) }, ...typing },
  };
}

function attachments(account) {
  const of = { messageId: 12, accountId: account, meta: struct({}) };
  const dataUrl = "https://chat.example.com/blobs/cat.png";
  return [
    { id: 1, fileType: "image", dataUrl, thumbUrl: dataUrl, fileSize: 160813, width: 640, height: 480, ...of },
    { id: 2, fileType: "audio", dataUrl, fileSize: 7989, extra: struct({ transcribed_text: "" }), ...of },
    {
      id: 3,
      fileType: "location",
      extra: struct({ coordinates_lat: 50.94, coordinates_long: 6.96, fallback_title: "Köln" }),
      ...of,
    },
  ];
}

// Edges of message_created: nothing that may be missing is there.
function edges(account) {
  const bare = message(account, 13);
  return [
    { message: { ...bare, messageType: "MESSAGE_TYPE_TEMPLATE", sender: null, contentAttributes: null } },
    {
      message: {
        ...bare,
        id: 14,
        private: true,
        messageType: "MESSAGE_TYPE_OUTGOING",
        sender: { agentBot: { id: 1, name: "Bot" } },
      },
    },
    {
      message: {
        ...bare,
        id: 15,
        contentType: "input_select",
        contentAttributes: struct({ items: [{ title: "A", value: "a" }], submitted_values: [{ title: "A", value: "a" }] }),
      },
    },
  ];
}

module.exports = { edges, events };
