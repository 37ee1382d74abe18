"use strict";

// Tokens and sessions, and what other sites and thieves try.

const assert = require("node:assert/strict");
const http = require("node:http");
const { after, before, test } = require("node:test");
const { Person, launch } = require("./browser");
const { Gateway } = require("./gateway");
const { Receiver } = require("./receiver");

const ADMIN_TOKEN = "0123456789abcdef0123456789abcdef";
const ACCOUNT = 7;
const EVIL = "evil.example";

let browser, open, guarded, receiver, evil;

before(async () => {
  // As if the name of another site led to this machine: DNS rebinding.
  browser = await launch(`--host-resolver-rules=MAP ${EVIL} 127.0.0.1`);
  [open, guarded, receiver] = await Promise.all([
    Gateway.start(),
    Gateway.start({ TIDINGS_ADMIN_TOKEN: ADMIN_TOKEN }),
    Receiver.listen(),
  ]);
  guarded.token = ADMIN_TOKEN;
  for (const gateway of [open, guarded]) {
    await gateway.subscribe(ACCOUNT, receiver.url(), {}, "crm");
  }
  // A site of somebody else: whatever path is asked for, its page sends what the path says.
  evil = http.createServer((request, response) => {
    const url = new URL(request.url, "http://site.example");
    response.setHeader("content-type", "text/html");
    response.end(
      `<!doctype html><title>evil</title><form method="post" action="${url.searchParams.get("to") ?? ""}"><button>win a prize</button></form>`,
    );
  });
  await new Promise((resolve) => evil.listen(0, "127.0.0.1", resolve));
});

after(async () => {
  await browser?.close();
  evil?.close();
  await receiver?.close();
  await Promise.all([open?.end(), guarded?.end()]);
});

async function subscriptions(gateway) {
  const { subscriptions } = await gateway.call("SubscriptionService", "listSubscriptions", {
    parent: `accounts/${ACCOUNT}`,
  });
  return subscriptions.map(({ name, state }) => [name, state]);
}

async function signIn(gateway, token) {
  const person = await Person.sit(browser, gateway);
  await person.enter(token);
  return person;
}

// A browser that has the cookies of another.
async function thief(person, gateway) {
  return Person.sit(browser, gateway, { storageState: await person.context.storageState() });
}

// Whether a browser gets pages, and not the sign-in.
async function isIn(person) {
  await person.open(`/accounts/${ACCOUNT}/webhooks`);
  return !person.page.url().endsWith("/sign-in");
}

test("a name of another site that leads here gets nothing", async () => {
  const before = await subscriptions(open);
  const person = await Person.sit(browser, open);
  const port = new URL(open.console).port;
  for (const path of ["/", `/accounts/${ACCOUNT}/webhooks`, "/assets/console.js", "/tokens/new", "/sign-in"]) {
    const response = await person.page.goto(`http://${EVIL}:${port}${path}`);
    assert.equal(response.status(), 421, path);
    const text = await response.text();
    assert.ok(text.includes("not served under this host name") && !text.includes("crm"), text);
  }
  // The page is of that site, so that its own requests are of the same one.
  const status = await person.page.evaluate(
    (path) =>
      fetch(path, { method: "POST", body: new URLSearchParams({ a: "b" }) }).then(
        ({ status }) => status,
        () => "refused",
      ),
    `/accounts/${ACCOUNT}/webhooks/crm/pause`,
  );
  assert.ok([421, "refused"].includes(status), `${status}`);
  assert.deepEqual(await subscriptions(open), before);
  await person.context.close();
});

test("forms and scripts of other sites change nothing and read nothing", async () => {
  const port = evil.address().port;
  for (const gateway of [open, guarded]) {
    const before = await subscriptions(gateway);
    const person = gateway === guarded ? await signIn(guarded, ADMIN_TOKEN) : await Person.sit(browser, open);
    const target = `${gateway.console}/accounts/${ACCOUNT}/webhooks/crm/pause`;
    // Another name, and the same name with another port: cookies do not tell ports apart.
    for (const site of [`http://${EVIL}:${port}`, `http://localhost:${port}`, `http://127.0.0.1:${port}`]) {
      await person.page.goto(`${site}/?to=${encodeURIComponent(target)}`);
      const [response] = await Promise.all([
        person.page.waitForResponse(target),
        person.page.getByRole("button").click(),
      ]);
      assert.equal(response.status(), 403, site);
      await person.page.goto(`${site}/`);
      const read = await person.page.evaluate(async (url) => {
        const attempts = [{ method: "POST", mode: "no-cors", credentials: "include" }, { credentials: "include" }];
        const texts = attempts.map((options) =>
          fetch(url, options).then(
            (response) => response.text(),
            () => "",
          ),
        );
        return (await Promise.all(texts)).join("");
      }, target);
      assert.equal(read, "", site);
      // As a picture, a script, a frame.
      const loaded = await person.page.evaluate(async (console) => {
        const load = (tag, path) =>
          new Promise((resolve) => {
            const element = Object.assign(document.createElement(tag), { src: console + path });
            element.onload = () => resolve(tag === "iframe" ? frames.length && `${tag} ${path}` : `${tag} ${path}`);
            element.onerror = () => resolve("");
            document.body.append(element);
          });
        return (await Promise.all([load("img", "/favicon.ico"), load("script", "/assets/console.js")])).join("");
      }, gateway.console);
      assert.equal(loaded, "", site);
    }
    assert.deepEqual(await subscriptions(gateway), before);
    await person.context.close();
  }
});

