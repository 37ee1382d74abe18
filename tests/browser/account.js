"use strict";

// An account as it looks after a while: webhooks in every state, events of several types.

const { contactUpdated, conversationCreated, message, statusChanged } = require("./events");
const { eventually } = require("./gateway");

const SOON = { maxAttempts: 2, minBackoff: { nanos: 1_000_000 }, maxBackoff: { nanos: 2_000_000 } };
const LATER = { maxAttempts: 12, minBackoff: { seconds: 3000 }, maxBackoff: { seconds: 3600 } };

// What the receivers of that account answer, by the path.
function answer({ path }) {
  const json = { "content-type": "application/json" };
  if (path.startsWith("/gone")) return { status: 410, headers: json, body: '{"error":"This workflow was deleted."}' };
  if (path.startsWith("/down")) {
    const body = '{"error":"database is locked","trace":"b6f1c0"}';
    return { status: 503, headers: { ...json, "x-request-id": "b6f1c0" }, body };
  }
  return { status: 200, headers: json, body: '{"status":"accepted"}' };
}

// Makes it with this many events more than a page of a list has. Returns the ids of its webhooks and of some events.
async function settle(gateway, receiver, account) {
  receiver.response = answer;
  const everything = [
    "EVENT_TYPE_MESSAGE_CREATED",
    "EVENT_TYPE_CONVERSATION_CREATED",
    "EVENT_TYPE_CONVERSATION_STATUS_CHANGED",
    "EVENT_TYPE_CONTACT_UPDATED",
  ];
  const eventTypes = everything.slice(0, 2);
  const webhook = (id, url, fields) => gateway.subscribe(account, receiver.url(url), fields, id);
  await webhook("crm", "/crm", {
    displayName: "CRM",
    eventTypes: everything.slice(0, 3),
    payloadFormat: "PAYLOAD_FORMAT_CHATWOOT",
  });
  await webhook("helpdesk", "/down/helpdesk", { displayName: "Helpdesk", retryPolicy: LATER });
  await webhook("given-up", "/down/given-up", { retryPolicy: SOON });
  await webhook("old-bot", "/gone", { displayName: "Old bot", eventTypes });
  await webhook("warehouse", "/warehouse", {
    displayName: "Data warehouse",
    eventTypes: everything.slice(0, 3),
    signatureScheme: "SIGNATURE_SCHEME_ED25519",
    headers: { "X-Api-Key": "not to be shown", "X-Tenant": "acme" },
    inboxIds: [3, 4],
    ordered: true,
    timeout: { seconds: 5 },
    maxInFlight: 4,
    retryPolicy: { maxAttempts: 6, minBackoff: { seconds: 5 }, maxBackoff: { seconds: 600 } },
    annotations: { team: "analytics" },
  });
  await webhook("n8n", "/webhook/9f1c0a52-0a1b-4a61-8d52-7a1a6f0e3c11/a-rather-long-path/of-a-workflow");
  await gateway.call("SubscriptionService", "pauseSubscription", { name: `accounts/${account}/subscriptions/n8n` });
  for (let number = 0; number < 60; number++) {
    const event = [message, message, conversationCreated, statusChanged][number % 4](account, number);
    await gateway.publish(account, event, `acme-${5000 + number}`);
  }
  await gateway.publish(account, contactUpdated(account, 1), "nobody-asked");
  const id = "acme-5000";
  await gateway.settled(account, "crm", [id, "acme-5058"], "SUCCEEDED");
  await gateway.settled(account, "given-up", [id], "FAILED");
  await gateway.settled(account, "helpdesk", [id], "RETRYING");
  await eventually("a suspended webhook", async () => {
    const name = `accounts/${account}/subscriptions/old-bot`;
    return (
      (await gateway.call("SubscriptionService", "getSubscription", { name })).subscription.state === "STATE_SUSPENDED"
    );
  });
  return { event: id, unwanted: "nobody-asked" };
}

module.exports = { LATER, SOON, settle };
