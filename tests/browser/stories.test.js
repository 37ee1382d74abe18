"use strict";

// What people come for, done by hand and counted in actions: each click, each field, each tick is one.

const assert = require("node:assert/strict");
const { after, afterEach, before, describe, test } = require("node:test");
const { chatwootHolds, checkSigned, standard } = require("../clients/node/receiver");
const { LATER, SOON } = require("./account");
const { Person, launch } = require("./browser");
const { message } = require("./events");
const { Gateway, eventually } = require("./gateway");
const { Receiver } = require("./receiver");

let browser, gateway, receiver;
let accounts = 100;

before(async () => {
  [browser, gateway, receiver] = await Promise.all([launch(), Gateway.start(), Receiver.listen()]);
});

afterEach(() => {
  receiver.arrivals = [];
  receiver.response = { status: 200, body: "thanks" };
});

after(async () => {
  await browser?.close();
  await receiver?.close();
  await gateway?.end();
});

const OK = { status: 200, body: "thanks" };
const BROKEN = {
  status: 503,
  headers: { "content-type": "text/plain", "x-backend": "b7" },
  body: "database is locked",
};

// What a request's headers look like on the page.
function headerLines({ rawHeaders }) {
  return rawHeaders.flatMap((name, index) => (index % 2 ? [] : [`${name.toLowerCase()}: ${rawHeaders[index + 1]}`]));
}

// The text of a block of code, which may be folded up.
async function code(person, label) {
  return person.page.getByLabel(label, { exact: true }).first().textContent();
}

