"use strict";

// Receivers that were written for Chatwoot: PAYLOAD_FORMAT_CHATWOOT is what they expect.

const assert = require("node:assert/strict");
const { createHmac } = require("node:crypto");
const { test } = require("node:test");
const { setTimeout: sleep } = require("node:timers/promises");
const grpc = require("@grpc/grpc-js");
const { edges, events } = require("./chatwoot/events");
const { Flow } = require("./chatwoot/flow");
const { webhook } = require("./chatwoot/schema");
const { CALL_TIMEOUT_MS, call, tidings } = require("./client");
const { AGE_MAX_MS, Receiver, genuine } = require("./receiver");

const LOOK_INTERVAL_MS = 20;
const FORMATS = ["PAYLOAD_FORMAT_DOCUMENTED", "PAYLOAD_FORMAT_SAMPLE", "PAYLOAD_FORMAT_CHATWOOT"];

let accounts = 5000;

// An account of its own for each test.
function setUp(t) {
  const credentials = grpc.credentials.createInsecure();
  const client = (Client) => new Client(process.env.GATEWAY, credentials);
  const setup = {
    account: ++accounts,
    parent: `accounts/${accounts}`,
    subscriptions: client(tidings.v1.SubscriptionService),
    events: client(tidings.v1.EventService),
    deliveries: client(tidings.v1.DeliveryService),
  };
  t.after(() => {
    for (const client of [setup.subscriptions, setup.events, setup.deliveries]) client.close();
  });
  return setup;
}

// Subscribes to all twelve events. Returns the subscription and its secret.
async function subscribe({ subscriptions, parent, account }, url, fields = {}) {
  const eventTypes = Object.keys(events(account)).map((name) => `EVENT_TYPE_${name.toUpperCase()}`);
  const subscription = { url, eventTypes, payloadFormat: "PAYLOAD_FORMAT_CHATWOOT", ...fields };
  const created = await call(subscriptions, "createSubscription", { parent, subscription });
  return { subscription: created.subscription, secret: created.signingSecret };
}

// Starts a flow and subscribes it.
async function flowOf(t, setup, fields) {
  const flow = await new Flow().listen();
  t.after(() => flow.close());
  const { subscription, secret } = await subscribe(setup, flow.url, fields);
  flow.secret = secret;
  return { flow, subscription };
}

// Publishes events, by their names in JSON.
async function publish({ events, parent }, published) {
  const requests = published.map(([name, event]) => ({ parent, event: { [camelCase(name)]: event } }));
  await call(events, "batchPublishEvents", { parent, requests });
}

const camelCase = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());

test("a flow with a strict schema takes all twelve events", async (t) => {
  const setup = setUp(t);
  const { flow } = await flowOf(t, setup);
  const published = Object.entries(events(setup.account));
  assert.equal(published.length, 12);
  await publish(setup, published);
  await flow.until(published.length);
  assert.deepEqual(flow.refused, []);
  assert.deepEqual(flow.taken.map(({ event }) => event).sort(), published.map(([name]) => name).sort());
  assert.deepEqual(flow.again, []);

  const taken = Object.fromEntries(flow.taken.map((body) => [body.event, body]));
  const { message_created: created, message_updated: updated } = taken;
  const [inner] = created.conversation.messages;
  assert.deepEqual([created.message_type, inner.message_type], ["incoming", 0]);
  assert.deepEqual([created.created_at, inner.created_at], ["2024-09-06T23:16:34.107Z", 1725664594]);
  assert.deepEqual([created.source_id, inner.source_id], [null, null]);
  assert.deepEqual([created.content, inner.content, inner.id], ["Where is my order?", "Where is my order?", created.id]);
  assert.deepEqual(created.content_attributes, { in_reply_to: null });
  assert.ok(!("attachments" in created) && !("attachments" in inner));
  assert.ok(!("type" in created.sender) && inner.sender.type === "contact");
  assert.deepEqual([inner.sender_type, inner.sender_id], ["Contact", 5]);
  assert.equal(created.conversation.updated_at, 1725664594.107);

  assert.deepEqual([updated.message_type, updated.content], ["outgoing", null]);
  assert.deepEqual(updated.attachments, updated.conversation.messages[0].attachments);
  assert.deepEqual(updated.sender, { id: 2, name: "Anna", email: "anna@example.com", type: "user" });

  assert.deepEqual(taken.conversation_updated.changed_attributes, [
    { assignee_id: { previous_value: null, current_value: 2 } },
    { label_list: { previous_value: [], current_value: ["shipping"] } },
  ]);
  assert.equal(taken.conversation_status_changed.snoozed_until, "2024-09-07T08:00:00.000Z");
  assert.deepEqual([taken.conversation_created.account.name, taken.conversation_created.messages], ["Acme", []]);
  assert.equal(taken.conversation_typing_on.user.type, "user");
});

test("it takes what is left out as Chatwoot has it", async (t) => {
  const setup = setUp(t);
  const { flow } = await flowOf(t, setup);
  const statusOnly = { conversation: events(setup.account).conversation_created.conversation };
  await publish(setup, [
    ...edges(setup.account).map((event) => ["message_created", event]),
    ["conversation_status_changed", statusOnly],
    ["webwidget_triggered", { ...events(setup.account).webwidget_triggered, currentConversation: null }],
  ]);
  await flow.until(5);
  assert.deepEqual(flow.refused, []);

  const message = (id) => flow.taken.find((body) => body.event === "message_created" && body.id === id);
  assert.deepEqual([message(13).message_type, message(13).sender], ["template", null]);
  assert.deepEqual(message(13).content_attributes, {});
  assert.ok(!("sender" in message(13).conversation.messages[0]));
  assert.deepEqual([message(14).private, message(14).sender.type], [true, "agent_bot"]);
  assert.equal(message(15).content_attributes.submitted_values[0].value, "a");
  assert.equal(flow.taken.find(({ event }) => event === "conversation_status_changed").changed_attributes, null);
  assert.equal(flow.taken.find(({ event }) => event === "webwidget_triggered").current_conversation, null);
});