test("the console cannot be framed", async () => {
  const person = await Person.sit(browser, open);
  await person.page.goto(`http://127.0.0.1:${evil.address().port}/`);
  await person.page.evaluate((url) => {
    const frame = Object.assign(document.createElement("iframe"), { src: url });
    document.body.append(frame);
    return new Promise((resolve) => (frame.onload = resolve));
  }, `${open.console}/accounts/${ACCOUNT}/webhooks`);
  const [frame] = person.page.frames().slice(1);
  assert.ok(!(await frame.content().catch(() => "")).includes("crm"));
  await person.context.close();
});

test("a copied cookie is of no use after the sign-out", async () => {
  const person = await signIn(guarded, ADMIN_TOKEN);
  const other = await thief(person, guarded);
  assert.ok(await isIn(other), "a session is its cookie");
  const [cookie] = (await person.context.cookies()).filter(
    ({ name }) => name === `tidings-${new URL(guarded.console).port}`,
  );
  assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.path], [true, "Lax", "/"]);
  assert.ok(!(await person.page.evaluate(() => document.cookie)).includes(cookie.value));
  await person.click("button", "Sign out");
  await person.page.waitForURL("**/sign-in");
  assert.ok(!(await isIn(person)) && !(await isIn(other)));
  await person.leave();
  await other.leave();
});

test("the first token closes the console, and revoking one ends its sessions and live pages", async () => {
  const gateway = await Gateway.start();
  try {
    await gateway.subscribe(ACCOUNT, receiver.url(), {}, "crm");
    const admin = await Person.sit(browser, gateway);
    await admin.open(`/accounts/${ACCOUNT}/webhooks`);
    await admin.click("link", "Create the first token");
    await admin.fill("Name", "Olga, administrator");
    await admin.click("button", "Create token");
    await admin.sees("This token is shown only once.");
    gateway.token = await admin.text("#secret");
    assert.match(gateway.token, /^tdg_/);
    assert.ok(admin.actions <= 3, `${admin.actions} actions`);
    await admin.click("link", "sign in with it");
    await admin.fill("Access token", gateway.token);
    await admin.click("button", "Sign in");
    await admin.click("link", "Olga, administrator");
    const rights = await admin.text("main");
    for (const right of ["read", "manage", "admin"]) assert.match(rights, new RegExp(`✓ ${right}`));

    await admin.click("link", "Tokens");
    await admin.click("link", "Create token");
    await admin.fill("Name", "Reader");
    await admin.tick(/^read /);
    await admin.fill("Accounts", `${ACCOUNT}`);
    await admin.click("button", "Create token");
    const token = await admin.text("#secret");
    await admin.click("link", "To the tokens");
    assert.ok(!(await admin.page.content()).includes(token));

    // A reader sees nothing that would be refused.
    const reader = await signIn(gateway, token);
    for (const [path, ...absent] of [
      [`/accounts/${ACCOUNT}/webhooks`, "Add new webhook", "Audit", "Tokens"],
      [`/accounts/${ACCOUNT}/webhooks/crm`, "Edit", "Pause", "Rotate secret", "Delete", "Send a test"],
      [`/accounts/${ACCOUNT}/deliveries`, "Retry selected", "Replay…"],
      ["/me", "not manage"].slice(0, 1),
    ]) {
      const response = await reader.open(path);
      assert.equal(response.status(), 200, path);
      for (const name of absent) {
        const found = reader.page
          .getByRole("link", { name, exact: true })
          .or(reader.page.getByRole("button", { name, exact: true }));
        assert.equal(await found.count(), 0, `${name} on ${path}`);
      }
    }
    for (const path of [
      "/accounts/8/webhooks",
      "/tokens",
      `/accounts/${ACCOUNT}/audit`,
      `/accounts/${ACCOUNT}/webhooks/crm/edit`,
    ]) {
      const response = await reader.open(path);
      assert.ok([403, 404].includes(response.status()), `${path}: ${response.status()}`);
    }
    reader.complaints = [];

    const other = await thief(reader, gateway);
    await reader.open(`/accounts/${ACCOUNT}/deliveries`);
    await reader.page.locator("#live.on").waitFor();
    await admin.click("link", "Revoke Reader");
    await admin.sees("Revoke Reader");
    await admin.click("button", "Revoke token");
    await admin.sees("The token was revoked.");
    assert.ok(!(await isIn(other)));
    await reader.page.locator("#live:not(.on)").waitFor();
    assert.ok(!(await isIn(reader)));
    await reader.fill("Access token", token);
    await reader.click("button", "Sign in");
    await reader.page.getByRole("alert").waitFor();
    for (const person of [admin, other]) await person.leave();
    await reader.context.close();

    // Whoever looks later finds it in the audit.
    const auditor = await signIn(gateway, gateway.token);
    await auditor.open(`/accounts/${ACCOUNT}/audit?all=1`);
    const records = await auditor.text("main");
    for (const part of ["CreateAccessToken", "RevokeAccessToken", "via console"])
      assert.ok(records.includes(part), records);
    await auditor.leave();
  } finally {
    await gateway.end();
  }
});
