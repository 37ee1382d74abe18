"use strict";

// Tidings as the clients of Connect see it: connect-node and connect-web, over Connect and gRPC-Web, in JSON and in
// protobuf.

const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const path = require("node:path");
const { describe, test } = require("node:test");
const { createFileRegistry, fromBinary } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { Code, ConnectError, createClient } = require("@connectrpc/connect");
const node = require("@connectrpc/connect-node");
const web = require("@connectrpc/connect-web");
const { Receiver, checkSigned } = require("./receiver");

const CALL_TIMEOUT_MS = 30_000;
// An open HTTP/2 connection would keep the test from its end.
const IDLE_TIMEOUT_MS = 1_000;
const BUF = path.join(__dirname, "node_modules/.bin/buf");

// The contract as `buf build` compiles it.
const compiled = execFileSync(BUF, ["build", path.join(__dirname, "../../.."), "-o", "-"], { stdio: ["ignore", "pipe", "inherit"] });
const contract = createFileRegistry(fromBinary(FileDescriptorSetSchema, compiled));
const service = (name) => contract.getService(`tidings.v1.${name}`);

const TRANSPORTS = {
  "Connect, JSON, HTTP/1.1": (options) =>
    node.createConnectTransport({ httpVersion: "1.1", useBinaryFormat: false, ...options }),
  "Connect, protobuf, HTTP/1.1": (options) =>
    node.createConnectTransport({ httpVersion: "1.1", useBinaryFormat: true, ...options }),
  "Connect, JSON, HTTP/2": (options) =>
    node.createConnectTransport({ httpVersion: "2", useBinaryFormat: false, idleConnectionTimeoutMs: IDLE_TIMEOUT_MS, ...options }),
  "Connect, compressed, HTTP/2": (options) =>
    node.createConnectTransport({
      httpVersion: "2",
      idleConnectionTimeoutMs: IDLE_TIMEOUT_MS,
      sendCompression: node.compressionGzip,
      compressMinBytes: 0,
      ...options,
    }),
  "gRPC-Web, HTTP/1.1": (options) => node.createGrpcWebTransport({ httpVersion: "1.1", ...options }),
  "gRPC-Web, HTTP/2": (options) => node.createGrpcWebTransport({ httpVersion: "2", idleConnectionTimeoutMs: IDLE_TIMEOUT_MS, ...options }),
  "gRPC, HTTP/2": (options) => node.createGrpcTransport({ httpVersion: "2", idleConnectionTimeoutMs: IDLE_TIMEOUT_MS, ...options }),
  "connect-web, Connect": (options) => web.createConnectTransport(options),
  "connect-web, gRPC-Web": (options) => web.createGrpcWebTransport(options),
};

// Of the contract: EVENT_TYPE_MESSAGE_CREATED, STATE_SUCCEEDED, SCOPE_PUBLISH.
const MESSAGE_CREATED = contract.getEnum("tidings.v1.EventType").values.find(({ name }) => name === "EVENT_TYPE_MESSAGE_CREATED").number;
const SUCCEEDED = 3;
const PUBLISH = 1;

let accounts = 5000;

// Adds an access token to every call.
function withToken(token) {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
}

function clients(transport, address, token) {
  const options = { baseUrl: `http://${address}`, defaultTimeoutMs: CALL_TIMEOUT_MS };
  const made = transport({ ...options, interceptors: token ? [withToken(token)] : [] });
  const client = (name) => createClient(service(name), made);
  return {
    subscriptions: client("SubscriptionService"),
    events: client("EventService"),
    deliveries: client("DeliveryService"),
    tokens: client("AccessTokenService"),
  };
}

function publishRequest(account, eventId) {
  const message = {
    id: 7n,
    content: "Hi",
    messageType: 1,
    createdAt: { seconds: 1583240757n },
    account: { id: BigInt(account), name: "Acme" },
    conversation: { id: 7n, inboxId: 3n, status: "open" },
    sender: { kind: { case: "contact", value: { id: 5n, name: "Zoë" } } },
    contentAttributes: { in_reply_to: 12 },
  };
  return {
    parent: `accounts/${account}`,
    eventId,
    event: { payload: { case: "messageCreated", value: { message } } },
  };
}

// The error of a call that is refused.
async function refusal(call) {
  return call.then(
    () => assert.fail("it was not refused"),
    (error) => ConnectError.from(error),
  );
}