for (const scripts of [true, false]) {
  describe(scripts ? "with scripts" : "without scripts", () => {
    const sit = () => Person.sit(browser, gateway, { javaScriptEnabled: scripts });

    test("somebody adds a webhook, sends a test, and sees what came of it", async (t) => {
      // Nobody has a connection to it yet.
      const receiver = await Receiver.listen();
      t.after(() => receiver.close());
      receiver.response = {
        status: 202,
        headers: { "content-type": "text/plain", "x-served-by": "worker-3" },
        body: "queued as 17",
      };
      const account = ++accounts;
      const person = await sit();
      await person.open(`/accounts/${account}/webhooks`);
      await person.click("link", "Add the first webhook");
      await person.fill("Webhook URL", receiver.url("/crm"));
      await person.tick("Message created");
      await person.tick("Conversation status changed");
      await person.click("button", "Create webhook");
      await person.sees("This secret is shown only once.");
      const secret = await person.page.locator("#secret").textContent();
      assert.match(secret, /^whsec_[A-Za-z0-9+/]{43}=$/);
      await person.click("link", "Send a test");
      await person.click("button", "Send a test");
      await person.sees("HTTP 202");
      assert.ok(person.actions <= 7, `${person.actions} actions`);

      const [arrival] = await receiver.received("/crm", 1);
      checkSigned(arrival, secret);
      assert.equal(await code(person, "Body byte for byte"), arrival.body.toString());
      // What the connection itself adds is not ours to show.
      const shown = (await code(person, "Request headers of attempt 1")).toLowerCase();
      const own = headerLines(arrival).filter((line) => !/^(host|content-length|accept|connection)/.test(line));
      for (const line of own)
        if (!line.includes("signature")) assert.ok(shown.includes(line.toLowerCase()), `${line} is not in ${shown}`);
      const answered = await code(person, "Response headers of attempt 1");
      assert.ok(answered.includes("x-served-by: worker-3"), answered);
      assert.equal(await code(person, "Response body of attempt 1"), "queued as 17");
      const facts = await person.text("main");
      for (const fact of [receiver.url("/crm"), receiver.address, "Connected", "First byte"])
        assert.ok(facts.includes(fact), facts);
      assert.match(facts, /[0-9.]+ (µs|ms|s)/);

      // The secret is nowhere a second time.
      for (const path of ["", "/edit", "/test"]) {
        const name = (await gateway.call("SubscriptionService", "listSubscriptions", { parent: `accounts/${account}` }))
          .subscriptions[0].name;
        await person.open(`/${name.replace("subscriptions", "webhooks")}${path}`);
        assert.ok(!(await person.page.content()).includes(secret));
      }
      await person.leave();
    });

    test("somebody finds why a webhook fails, repairs it, and replays what it missed", async () => {
      receiver.response = ({ path }) => (path === "/old" ? { status: 404, body: "no such workflow" } : OK);
      const account = ++accounts;
      await gateway.subscribe(account, receiver.url("/healthy"), {}, "healthy");
      await gateway.subscribe(account, receiver.url("/old"), { displayName: "n8n", retryPolicy: SOON }, "n8n");
      for (const number of [1, 2, 3]) await gateway.publish(account, message(account, number), `missed-${number}`);
      await gateway.settled(account, "n8n", ["missed-1", "missed-2", "missed-3"], "FAILED");

      const person = await sit();
      await person.open(`/accounts/${account}/webhooks`);
      const first = person.page.locator("#webhooks tbody tr").first();
      await person.sees("failing", first);
      await person.sees("1 webhook needs attention");
      await person.click("link", "n8n");
      await person.sees("404");
      await person.click("link", "missed-3");
      assert.equal(await code(person, "Response body of attempt 2"), "no such workflow");
      await person.click("link", "n8n");
      await person.click("link", "Edit");
      await person.fill("Webhook URL", receiver.url("/new"));
      await person.click("button", "Update webhook");
      await person.sees("The webhook was updated.");
      await person.click("link", "Replay what it missed");
      await person.click("button", "Count");
      await person.sees("3 events would be queued for this webhook.");
      assert.equal(receiver.at("/new").length, 0, "nothing is sent before it was counted");
      await person.click("button", "Replay 3 events");
      await person.sees("3 events were queued");
      assert.ok(person.actions <= 9, `${person.actions} actions`);

      const arrived = await receiver.received("/new", 3);
      assert.deepEqual(
        arrived.map(({ headers }) => headers["webhook-id"]).sort(),
        [...new Set(receiver.at("/old").map(({ headers }) => headers["webhook-id"]))].sort(),
      );
      await gateway.settled(account, "n8n", ["missed-1", "missed-2", "missed-3"], "SUCCEEDED");
      await person.click("link", "See them arrive");
      await eventually("three that succeeded", async () => {
        if (!scripts) await person.page.reload();
        return (await person.page.locator("#rows tbody").getByText("succeeded").count()) === 3;
      });
      await person.leave();
    });

    test("somebody retries one delivery and cancels others", async () => {
      receiver.response = BROKEN;
      const account = ++accounts;
      await gateway.subscribe(account, receiver.url("/slow"), { retryPolicy: LATER }, "slow");
      const events = ["one", "two", "three"];
      for (const [number, id] of events.entries()) await gateway.publish(account, message(account, number), id);
      await gateway.settled(account, "slow", events, "RETRYING");
      const person = await sit();
      await person.open(`/accounts/${account}/deliveries?state=retrying`);
      for (const id of ["one", "two"]) await person.tick(`Select the delivery of ${id}`);
      await person.click("button", "Cancel selected");
      await person.sees("2 deliveries cancelled.");
      await gateway.settled(account, "slow", ["one", "two"], "CANCELLED");

      receiver.response = OK;
      await person.click("link", "three");
      await person.click("button", "Retry now");
      await person.sees("The next attempt is on its way.");
      await gateway.settled(account, "slow", ["three"], "SUCCEEDED");
      await person.page.reload();
      await person.sees("2 attempts");
      assert.equal(await code(person, "Response body of attempt 2"), "thanks");
      assert.equal(await code(person, "Response body of attempt 1"), "database is locked");
      assert.ok((await code(person, "Response headers of attempt 1")).includes("x-backend: b7"));
      const sent = receiver.at("/slow").pop();
      assert.equal(await code(person, "Body byte for byte"), sent.body.toString());
      assert.ok(person.actions <= 5, `${person.actions} actions`);
      await person.leave();
    });

    test("somebody pauses a webhook and resumes it", async () => {
      const account = ++accounts;
      await gateway.subscribe(account, receiver.url("/pause"), { displayName: "CRM" }, "crm");
      const person = await sit();
      await person.open(`/accounts/${account}/webhooks/crm`);
      await person.click("button", "Pause");
      await person.sees("The webhook is paused. Events wait for it.");
      await gateway.publish(account, message(account, 1), "waits");
      await person.page.reload();
      await person.sees("1 delivery owed");
      assert.equal(receiver.at("/pause").length, 0);
      await person.click("button", "Resume");
      await person.sees("The webhook is active.");
      await receiver.received("/pause", 1);
      await gateway.settled(account, "crm", ["waits"], "SUCCEEDED");
      await person.leave();
    });

    test("somebody rotates a secret, and both sign until the old one ends", async () => {
      const account = ++accounts;
      const { secret: old } = await gateway.subscribe(account, receiver.url("/rotate"), {}, "crm");
      const person = await sit();
      await person.open(`/accounts/${account}/webhooks/crm`);
      await person.click("link", "Rotate secret");
      await person.choose("The old secret signs as well for", "7 days");
      await person.click("button", "Rotate secret");
      await person.sees("This secret is shown only once.");
      const until = await person.page
        .locator("p", { hasText: "The old secret signs as well until" })
        .locator("time")
        .getAttribute("datetime");
      const days = (new Date(until) - Date.now()) / 86_400_000;
      assert.ok(days > 6.9 && days <= 7, `${days} days`);
      const secret = await person.page.locator("#secret").textContent();
      await gateway.publish(account, message(account, 1));
      const [arrival] = await receiver.received("/rotate", 1);
      standard(arrival, old);
      standard(arrival, secret);
      assert.ok(chatwootHolds(arrival, secret));
      await person.leave();
    });

    test("somebody deletes a webhook, and is told what it drops", async () => {
      const account = ++accounts;
      await gateway.subscribe(account, receiver.url("/delete"), {}, "old");
      await gateway.call("SubscriptionService", "pauseSubscription", { name: `accounts/${account}/subscriptions/old` });
      for (const number of [1, 2]) await gateway.publish(account, message(account, number));
      const person = await sit();
      await person.open(`/accounts/${account}/webhooks/old`);
      await person.click("link", "Delete");
      await person.sees("2 deliveries are still owed and would be dropped.");
      // Without the tick the browser does not send the form.
      await person.click("button", "Delete webhook");
      assert.equal(
        (await gateway.call("SubscriptionService", "listSubscriptions", { parent: `accounts/${account}` }))
          .subscriptions.length,
        1,
      );
      await person.tick("Drop what is still owed");
      await person.click("button", "Delete webhook");
      await person.sees("The webhook was deleted.");
      await person.sees("There are no webhooks configured for this account.");
      assert.equal(receiver.at("/delete").length, 0);
      await person.leave();
    });
  });
}

