"use strict";

// Tidings as @grpc/grpc-js sees it, by the stubs that @grpc/proto-loader makes of proto/.

const assert = require("node:assert/strict");
const { setTimeout: sleep } = require("node:timers/promises");
const { describe, test } = require("node:test");
const grpc = require("@grpc/grpc-js");
const { getProtoPath } = require("google-proto-files");
const protobuf = require("protobufjs");
const { CALL_TIMEOUT_MS, call, tidings } = require("./client");
const { AGE_MAX_MS, Receiver, asymmetricHolds, chatwootHolds, checkRefused, checkSigned, standard } = require("./receiver");

const LOOK_INTERVAL_MS = 20;
const OTHER_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

// The health service as grpc.health.v1 has it.
const Health = grpc.makeGenericClientConstructor({
  check: {
    path: "/grpc.health.v1.Health/Check",
    requestStream: false,
    responseStream: false,
    requestSerialize: (service) => Buffer.from(service),
    requestDeserialize: (bytes) => bytes,
    responseSerialize: (status) => status,
    responseDeserialize: (bytes) => bytes,
  },
});
// HealthCheckResponse { status: SERVING }
const SERVING = Buffer.from([0x08, 0x01]);

const rpc = new protobuf.Root();
rpc.resolvePath = (_, target) => (target.startsWith("google/") ? getProtoPath("..", target) : target);
rpc.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);

let accounts = 2000;

// The code of a call that is refused, and its details by the name of their type.
async function refusal(client, method, request) {
  const error = await call(client, method, request).then(
    () => assert.fail(`${method} was not refused`),
    (error) => error,
  );
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const details = {};
  for (const { type_url: type, value } of rpc.lookupType("google.rpc.Status").decode(bytes).details) {
    const name = type.slice(type.lastIndexOf("/") + 1);
    details[name.replace("google.rpc.", "")] = rpc.lookupType(name).decode(value);
  }
  assert.equal(details.ErrorInfo.domain, "tidings");
  return { code: error.code, ...details };
}

// An account and a receiver of its own for each test.
async function setUp(t, options) {
  const receiver = await new Receiver().listen();
  const credentials = grpc.credentials.createInsecure();
  const client = (Client) => new Client(process.env.GATEWAY, credentials, options);
  const setup = {
    receiver,
    account: ++accounts,
    parent: `accounts/${accounts}`,
    health: client(Health),
    subscriptions: client(tidings.v1.SubscriptionService),
    events: client(tidings.v1.EventService),
    deliveries: client(tidings.v1.DeliveryService),
  };
  t.after(async () => {
    for (const client of [setup.health, setup.subscriptions, setup.events, setup.deliveries]) client.close();
    await receiver.close();
  });
  return setup;
}

// Subscribes the receiver to messages. Returns the subscription and its secret.
async function subscribe({ subscriptions, receiver, parent }, fields = {}) {
  const url = `http://${receiver.address}/hook`;
  const subscription = { url, eventTypes: ["EVENT_TYPE_MESSAGE_CREATED"], ...fields };
  const created = await call(subscriptions, "createSubscription", { parent, subscription });
  return { subscription: created.subscription, secret: created.signingSecret };
}

// Rotates the secret. Returns the new one.
async function rotate({ subscriptions }, { name }, seconds) {
  return (await call(subscriptions, "rotateSigningSecret", { name, overlap: { seconds } })).signingSecret;
}

function publishRequest({ parent, account }, number, eventId = "") {
  const message = {
    id: number,
    content: "Hi",
    messageType: "MESSAGE_TYPE_INCOMING",
    createdAt: { seconds: 1583240757 },
    account: { id: account, name: "Acme" },
    conversation: { id: 7, inboxId: 3, status: "open" },
    sender: { contact: { id: 5, name: "Zoë" } },
    contentAttributes: { fields: { in_reply_to: { numberValue: 12 } } },
  };
  return { parent, eventId, event: { messageCreated: { message } } };
}

async function publish(setup, request) {
  return (await call(setup.events, "publishEvent", request)).result;
}