test("it takes an event once, though the answer to it is lost", async (t) => {
  const setup = setUp(t);
  const { flow } = await flowOf(t, setup, { retryPolicy: { minBackoff: { nanos: 10_000_000 } } });
  flow.lose = 1;
  await publish(setup, [["message_created", events(setup.account).message_created]]);
  await flow.until(2);
  assert.deepEqual([flow.taken.length, flow.refused, flow.again.length], [1, [], 1]);
  assert.deepEqual(flow.again[0], { delivery: [...flow.bodies.keys()][0], same: true });
});

for (const payloadFormat of FORMATS) {
  test(`a replay has the same id and the same bytes in ${payloadFormat}`, async (t) => {
    const setup = setUp(t);
    const receiver = await new Receiver().listen();
    t.after(() => receiver.close());
    const url = `http://${receiver.address}/hook`;
    const { subscription } = await subscribe(setup, url, { payloadFormat });
    await publish(setup, [["message_created", events(setup.account).message_created]]);
    const first = await receiver.next();

    // What is under way is not replayed.
    const request = { parent: subscription.name, states: ["STATE_SUCCEEDED"] };
    const late = Date.now() + CALL_TIMEOUT_MS;
    while ((await call(setup.deliveries, "replayDeliveries", request)).replayedCount === 0) {
      assert.ok(Date.now() < late, "the delivery does not succeed");
      await sleep(LOOK_INTERVAL_MS);
    }
    const again = await receiver.next();
    assert.equal(again.headers["x-chatwoot-delivery"], first.headers["x-chatwoot-delivery"]);
    assert.ok(again.body.equals(first.body));
  });
}

test("the signature is over timestamp.body, not over the body", async (t) => {
  const setup = setUp(t);
  const receiver = await new Receiver().listen();
  t.after(() => receiver.close());
  const { secret } = await subscribe(setup, `http://${receiver.address}/hook`);
  await publish(setup, [["contact_created", events(setup.account).contact_created]]);
  const { headers, body } = await receiver.next();
  assert.ok(genuine(headers, body, secret));

  const sign = (...parts) =>
    "sha256=" + parts.reduce((hmac, part) => hmac.update(part), createHmac("sha256", secret)).digest("hex");
  assert.equal(headers["x-chatwoot-signature"], sign(headers["x-chatwoot-timestamp"], ".", body));
  assert.ok(!genuine({ ...headers, "x-chatwoot-signature": sign(body) }, body, secret));
  // As a parser writes it again: the same JSON in other bytes.
  assert.ok(!genuine(headers, Buffer.from(JSON.stringify(JSON.parse(body), null, 1)), secret));
  assert.ok(!genuine(headers, body, `${secret}x`));
  assert.ok(!genuine({}, body, secret));
  const late = Date.now() + AGE_MAX_MS + 1000;
  t.mock.method(Date, "now", () => late);
  assert.ok(!genuine(headers, body, secret));
});

test("the documented form is refused by the schema, of every event", async (t) => {
  const setup = setUp(t);
  const payloadFormat = "PAYLOAD_FORMAT_DOCUMENTED";
  const { flow } = await flowOf(t, setup, { payloadFormat, retryPolicy: { maxAttempts: 1 } });
  const published = Object.entries(events(setup.account));
  await publish(setup, published);
  await flow.until(published.length);
  assert.deepEqual([flow.taken, flow.refused.length], [[], 12]);
  const refusal = flow.refused.find((why) => why.includes("→ at message_type"));
  assert.ok(refusal);
  for (const field of ["created_at", "conversation", "conversation.labels"]) {
    assert.ok(refusal.includes(`→ at ${field}`), `${field} in ${refusal}`);
  }
});

test("a body that is wrong in one place is refused there", async (t) => {
  const setup = setUp(t);
  const { flow } = await flowOf(t, setup);
  const { message_created, message_updated } = events(setup.account);
  await publish(setup, Object.entries({ message_created, message_updated }));
  await flow.until(2);
  // Where a body is refused that was taken before this change.
  const wrong = (name, change) => {
    const body = structuredClone(flow.taken.find(({ event }) => event === name));
    change(body);
    const read = webhook.safeParse(body);
    return read.success ? "nothing" : read.error.issues[0].path.join(".");
  };
  assert.equal(wrong("message_created", () => {}), "nothing");
  assert.equal(wrong("message_created", (body) => (body.message_type = 0)), "message_type");
  assert.equal(wrong("message_created", (body) => (body.created_at = 1725664594)), "created_at");
  assert.equal(wrong("message_created", (body) => (body.attachments = [])), "attachments");
  assert.equal(wrong("message_created", (body) => (body.source_id = "")), "source_id");
  assert.equal(wrong("message_created", (body) => delete body.private), "private");
  assert.equal(wrong("message_created", (body) => (body.conversation.messages = [])), "conversation.messages");
  const inner = "conversation.messages.0";
  const innerOf = (change) => (body) => change(body.conversation.messages[0]);
  assert.equal(wrong("message_created", innerOf((first) => (first.message_type = "incoming"))), `${inner}.message_type`);
  assert.equal(wrong("message_created", innerOf((first) => (first.created_at = "2024-09-06"))), `${inner}.created_at`);
  assert.equal(wrong("message_updated", innerOf((first) => (first.attachments = []))), `${inner}.attachments`);
});