// Somebody who has just created a webhook, in an account of its own.
async function newWebhook() {
  const account = ++accounts;
  const person = await Person.sit(browser, gateway);
  await person.open(`/accounts/${account}/new-webhook`);
  await person.fill("Webhook URL", receiver.url());
  await person.tick("Message created");
  await person.click("button", "Create webhook");
  return { account, person };
}

test("a form that is sent twice makes one webhook", async () => {
  const { account, person } = await newWebhook();
  await person.sees("shown only once");
  await person.page.goBack();
  await person.click("button", "Create webhook");
  await person.page.waitForLoadState();
  const { subscriptions } = await gateway.call("SubscriptionService", "listSubscriptions", {
    parent: `accounts/${account}`,
  });
  assert.equal(subscriptions.length, 1);
  await person.leave();
});

test("the secret is copied with a button", async () => {
  const { person } = await newWebhook();
  await person.click("button", "Copy");
  await person.sees("Copied");
  const copied = await person.page.evaluate(() => navigator.clipboard.readText());
  assert.equal(copied, await person.page.locator("#secret").textContent());
  await person.leave();
});

// The name of what has the focus, as it is read to those who do not see it.
function focused() {
  const element = document.activeElement;
  const label = element.labels?.[0] ?? element;
  return label.textContent.replace(/\s+/g, " ").trim();
}

test("with the keyboard alone somebody adds a webhook", async () => {
  const account = ++accounts;
  const person = await Person.sit(browser, gateway);
  const { keyboard } = person.page;
  // Presses Tab until this has the focus, and checks that the focus can be seen.
  const reach = async (name, most = 20) => {
    for (let presses = 0; presses < most; presses++) {
      await keyboard.press("Tab");
      if ((await person.page.evaluate(focused)).startsWith(name)) {
        const outline = await person.page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
        assert.notEqual(outline, "none", name);
        return;
      }
    }
    assert.fail(`Tab does not reach ${name}`);
  };
  await person.open(`/accounts/${account}/webhooks`);
  await reach("Skip to content", 1);
  await keyboard.press("Enter");
  await reach("Add new webhook", 2);
  await keyboard.press("Enter");
  await person.page.getByRole("dialog").waitFor();
  assert.equal(await person.page.evaluate(focused), "Webhook URL");
  await keyboard.press("Escape");
  await person.page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await person.page.evaluate(focused), "Add new webhook", "the focus returns to where it was");
  await keyboard.press("Enter");
  await person.page.getByRole("dialog").waitFor();
  await keyboard.type(receiver.url("/keys"));
  await reach("Message created");
  await keyboard.press("Space");
  await reach("Documented");
  await keyboard.press("ArrowDown");
  await keyboard.press("ArrowDown");
  await reach("Create webhook");
  await keyboard.press("Enter");
  await person.sees("This secret is shown only once.");
  const { subscriptions } = await gateway.call("SubscriptionService", "listSubscriptions", {
    parent: `accounts/${account}`,
  });
  assert.equal(subscriptions.length, 1);
  const [{ url, eventTypes, payloadFormat }] = subscriptions;
  assert.deepEqual(
    [url, eventTypes, payloadFormat],
    [receiver.url("/keys"), ["EVENT_TYPE_MESSAGE_CREATED"], "PAYLOAD_FORMAT_CHATWOOT"],
  );
  await person.leave();
});
