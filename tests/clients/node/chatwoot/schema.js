"use strict";

// What Chatwoot 4 sends, as a strict reader would write it down: every key is there, none is unknown, and each has its type.

const { z } = require("zod");

// 2026-01-31T23:59:59.123Z
const iso = z.string().regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
const unix = z.int().nonnegative();
const object = z.record(z.string(), z.json());

const named = z.strictObject({ id: z.int(), name: z.string() });
const contentType = z.enum([
  ...["text", "input_text", "input_textarea", "input_email", "input_select", "cards", "form", "article"],
  ...["incoming_email", "input_csat", "integrations", "sticker", "voice_call"],
]);
const browser = z.strictObject({
  device_name: z.string(),
  browser_name: z.string(),
  platform_name: z.string(),
  browser_version: z.string(),
  platform_version: z.string(),
});
const initiatedAt = z.strictObject({ timestamp: z.string() });

// Contacts, users and bots at the top level and directly below it.
const outerContact = z.strictObject({
  account: named,
  additional_attributes: object,
  avatar: z.string(),
  custom_attributes: object,
  email: z.string().nullable(),
  id: z.int(),
  identifier: z.string().nullable(),
  name: z.string(),
  phone_number: z.string().regex(/^\+\d+$/).nullable(),
  thumbnail: z.string(),
  blocked: z.boolean(),
});
const outerSender = z.union([
  outerContact,
  z.strictObject({ id: z.int(), name: z.string(), email: z.string(), type: z.literal("user") }),
  z.strictObject({ id: z.int(), name: z.string(), type: z.literal("agent_bot") }),
]);

// The same in `meta` and in `messages`.
const innerContact = outerContact.omit({ account: true, avatar: true }).extend({ type: z.literal("contact") });
const innerUser = z.strictObject({
  id: z.int(),
  name: z.string(),
  available_name: z.string(),
  avatar_url: z.string(),
  type: z.literal("user"),
  availability_status: z.enum(["online", "offline", "busy"]).nullable(),
  thumbnail: z.string(),
});
const innerBot = z.strictObject({
  id: z.int(),
  name: z.string(),
  avatar_url: z.string(),
  type: z.literal("agent_bot"),
});

const anyAttachment = z.strictObject({
  id: z.int(),
  message_id: z.int(),
  file_type: z.string(),
  account_id: z.int(),
  meta: object,
});
const fileAttachment = anyAttachment.extend({
  extension: z.string().nullable(),
  data_url: z.url(),
  thumb_url: z.string(),
  file_size: z.int(),
  width: z.int().nullable(),
  height: z.int().nullable(),
});
const attachments = z
  .array(
    z.discriminatedUnion("file_type", [
      fileAttachment.extend({ file_type: z.enum(["image", "video", "file"]) }),
      fileAttachment.extend({ file_type: z.literal("audio"), transcribed_text: z.string() }),
      anyAttachment.extend({
        file_type: z.literal("location"),
        coordinates_lat: z.number(),
        coordinates_long: z.number(),
        fallback_title: z.string().nullable(),
        data_url: z.string().nullable(),
      }),
      anyAttachment.extend({ file_type: z.literal("contact"), fallback_title: z.string() }),
    ]),
  )
  .nonempty();

const innerMessage = z.strictObject({
  id: z.int(),
  content: z.string().nullable(),
  account_id: z.int(),
  inbox_id: z.int(),
  conversation_id: z.int(),
  message_type: z.literal([0, 1, 2, 3]),
  created_at: unix,
  updated_at: iso,
  private: z.boolean(),
  status: z.enum(["sent", "delivered", "read", "failed"]),
  source_id: z.string().min(1).nullable(),
  content_type: contentType,
  content_attributes: object,
  sender_type: z.enum(["Contact", "User", "AgentBot"]).nullable(),
  sender_id: z.int().nullable(),
  external_source_ids: object,
  additional_attributes: object,
  processed_message_content: z.string().nullable(),
  sentiment: object,
  conversation: z.strictObject({
    assignee_id: z.int().nullable(),
    unread_count: z.int(),
    last_activity_at: unix,
    contact_inbox: z.strictObject({ source_id: z.string() }),
  }),
  attachments: attachments.optional(),
  sender: z.discriminatedUnion("type", [innerContact, innerUser, innerBot]).optional(),
});

