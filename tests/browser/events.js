"use strict";

// Events of an account as Chatwoot has them.

const PEOPLE = [
  [
    "Maya Fernández",
    "maya.fernandez@example.org",
    "Is my order 4711 on its way? The tracking page says nothing since Tuesday.",
  ],
  ["Jonas Weber", "j.weber@example.net", "Thanks, that worked. Could you also change the billing address?"],
  ["Aiko Tanaka", "aiko@example.com", "The export fails with “timeout” for files above 20 MB."],
  ["Samuel Okafor", "samuel.okafor@example.org", "I would like to cancel the subscription for our second site."],
  ["Léa Martin", "lea.martin@example.fr", "Bonjour, is there an invoice for October?"],
  ["Priya Raman", "priya@example.in", "Your bot keeps asking for my e-mail although I gave it."],
];
const BEGIN = 1_583_240_757;

function at(seconds) {
  return { seconds: BEGIN + seconds };
}

function contact(number, fields = {}) {
  const [name, email] = PEOPLE[number % PEOPLE.length];
  return { id: 100 + (number % PEOPLE.length), name, email, ...fields };
}

function conversation(number, fields = {}) {
  return { id: 800 + number, inboxId: 3, status: "open", channel: "Channel::WebWidget", canReply: true, ...fields };
}

// A message in a conversation; `fields` are those of the message.
function message(account, number, fields = {}) {
  const [, , content] = PEOPLE[number % PEOPLE.length];
  return {
    messageCreated: {
      message: {
        id: 5000 + number,
        content,
        messageType: "MESSAGE_TYPE_INCOMING",
        createdAt: at(number),
        account: { id: account, name: "Acme Support" },
        inbox: { id: 3, name: "Website" },
        conversation: conversation(number),
        sender: { contact: contact(number) },
        ...fields,
      },
    },
  };
}

function conversationCreated(account, number) {
  return { conversationCreated: { conversation: conversation(number, { accountId: account }) } };
}

function statusChanged(account, number, status = "resolved") {
  return { conversationStatusChanged: { conversation: conversation(number, { accountId: account, status }) } };
}

function contactUpdated(account, number, fields = {}) {
  return {
    contactUpdated: { contact: contact(number, { account: { id: account, name: "Acme Support" }, ...fields }) },
  };
}

module.exports = { contactUpdated, conversationCreated, message, statusChanged };