// Lists the account's deliveries until so many have succeeded, and no other is there.
async function deliveriesWhenSucceeded({ deliveries, parent }, count) {
  const late = Date.now() + CALL_TIMEOUT_MS;
  for (;;) {
    const listed = await call(deliveries, "listDeliveries", { parent: `${parent}/subscriptions/-` });
    const states = listed.deliveries.map((delivery) => delivery.state);
    if (states.length === count && states.every((state) => state === "STATE_SUCCEEDED")) return listed.deliveries;
    assert.ok(Date.now() < late, `the deliveries stay ${states}`);
    await sleep(LOOK_INTERVAL_MS);
  }
}

function suite(options) {
  test("it serves", async (t) => {
    const { health } = await setUp(t, options);
    assert.deepEqual(await call(health, "check", ""), SERVING);
  });

  test("an event arrives signed, and once however often it is published", async (t) => {
    const setup = await setUp(t, options);
    const { subscription, secret } = await subscribe(setup);
    const request = publishRequest(setup, 1, "a-message");
    const first = await publish(setup, request);
    assert.equal(first.event, `${setup.parent}/events/a-message`);
    assert.deepEqual([first.duplicate, first.deliveryCount], [false, 1]);
    assert.deepEqual(await publish(setup, request), { ...first, duplicate: true });

    const body = checkSigned(await setup.receiver.next(), secret);
    assert.deepEqual(Object.keys(body).slice(0, 5), ["event", "id", "content", "message_type", "created_at"]);
    assert.deepEqual([body.event, body.id, body.content], ["message_created", 1, "Hi"]);
    assert.deepEqual([body.message_type, body.created_at, body.source_id], [0, 1583240757, null]);
    assert.deepEqual(body.content_attributes, { in_reply_to: 12 });
    assert.deepEqual([body.sender.type, body.sender.name], ["contact", "Zoë"]);

    const [delivery] = await deliveriesWhenSucceeded(setup, 1);
    assert.equal(delivery.name, `${subscription.name}/deliveries/a-message`);
    assert.deepEqual([delivery.attemptCount, delivery.attempts[0].httpStatus], [1, 200]);
    assert.equal(setup.receiver.arrivals.length, 0);
  });

  test("what is not genuine is refused", async (t) => {
    const setup = await setUp(t, options);
    const { secret } = await subscribe(setup);
    await publish(setup, publishRequest(setup, 1));
    const arrival = await setup.receiver.next();
    checkSigned(arrival, secret);

    const changed = { ...arrival, body: Buffer.from(arrival.body.toString().replace('"Hi"', '"Ho"')) };
    assert.notDeepEqual(changed.body, arrival.body);
    checkRefused(changed, secret, /No matching signature/);
    checkRefused(arrival, OTHER_SECRET, /No matching signature/);
    const late = Date.now() + AGE_MAX_MS + 1000;
    const clock = t.mock.method(Date, "now", () => late);
    try {
      checkRefused(arrival, secret, /too old/);
    } finally {
      clock.mock.restore();
    }
  });

  test("both secrets hold during a rotation, and the new one alone after it", async (t) => {
    const setup = await setUp(t, options);
    const { subscription, secret: first } = await subscribe(setup);
    const second = await rotate(setup, subscription, 3600);
    await publish(setup, publishRequest(setup, 1));
    const during = await setup.receiver.next();
    assert.deepEqual(checkSigned(during, second), standard(during, first));

    const third = await rotate(setup, subscription, 0);
    await publish(setup, publishRequest(setup, 2));
    const after = await setup.receiver.next();
    assert.equal(checkSigned(after, third).id, 2);
    for (const secret of [first, second]) checkRefused(after, secret, /No matching signature/);
  });

  test("with Ed25519 the public key verifies, and during a rotation both do", async (t) => {
    const setup = await setUp(t, options);
    const { subscription, secret } = await subscribe(setup, { signatureScheme: "SIGNATURE_SCHEME_ED25519" });
    const publicKey = async () =>
      (await call(setup.subscriptions, "getSubscription", { name: subscription.name })).subscription.publicKey;
    const first = await publicKey();
    await publish(setup, publishRequest(setup, 1));
    const arrival = await setup.receiver.next();
    assert.match(arrival.headers["webhook-signature"], /^v1a,[A-Za-z0-9+/]{86}==$/);
    assert.ok(asymmetricHolds(arrival, first) && chatwootHolds(arrival, secret));
    const changed = { ...arrival, body: Buffer.from(arrival.body.toString().replace('"Hi"', '"Ho"')) };
    assert.ok(!asymmetricHolds(changed, first));

    await rotate(setup, subscription, 3600);
    const second = await publicKey();
    await publish(setup, publishRequest(setup, 2));
    const during = await setup.receiver.next();
    assert.deepEqual([asymmetricHolds(during, first), asymmetricHolds(during, second)], [true, true]);
    await rotate(setup, subscription, 0);
    const third = await publicKey();
    await publish(setup, publishRequest(setup, 3));
    const after = await setup.receiver.next();
    assert.deepEqual([first, second, third].map((key) => asymmetricHolds(after, key)), [false, false, true]);
  });

  test("a batch arrives whole", async (t) => {
    const setup = await setUp(t, options);
    const { secret } = await subscribe(setup);
    const requests = [1, 2, 3].map((number) => publishRequest(setup, number, `of-batch-${number}`));
    const { results } = await call(setup.events, "batchPublishEvents", { parent: setup.parent, requests });
    assert.deepEqual(
      results.map((result) => result.event),
      [1, 2, 3].map((number) => `${setup.parent}/events/of-batch-${number}`),
    );
    const ids = [];
    for (const _ of results) ids.push(checkSigned(await setup.receiver.next(), secret).id);
    assert.deepEqual(ids.sort(), [1, 2, 3]);
    await deliveriesWhenSucceeded(setup, 3);
  });

  test("one bad event of a stream fails alone", async (t) => {
    const setup = await setUp(t, options);
    const { secret } = await subscribe(setup);
    const stream = setup.events.streamPublishEvents({ deadline: Date.now() + CALL_TIMEOUT_MS });
    const requests = [publishRequest(setup, 1), { parent: setup.parent }, publishRequest(setup, 3)];
    requests.forEach((request, index) => stream.write({ sequence: 10 + index, request }));
    stream.end();
    const answers = [];
    for await (const answer of stream) answers.push(answer);
    assert.deepEqual(
      answers.map(({ sequence, outcome }) => [sequence, outcome]),
      [
        ["10", "result"],
        ["11", "error"],
        ["12", "result"],
      ],
    );
    const { code, reason, fieldViolations } = answers[1].error;
    assert.deepEqual([code, reason], [grpc.status.INVALID_ARGUMENT, "FIELD_REQUIRED"]);
    assert.deepEqual(
      fieldViolations.map((violation) => violation.field),
      ["event"],
    );
    const ids = [];
    for (let count = 0; count < 2; count++) ids.push(checkSigned(await setup.receiver.next(), secret).id);
    assert.deepEqual(ids.sort(), [1, 3]);
    await deliveriesWhenSucceeded(setup, 2);
  });

  test("every field at fault is named at once", async (t) => {
    const { subscriptions, parent } = await setUp(t, options);
    const subscription = { url: "ftp://example.com", displayName: "x".repeat(64) };
    const refused = await refusal(subscriptions, "createSubscription", { parent, subscription });
    assert.equal(refused.code, grpc.status.INVALID_ARGUMENT);
    assert.equal(refused.ErrorInfo.reason, "FIELD_INVALID");
    const fields = refused.BadRequest.fieldViolations.map((violation) => violation.field);
    assert.deepEqual(
      fields.sort(),
      ["display_name", "event_types", "url"].map((name) => `subscription.${name}`),
    );
  });

  test("what is not there is named", async (t) => {
    const { subscriptions, parent } = await setUp(t, options);
    const name = `${parent}/subscriptions/nobody`;
    const refused = await refusal(subscriptions, "getSubscription", { name });
    assert.equal(refused.code, grpc.status.NOT_FOUND);
    assert.equal(refused.ErrorInfo.reason, "SUBSCRIPTION_NOT_FOUND");
    assert.equal(refused.ResourceInfo.resourceType, "tidings.v1.Subscription");
    assert.equal(refused.ResourceInfo.resourceName, name);
  });

  test("an id is not taken for another event", async (t) => {
    const setup = await setUp(t, options);
    await publish(setup, publishRequest(setup, 1, "taken"));
    const refused = await refusal(setup.events, "publishEvent", publishRequest(setup, 2, "taken"));
    assert.equal(refused.code, grpc.status.ALREADY_EXISTS);
    assert.equal(refused.ErrorInfo.reason, "EVENT_EXISTS");
  });
}

describe("plain", () => suite({}));
describe("compressed with gzip", () =>
  suite({ "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip }));