const conversation = z.strictObject({
  additional_attributes: z
    .object({ browser: browser.optional(), referer: z.string().nullish(), initiated_at: initiatedAt.optional() })
    .catchall(z.json()),
  can_reply: z.boolean(),
  channel: z.string().regex(/^Channel::/).nullable(),
  contact_inbox: z.strictObject({
    id: z.int(),
    contact_id: z.int(),
    inbox_id: z.int(),
    source_id: z.string(),
    created_at: iso,
    updated_at: iso,
    hmac_verified: z.boolean(),
    pubsub_token: z.string(),
  }),
  id: z.int(),
  inbox_id: z.int(),
  messages: z.array(innerMessage).max(1),
  labels: z.array(z.string()),
  meta: z.strictObject({
    sender: innerContact,
    assignee: z.discriminatedUnion("type", [innerUser, innerBot]).nullable(),
    assignee_type: z.enum(["User", "AgentBot"]).nullable(),
    team: named.nullable(),
    hmac_verified: z.boolean().nullable(),
  }),
  status: z.enum(["open", "resolved", "pending", "snoozed"]),
  custom_attributes: object,
  snoozed_until: iso.nullable(),
  unread_count: z.int().max(10),
  first_reply_created_at: iso.nullable(),
  priority: z.enum(["low", "medium", "high", "urgent"]).nullable(),
  waiting_since: unix,
  agent_last_seen_at: unix,
  contact_last_seen_at: unix,
  last_activity_at: unix,
  timestamp: unix,
  created_at: unix,
  updated_at: z.number(),
  account: named,
});

const message = z.strictObject({
  account: named,
  additional_attributes: object,
  content_attributes: object,
  content_type: contentType,
  content: z.string().nullable(),
  conversation: conversation.extend({ messages: z.array(innerMessage).max(1) }),
  created_at: iso,
  id: z.int(),
  inbox: named,
  message_type: z.enum(["incoming", "outgoing", "template"]),
  private: z.boolean(),
  sender: outerSender.nullable(),
  source_id: z.string().min(1).nullable(),
  attachments: attachments.optional(),
});

const time = z.int().nullable();
const inbox = z.strictObject({
  allow_messages_after_resolved: z.boolean(),
  lock_to_single_conversation: z.boolean(),
  auto_assignment_config: object,
  enable_auto_assignment: z.boolean(),
  enable_email_collect: z.boolean(),
  greeting_enabled: z.boolean(),
  greeting_message: z.string().nullable(),
  csat_survey_enabled: z.boolean(),
  business_name: z.string().nullable(),
  sender_name_type: z.string(),
  timezone: z.string(),
  out_of_office_message: z.string().nullable(),
  working_hours_enabled: z.boolean(),
  working_hours: z.array(
    z.strictObject({
      day_of_week: z.int().min(0).max(6),
      closed_all_day: z.boolean(),
      open_hour: time,
      open_minutes: time,
      close_hour: time,
      close_minutes: time,
      open_all_day: z.boolean(),
    }),
  ),
  created_at: iso,
  updated_at: iso,
  channel: object,
  account: named,
});

// [{"status": {"previous_value": "pending", "current_value": "open"}}]
const changes = z
  .array(
    z
      .record(z.string(), z.strictObject({ previous_value: z.json(), current_value: z.json() }))
      .refine((change) => Object.keys(change).length === 1, "one attribute in each"),
  )
  .nonempty();

const typing = z.strictObject({ user: outerSender, conversation, is_private: z.boolean() });

// Whatever may be POSTed, told apart by its event.
const bodies = z.discriminatedUnion("event", [
  conversation.extend({ event: z.literal("conversation_created") }),
  conversation.extend({ event: z.literal("conversation_updated"), changed_attributes: changes }),
  conversation.extend({
    event: z.literal("conversation_status_changed"),
    changed_attributes: changes.nullable(),
  }),
  message.extend({ event: z.literal("message_created") }),
  message.extend({ event: z.literal("message_updated") }),
  z.strictObject({
    id: z.int(),
    contact: outerContact,
    inbox: named,
    account: named,
    current_conversation: conversation.nullable(),
    source_id: z.string(),
    event: z.literal("webwidget_triggered"),
    event_info: z.strictObject({
      initiated_at: initiatedAt.optional(),
      referer: z.string().optional(),
      widget_language: z.string().nullable(),
      browser_language: z.string().nullable(),
      browser,
    }),
  }),
  outerContact.extend({ event: z.literal("contact_created") }),
  outerContact.extend({ event: z.literal("contact_updated"), changed_attributes: changes }),
  inbox.extend({ event: z.literal("inbox_created") }),
  inbox.extend({ event: z.literal("inbox_updated"), changed_attributes: changes }),
  typing.extend({ event: z.literal("conversation_typing_on") }),
  typing.extend({ event: z.literal("conversation_typing_off") }),
]);

// A message is the last one of its conversation, unless it is private: then nothing shows it there.
const webhook = bodies.superRefine((body, context) => {
  if (!body.event.startsWith("message_")) return;
  const { messages } = body.conversation;
  if (!body.private && messages.length !== 1) {
    context.addIssue({ code: "custom", path: ["conversation", "messages"], message: "must have one message" });
  }
  if (messages.some((shown) => shown.private)) {
    context.addIssue({ code: "custom", path: ["conversation", "messages"], message: "must have no private message" });
  }
});

module.exports = { webhook };