// A detail of an error by its type: the fields that Connect has beside the bytes, or undefined.
function detail(error, type) {
  return error.details.find((detail) => detail.type === `google.rpc.${type}`);
}

for (const [name, transport] of Object.entries(TRANSPORTS)) {
  describe(name, () => {
    test("an event is published, watched and delivered", async (t) => {
      const receiver = await new Receiver().listen();
      const leaving = new AbortController();
      t.after(async () => {
        leaving.abort();
        await receiver.close();
      });
      const { subscriptions, events, deliveries } = clients(transport, process.env.GATEWAY);
      const account = ++accounts;
      const parent = `accounts/${account}`;
      const { subscription, signingSecret } = await subscriptions.createSubscription({
        parent,
        subscription: { url: `http://${receiver.address}/hook`, eventTypes: [MESSAGE_CREATED] },
      });
      const changes = deliveries.watchDeliveries(
        { parent: subscription.name },
        // Without a timeout, whose timer would outlive the watch.
        { signal: leaving.signal, timeoutMs: 0 },
      );
      const seen = (async () => {
        for await (const { delivery } of changes) if (delivery?.state === SUCCEEDED) return delivery;
        return null;
      })();
      // A watch shows what happens after it has begun, so that events are published until it shows one.
      let delivered = null;
      for (let number = 0; delivered === null; number++) {
        const { result } = await events.publishEvent(publishRequest(account, `e${number}`));
        assert.equal(result.event, `${parent}/events/e${number}`);
        assert.equal(checkSigned(await receiver.next(), signingSecret).content, "Hi");
        delivered = await Promise.race([seen, new Promise((resolve) => setTimeout(resolve, 100, null))]);
      }
      assert.match(delivered.name, new RegExp(`^${subscription.name}/deliveries/e`));
      const page = await events.listEvents({ parent });
      assert.equal(page.events[0].payload.value.message.contentAttributes.in_reply_to, 12);
    });

    test("an error has its code, and details with the fields at fault", async () => {
      const { events, subscriptions } = clients(transport, process.env.GATEWAY);
      const error = await refusal(events.publishEvent({}));
      assert.equal(error.code, Code.InvalidArgument);
      assert.equal(error.rawMessage, "parent is required; event is required");
      for (const type of ["ErrorInfo", "BadRequest"]) assert.ok(detail(error, type)?.value.length > 0, type);
      assert.ok(Buffer.from(detail(error, "ErrorInfo").value).includes("FIELD_REQUIRED"));
      if (name.includes("Connect,") || name.endsWith(" Connect")) {
        const { fieldViolations } = detail(error, "BadRequest").debug;
        assert.deepEqual(
          fieldViolations.map(({ field }) => field),
          ["parent", "event"],
        );
      }
      const missing = await refusal(subscriptions.getSubscription({ name: "accounts/1/subscriptions/none" }));
      assert.equal(missing.code, Code.NotFound);
    });

    test("a token is asked for, and gives its rights", async () => {
      const anonymous = clients(transport, process.env.GUARDED_GATEWAY);
      const account = ++accounts;
      const request = publishRequest(account, "a");
      assert.equal((await refusal(anonymous.events.publishEvent(request))).code, Code.Unauthenticated);
      const admin = clients(transport, process.env.GUARDED_GATEWAY, process.env.ADMIN_TOKEN);
      const { token } = await admin.tokens.createAccessToken({ accessToken: { scopes: [PUBLISH] } });
      const publisher = clients(transport, process.env.GUARDED_GATEWAY, token);
      assert.equal((await publisher.events.publishEvent(request)).result.deliveryCount, 0);
      const denied = await refusal(publisher.subscriptions.listSubscriptions({ parent: request.parent }));
      assert.equal(denied.code, Code.PermissionDenied);
    });
  });
}

test("requests that stream are refused over Connect, with the way out", async () => {
  const { events } = clients(TRANSPORTS["Connect, JSON, HTTP/2"], process.env.GATEWAY);
  async function* requests() {
    yield { sequence: 1n, request: publishRequest(1, "a") };
  }
  const responses = events.streamPublishEvents(requests())[Symbol.asyncIterator]();
  const error = await refusal(responses.next());
  assert.equal(error.code, Code.Unimplemented);
  assert.match(error.message, /gRPC.*BatchPublishEvents/);
});
