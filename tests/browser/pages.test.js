"use strict";

// Every page, in both sizes and schemes, with scripts and without them: nothing for axe to find, nothing for the browser
// to complain about, no way to scroll sideways.

const { after, afterEach, before, describe, test } = require("node:test");
const assert = require("node:assert/strict");
const { settle } = require("./account");
const { Person, launch } = require("./browser");
const { Gateway } = require("./gateway");
const { Receiver } = require("./receiver");

const ACCOUNT = 7;
const ADMIN_TOKEN = "0123456789abcdef0123456789abcdef";
const LANGUAGES = ["grpcurl", "python", "node", "go", "ruby", "java", "php"];

let browser, gateway, guarded, receiver, known;

before(async () => {
  [browser, gateway, guarded, receiver] = await Promise.all([
    launch(),
    Gateway.start(),
    Gateway.start({ TIDINGS_ADMIN_TOKEN: ADMIN_TOKEN }),
    Receiver.listen(),
  ]);
  guarded.token = ADMIN_TOKEN;
  known = await settle(gateway, receiver, ACCOUNT);
});

after(async () => {
  await browser?.close();
  await receiver?.close();
  await Promise.all([gateway?.end(), guarded?.end()]);
});

for (const scripts of [true, false]) {
  describe(scripts ? "with scripts" : "without scripts", () => {
    let person;
    const inspect = (name) => person.inspect(name);
    // Opens these pages one after another, and looks at each.
    const inspectAll = async (paths, status = 200) => {
      for (const path of paths) {
        const response = await person.open(path);
        assert.equal(response.status(), status, path);
        await inspect(path);
      }
    };
    const webhook = (id, rest = "") => `/accounts/${ACCOUNT}/webhooks/${id}${rest}`;

    before(async () => {
      person = await Person.sit(browser, gateway, { scripts });
    });
    afterEach(() => person.findsNothing());
    after(() => person.leave());

    test("lists of webhooks", () =>
      inspectAll([
        `/accounts/${ACCOUNT}/webhooks`,
        `/accounts/${ACCOUNT}/webhooks?state=suspended`,
        `/accounts/${ACCOUNT}/webhooks?q=nothing+like+that`,
        "/accounts/99/webhooks",
        "/accounts",
      ]));

    test("webhooks in every state", () =>
      inspectAll(["crm", "helpdesk", "given-up", "old-bot", "warehouse", "n8n"].map((id) => webhook(id))));

    test("forms of a webhook", () =>
      inspectAll([
        `/accounts/${ACCOUNT}/new-webhook`,
        webhook("warehouse", "/edit"),
        webhook("crm", "/rotate"),
        webhook("crm", "/test"),
        webhook("n8n", "/delete"),
      ]));

    test("a form with faults in every field", async () => {
      await person.open(`/accounts/${ACCOUNT}/new-webhook`);
      await person.page.getByText("More settings").click();
      await person.fill("Webhook URL", "ftp://example.com");
      for (const label of ["Inboxes", "Timeout", "Concurrent POSTs", "Attempts", "First wait", "Longest wait"])
        await person.fill(label, "many");
      await person.fill("Headers", "no colon");
      await person.click("button", "Create webhook");
      await person.sees("need other values");
      await inspect("faults");
      await person.open(`/accounts/${ACCOUNT}/new-webhook`);
      await person.fill("Webhook URL", "https://10.0.0.1/hook");
      await person.tick("Message created");
      await person.fill(/^Name/, "\u0007");
      await person.click("button", "Create webhook");
      await person.page.getByRole("alert").waitFor();
      await inspect("faults that the services find");
    });

    test("answers that show a secret", async () => {
      await person.open(`/accounts/${ACCOUNT}/new-webhook`);
      await person.fill("Webhook URL", receiver.url(`/another?scripts=${scripts}`));
      await person.tick("Message created");
      await person.click("button", "Create webhook");
      await person.sees("shown only once");
      await inspect("the secret of a new webhook");
      await person.open(webhook("warehouse", "/rotate"));
      await person.click("button", "Rotate secret");
      await person.sees("The old secret signs as well until");
      await inspect("a rotated secret and a new public key");
    });

    test("tests of a webhook, accepted and refused", async () => {
      for (const [id, badge] of [
        ["crm", "accepted"],
        ["helpdesk", "not accepted"],
      ]) {
        await person.open(webhook(id, "/test"));
        await person.click("button", "Send a test");
        await person.sees(badge);
        await inspect(`a test of ${id}`);
      }
    });

    test("deliveries", () =>
      inspectAll([
        `/accounts/${ACCOUNT}/deliveries`,
        `/accounts/${ACCOUNT}/deliveries?webhook=helpdesk&state=retrying&event=message_created&status=5xx&from=2026-01-01T00:00`,
        `/accounts/${ACCOUNT}/deliveries?state=cancelled`,
        "/accounts/99/deliveries",
      ]));

    test("one delivery, in every form and state", () =>
      inspectAll([
        `/accounts/${ACCOUNT}/deliveries/crm/${known.event}`,
        `/accounts/${ACCOUNT}/deliveries/crm/${known.event}?form=sample`,
        `/accounts/${ACCOUNT}/deliveries/given-up/${known.event}`,
        `/accounts/${ACCOUNT}/deliveries/helpdesk/${known.event}`,
        `/accounts/${ACCOUNT}/deliveries/n8n/${known.event}`,
      ]));

    test("replay, before and after the count", async () => {
      await inspectAll([
        `/accounts/${ACCOUNT}/deliveries/replay`,
        `/accounts/${ACCOUNT}/deliveries/replay?webhook=given-up&count=1`,
        `/accounts/${ACCOUNT}/deliveries/replay?webhook=crm&state=failed&count=1`,
        `/accounts/${ACCOUNT}/deliveries/replay?count=1`,
      ]);
    });

    test("events", () =>
      inspectAll([
        `/accounts/${ACCOUNT}/events`,
        `/accounts/${ACCOUNT}/events?type=inbox_created`,
        "/accounts/99/events",
        `/accounts/${ACCOUNT}/events/${known.event}`,
        `/accounts/${ACCOUNT}/events/${known.unwanted}?form=chatwoot`,
      ]));

    test("audit, status, first steps", () =>
      inspectAll([
        `/accounts/${ACCOUNT}/audit`,
        `/accounts/${ACCOUNT}/audit?all=1`,
        `/accounts/${ACCOUNT}/audit?resource=accounts/${ACCOUNT}/subscriptions/nobody`,
        `/accounts/${ACCOUNT}/audit?resource=nothing&principal=nobody`,
        "/status",
        ...LANGUAGES.map((word) => `/start?account=${ACCOUNT}&lang=${word}`),
      ]));

    test("pages that are not there", () =>
      inspectAll(["/nothing", webhook("nobody"), `/accounts/${ACCOUNT}/deliveries/crm/nothing`], 404));

    test("tokens before there is one", () => inspectAll(["/tokens", "/tokens/new", "/me"]));

    test("signing in, tokens, who am I", async () => {
      const signed = await Person.sit(browser, guarded, { scripts });
      await signed.open("/");
      await signed.inspect("sign-in");
      await signed.fill("Access token", "tdg_wrong");
      await signed.click("button", "Sign in");
      await signed.page.getByRole("alert").waitFor();
      await signed.inspect("sign-in, refused");
      await signed.fill("Access token", ADMIN_TOKEN);
      await signed.click("button", "Sign in");
      await signed.sees("Sign out");
      await signed.open("/tokens/new");
      await signed.inspect("a new token");
      await signed.click("button", "Create token");
      await signed.page.getByRole("alert").waitFor();
      await signed.inspect("a new token, refused");
      await signed.fill("Name", "Grafana");
      await signed.tick(/^read /);
      await signed.fill("Accounts", "7, 8");
      await signed.fill("Expires after", "30");
      await signed.click("button", "Create token");
      await signed.sees("shown only once");
      await signed.inspect("a token, shown once");
      await signed.click("link", "To the tokens");
      await signed.inspect("tokens");
      await signed.click("link", "Revoke Grafana");
      await signed.inspect("a token to revoke");
      await signed.click("button", "Revoke token");
      await signed.open("/me");
      await signed.inspect("who am I");
      await signed.leave();
    });
  });
}

test("the dialogs", async () => {
  const person = await Person.sit(browser, gateway);
  await person.open(`/accounts/${ACCOUNT}/webhooks`);
  await person.click("link", "Add new webhook");
  await person.page.getByRole("dialog").waitFor();
  await person.inspect("Add new webhook, a dialog");
  await person.leave();
});
