"use strict";

// Text of others, in every field that others fill: it is shown as it is, it runs nothing, and it breaks no page.

const assert = require("node:assert/strict");
const { after, afterEach, before, test } = require("node:test");
const { SOON } = require("./account");
const { Person, launch } = require("./browser");
const { contactUpdated, message } = require("./events");
const { Gateway } = require("./gateway");
const { Receiver } = require("./receiver");

const ACCOUNT = 13;
// It would run in an element, an attribute, a script, a comment or a text area.
const SCRIPT = `"'></textarea></title></pre>--><script>window.ran=1</script><img src=x onerror=window.ran=1>`;
const BACKWARDS = "\u202egnp.exe\u2066\u200f";
const COLOURS = "\u001b[2J\u001b[31mred\u001b]0;title\u0007";
const LONG = "W".repeat(10_240);
const SHORT = `"><img src=x onerror=window.ran=1>${BACKWARDS}`;

let browser, gateway, receiver, person;

before(async () => {
  [browser, gateway, receiver] = await Promise.all([launch(), Gateway.start(), Receiver.listen()]);
  await gateway.subscribe(
    ACCOUNT,
    receiver.url("/ok"),
    { displayName: SHORT, annotations: { [`team`]: SCRIPT } },
    "named",
  );
  await gateway.subscribe(
    ACCOUNT,
    receiver.url(`/hostile?q=${encodeURIComponent(SCRIPT)}`),
    { retryPolicy: SOON },
    "answers",
  );
  await gateway.subscribe(
    ACCOUNT,
    receiver.url("/broken"),
    { retryPolicy: SOON, displayName: "x".repeat(63) },
    "breaks",
  );
  await gateway.subscribe(
    ACCOUNT,
    receiver.url(`/${"long-".repeat(300)}`),
    { headers: { [`x-${"y".repeat(100)}`]: SCRIPT } },
    "long",
  );
  await gateway.subscribe(
    ACCOUNT,
    receiver.url("/contacts"),
    { eventTypes: ["EVENT_TYPE_CONTACT_UPDATED"] },
    "contacts",
  );
  receiver.response = ({ path }) => {
    if (path.startsWith("/broken")) return { raw: `HTTP/1.1 200 ${SCRIPT}${COLOURS}\r\nx: \u0000\r\n\r\n` };
    if (!path.startsWith("/hostile")) return { status: 200 };
    const body = JSON.stringify({ SCRIPT, BACKWARDS, COLOURS, LONG }) + COLOURS + SCRIPT + BACKWARDS;
    return {
      status: 500,
      headers: {
        "content-type": "text/html",
        "x-script": SCRIPT,
        "x-long": LONG.slice(0, 3000),
        "x-bytes": "\xe9\x9f",
      },
      body,
    };
  };
  const texts = { content: SCRIPT + BACKWARDS + COLOURS + LONG, sourceId: SCRIPT };
  const sender = {
    contact: {
      id: 1,
      name: LONG,
      email: SCRIPT,
      additionalAttributes: { fields: { [SCRIPT]: { stringValue: COLOURS } } },
    },
  };
  await gateway.publish(
    ACCOUNT,
    message(ACCOUNT, 1, { ...texts, sender, inbox: { id: 3, name: SCRIPT }, account: { id: ACCOUNT, name: SCRIPT } }),
    "hostile",
  );
  await gateway.publish(
    ACCOUNT,
    contactUpdated(ACCOUNT, 1, { name: LONG + SCRIPT, identifier: COLOURS, phoneNumber: BACKWARDS }),
    "contact",
  );
  await gateway.publish(ACCOUNT, message(ACCOUNT, 2), "e".repeat(64));
  await gateway.settled(ACCOUNT, "answers", ["hostile"], "FAILED");
  await gateway.settled(ACCOUNT, "breaks", ["hostile"], "FAILED");
  person = await Person.sit(browser, gateway);
});

afterEach(() => person.findsNothing());

after(async () => {
  await person?.leave();
  await browser?.close();
  await receiver?.close();
  await gateway?.end();
});

// Opens a page, and looks at it from all sides. Returns its text.
async function look(path, status = 200) {
  const response = await person.open(path);
  assert.equal(response.status(), status, path);
  return see(path);
}

async function see(name) {
  await person.page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  // Where bytes are shown as they are, and where they are edited, they stay.
  const text = await person.page.evaluate(() => {
    const copy = document.body.cloneNode(true);
    for (const element of copy.querySelectorAll("#bytes, #curl, #sent, textarea")) element.remove();
    return copy.textContent;
  });
  await person.inspect(name, { axe: false });
  assert.equal(await person.page.evaluate(() => window.ran), undefined, `a script ran on ${name}`);
  for (const mark of [...BACKWARDS.matchAll(/[\u202e\u2066\u200f]/g), ..."\u001b\u0007\u0000"].map(String))
    assert.ok(!text.includes(mark), `${JSON.stringify(mark)} is on ${name}`);
  return text;
}

