"use strict";

// Web pages of other sites that call the gRPC port: with fetch and with the clients of Connect. Only those may that
// cors_allow_origins names.

const assert = require("node:assert/strict");
const http = require("node:http");
const { after, before, test } = require("node:test");
const { launch } = require("./browser");
const { Gateway } = require("./gateway");
const { Receiver } = require("./receiver");

const ACCOUNT = 8;
const ADMIN_TOKEN = "0123456789abcdef0123456789abcdef";
const EVIL = "evil.example";

let browser, site, gateway, guarded, receiver;

before(async () => {
  browser = await launch(`--host-resolver-rules=MAP ${EVIL} 127.0.0.1`);
  // One server, which is a site of its own under each of its names.
  site = http.createServer((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end("<!doctype html><title>a site</title>");
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  const allowed = { TIDINGS_CORS_ALLOW_ORIGINS: origin("127.0.0.1") };
  [gateway, guarded, receiver] = await Promise.all([
    Gateway.start(allowed),
    Gateway.start({ ...allowed, TIDINGS_ADMIN_TOKEN: ADMIN_TOKEN }),
    Receiver.listen(),
  ]);
  await guarded.secure(ADMIN_TOKEN);
  for (const of of [gateway, guarded]) await of.subscribe(ACCOUNT, receiver.url(`/${of.grpc}`), {}, "crm");
});

after(async () => {
  await browser?.close();
  site?.close();
  await receiver?.close();
  await Promise.all([gateway?.end(), guarded?.end()]);
});

function origin(host) {
  return `http://${host}:${site.address().port}`;
}

function publishRequest(eventId) {
  const message = {
    id: "7",
    content: "Hi",
    messageType: "MESSAGE_TYPE_INCOMING",
    account: { id: ACCOUNT },
    conversation: { id: 5 },
  };
  return { parent: `accounts/${ACCOUNT}`, eventId, event: { messageCreated: { message } } };
}

// What a page of this host gets from a method: the status and the JSON, or why it got nothing.
async function called(host, address, method, request, headers = {}) {
  const context = await browser.newContext();
  try {
    const page = await context.newPage();
    await page.goto(`${origin(host)}/`);
    return await page.evaluate(
      ([url, body, headers]) =>
        fetch(url, { method: "POST", headers: { "content-type": "application/json", ...headers }, body }).then(
          async (response) => ({ status: response.status, json: await response.json() }),
          (error) => ({ refused: `${error}` }),
        ),
      [`http://${address}/tidings.v1.${method}`, JSON.stringify(request), headers],
    );
  } finally {
    await context.close();
  }
}

async function events(gateway) {
  const { events } = await gateway.call("EventService", "listEvents", { parent: `accounts/${ACCOUNT}` });
  return events.length;
}

test("a page of an allowed site publishes, and reads what is wrong", async () => {
  const { status, json } = await called("127.0.0.1", gateway.grpc, "EventService/PublishEvent", publishRequest("page"));
  assert.deepEqual([status, json.result.event], [200, `accounts/${ACCOUNT}/events/page`]);
  const [arrival] = await receiver.received(`/${gateway.grpc}`, 1);
  assert.equal(JSON.parse(arrival.body).content, "Hi");
  const wrong = await called("127.0.0.1", gateway.grpc, "EventService/PublishEvent", {});
  assert.equal(wrong.status, 400);
  const { debug } = wrong.json.details.find(({ type }) => type === "google.rpc.BadRequest");
  assert.deepEqual(
    debug.fieldViolations.map(({ field }) => field),
    ["parent", "event"],
  );
});

test("a token gives a page its rights", async () => {
  const request = publishRequest("with-token");
  const without = await called("127.0.0.1", guarded.grpc, "EventService/PublishEvent", request);
  assert.deepEqual([without.status, without.json.code], [401, "unauthenticated"]);
  const headers = { authorization: `Bearer ${guarded.publisher}` };
  const published = await called("127.0.0.1", guarded.grpc, "EventService/PublishEvent", request, headers);
  assert.equal(published.status, 200);
  const parent = { parent: request.parent };
  const denied = await called("127.0.0.1", guarded.grpc, "SubscriptionService/ListSubscriptions", parent, headers);
  assert.deepEqual([denied.status, denied.json.code], [403, "permission_denied"]);
});

test("a page of any other site changes nothing and reads nothing", async () => {
  const before = await events(gateway);
  for (const host of ["localhost", EVIL]) {
    for (const contentType of ["application/json", "text/plain", "application/proto", "application/grpc-web"]) {
      const headers = { "content-type": contentType };
      const got = await called(host, gateway.grpc, "EventService/PublishEvent", publishRequest(host), headers);
      assert.match(got.refused ?? JSON.stringify(got), /Failed to fetch/, `${host} ${contentType}`);
    }
  }
  assert.equal(await events(gateway), before);
});

test("a name of another site that leads to the gateway gets nothing", async () => {
  const before = await events(gateway);
  const context = await browser.newContext();
  const page = await context.newPage();
  const port = gateway.grpc.split(":").pop();
  const response = await page.goto(`http://${EVIL}:${port}/`);
  assert.equal(response.status(), 421);
  // The page is of that name, so that its requests are of the same site, and need no preflight.
  const status = await page.evaluate(
    ([path, body]) =>
      fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body }).then(
        ({ status }) => status,
        () => "refused",
      ),
    ["/tidings.v1.EventService/PublishEvent", JSON.stringify(publishRequest("rebound"))],
  );
  assert.equal(status, 421);
  assert.equal(await events(gateway), before);
  await context.close();
});
