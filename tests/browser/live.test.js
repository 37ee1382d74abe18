"use strict";

// Pages that change while somebody looks.

const assert = require("node:assert/strict");
const { after, before, test } = require("node:test");
const { LATER } = require("./account");
const { Person, launch } = require("./browser");
const { message } = require("./events");
const { Gateway, eventually } = require("./gateway");
const { Receiver } = require("./receiver");

const TABS = 8;

let browser, gateway, receiver;
let accounts = 300;

before(async () => {
  [browser, gateway, receiver] = await Promise.all([launch(), Gateway.start(), Receiver.listen()]);
});

after(async () => {
  await browser?.close();
  await receiver?.close();
  await gateway?.end();
});

// Somebody who looks at the live deliveries of an account that has some.
async function watching(count) {
  const account = ++accounts;
  await gateway.subscribe(account, receiver.url("/hook"), { retryPolicy: LATER }, "crm");
  for (let number = 0; number < count; number++)
    await gateway.publish(account, message(account, number), `before-${number}`);
  const person = await Person.sit(browser, gateway);
  await person.open(`/accounts/${account}/deliveries`);
  await person.page.locator("#live.on").waitFor();
  return { account, person, row: (id) => person.page.getByRole("link", { name: id, exact: true }) };
}

test("new rows appear by themselves, and change where they are", async () => {
  const { account, person, row } = await watching(2);
  // The pointer is elsewhere, and so is the focus.
  await person.page.mouse.move(5, 5);
  await person.page.evaluate(() => document.activeElement.blur());
  receiver.response = { status: 500 };
  await gateway.publish(account, message(account, 3), "after");
  await row("after").waitFor();
  const line = person.page.locator("#rows tr", { has: row("after") });
  await person.sees("retrying", line);
  await person.sees("500", line);
  receiver.response = { status: 200 };
  await gateway.call("DeliveryService", "retryDelivery", {
    name: `accounts/${account}/subscriptions/crm/deliveries/after`,
  });
  await person.sees("succeeded", line);
  assert.equal(await person.page.locator("#rows tbody tr").count(), 3);
  await person.leave();
});

test("nothing moves under the pointer", async () => {
  const { account, person, row } = await watching(5);
  await row("before-2").hover();
  const boxes = () =>
    person.page
      .locator("main a, main button:visible, main select, main tr")
      .evaluateAll((elements) =>
        elements.map((element) =>
          [element.textContent.slice(0, 20), ...Object.values(element.getBoundingClientRect().toJSON())].join(),
        ),
      );
  const before = await row("before-2").boundingBox();
  const all = (await boxes()).length;
  for (const number of [6, 7, 8]) await gateway.publish(account, message(account, number), `after-${number}`);
  const button = person.page.getByRole("button", { name: "Show 3 new deliveries", exact: true });
  await button.waitFor();
  assert.deepEqual(await row("before-2").boundingBox(), before);
  assert.equal(await row("after-8").count(), 0);
  assert.ok((await boxes()).length - all <= 1, "only the button is new");
  await button.click();
  await row("after-8").waitFor();
  const first = await person.page.locator("#rows tbody tr").first().innerText();
  assert.match(first, /after-8/);
  await person.leave();
});

test("eight tabs load, and all of them stay live", async () => {
  const { account, person } = await watching(1);
  const tabs = [person.page];
  while (tabs.length < TABS) {
    const tab = await person.tab();
    await tab.goto(`/accounts/${account}/deliveries`);
    tabs.push(tab);
  }
  for (const tab of tabs) await tab.locator("#live.on").waitFor();
  const states = await Promise.all(tabs.map((tab) => tab.locator("#live-state").textContent()));
  assert.equal(states.filter((state) => state === "Live").length, 3, `${states}`);
  for (const tab of tabs) await tab.evaluate(() => document.activeElement.blur());
  await gateway.publish(account, message(account, 2), "for-all");
  for (const tab of tabs) await tab.getByRole("link", { name: "for-all", exact: true }).waitFor();
  // A tab that closes gives its stream to another.
  await tabs.shift().close();
  person.page = tabs[0];
  await eventually("three streams again", async () => {
    const states = await Promise.all(tabs.map((tab) => tab.locator("#live-state").textContent()));
    return states.filter((state) => state === "Live").length === 3;
  });
  await person.leave();
});

test("a page that was open before the gateway restarted is live again", async () => {
  const { account, person, row } = await watching(1);
  await gateway.restart();
  await gateway.publish(account, message(account, 2), "afterwards");
  await person.page.evaluate(() => document.activeElement.blur());
  await row("afterwards").waitFor();
  // The browser says that the connection ended.
  person.complaints = person.complaints.filter((complaint) => !/ERR_|Failed to (fetch|load)/.test(complaint));
  await person.leave();
});