test("names and addresses of webhooks", async () => {
  const list = await look(`/accounts/${ACCOUNT}/webhooks`);
  assert.ok(list.includes('"><img src=x onerror=window.ran=1>\\u{202e}gnp.exe'), list);
  for (const id of ["named", "answers", "breaks", "long"]) {
    await look(`/accounts/${ACCOUNT}/webhooks/${id}`);
    for (const rest of ["edit", "rotate", "test", "delete"])
      await person.open(`/accounts/${ACCOUNT}/webhooks/${id}/${rest}`).then(() => see(`${id}/${rest}`));
  }
  await look(`/accounts/${ACCOUNT}/deliveries/replay?webhook=named&count=1`);
  await look("/status");
});

test("contents of events", async () => {
  for (const form of ["documented", "sample", "chatwoot"]) {
    for (const path of [
      "events/hostile",
      "events/contact",
      "deliveries/named/hostile",
      "deliveries/contacts/contact",
    ]) {
      const text = await look(`/accounts/${ACCOUNT}/${path}?form=${form}`);
      assert.ok(text.includes("<script>window.ran=1</script>"), path);
    }
  }
  await look(`/accounts/${ACCOUNT}/events`);
  await look(`/accounts/${ACCOUNT}/events/${"e".repeat(64)}`);
});

test("what a receiver answers", async () => {
  const text = await look(`/accounts/${ACCOUNT}/deliveries/answers/hostile`);
  for (const part of ["<script>window.ran=1</script>", "x-script: ", "\\u001b[2J"])
    assert.ok(text.includes(part), part);
  await look(`/accounts/${ACCOUNT}/deliveries/breaks/hostile`);
  await person.open(`/accounts/${ACCOUNT}/webhooks/answers/test`);
  await person.click("button", "Send a test");
  await person.sees("not accepted");
  await see("a test");
  await look(`/accounts/${ACCOUNT}/deliveries`);
});

test("bodies that are downloaded are text, not pages", async () => {
  for (const path of ["events/hostile/raw", "deliveries/named/hostile/raw"]) {
    const [download] = await Promise.all([
      person.page.waitForEvent("download"),
      person.page.goto(`/accounts/${ACCOUNT}/${path}`).catch(() => {}),
    ]);
    assert.match(download.suggestedFilename(), /\.txt$/);
  }
});

test("rows that arrive live", async () => {
  await person.open(`/accounts/${ACCOUNT}/deliveries`);
  await person.page.locator("#live.on").waitFor();
  await person.page.mouse.move(5, 5);
  await person.page.evaluate(() => document.activeElement.blur());
  await gateway.publish(ACCOUNT, message(ACCOUNT, 3, { content: SCRIPT }), "live-1");
  await person.page.getByRole("link", { name: "live-1", exact: true }).first().waitFor();
  await see("live rows");
});

test("what addresses say", async () => {
  const text = encodeURIComponent(SCRIPT + BACKWARDS);
  const account = `/accounts/${ACCOUNT}`;
  for (const path of [
    `${account}/webhooks?q=${text}&state=${text}&done=${text}`,
    `${account}/new-webhook?url=${text}&name=${text}&headers=${text}&inboxes=${text}&id=${text}`,
    `${account}/deliveries?webhook=crm&state=${text}&event=${text}&status=${text}`,
    `${account}/audit?resource=${text}&principal=${text}`,
    `${account}/events?type=${text}`,
    `/start?account=${ACCOUNT}&lang=${text}`,
  ]) {
    await person.open(path);
    await see(path);
  }
  for (const path of [
    `/${text}`,
    `${account}/webhooks/${text}`,
    `${account}/events/${text}`,
    `${account}/deliveries/${text}/${text}`,
  ]) {
    const response = await person.open(path);
    assert.ok([400, 404].includes(response.status()), path);
    await see(path);
  }
});

test("names of tokens and what the audit has of them", async () => {
  await gateway
    .call("AccessTokenService", "createAccessToken", {
      accessToken: { displayName: SHORT, scopes: ["SCOPE_ADMIN"] },
    })
    .then(({ token }) => (gateway.token = token));
  await person.enter(gateway.token);
  const names = [`/tokens`, `/me`, `/accounts/${ACCOUNT}/audit?all=1`];
  for (const path of names) assert.ok((await look(path)).includes("onerror=window.ran=1>"), path);
  await person.page.goto("/tokens");
  await person.page
    .getByRole("link", { name: /^Revoke/ })
    .first()
    .click();
  await see("a token to revoke");
});
