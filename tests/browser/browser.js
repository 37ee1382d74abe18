"use strict";

// Chromium, people who sit before it, and a look at every page that notices what is wrong with it.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const { chromium } = require("playwright-core");
const { PATIENCE_MS } = require("./gateway");

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const AXE = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"];
const SCREENS = [
  { width: 1280, height: 800 },
  { width: 390, height: 844 },
];
const SCHEMES = ["light", "dark"];

async function launch(...flags) {
  return chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, ...flags] });
}

// Somebody with a browser of their own: cookies, a window, and a count of what they did.
class Person {
  actions = 0;
  // What the browser complained about: errors of scripts, refusals of the policy, requests that failed.
  complaints = [];
  faults = [];

  // Without scripts the file of scripts is empty: axe itself needs a browser that runs scripts.
  static async sit(browser, gateway, { scripts = true, ...options } = {}) {
    const person = new Person();
    person.scripts = scripts;
    person.context = await browser.newContext({
      baseURL: gateway.console,
      viewport: SCREENS[0],
      timezoneId: "UTC",
      locale: "en-GB",
      permissions: ["clipboard-read", "clipboard-write"],
      ...options,
    });
    person.context.setDefaultTimeout(PATIENCE_MS);
    if (!scripts)
      await person.context.route("**/assets/console.js", (route) =>
        route.fulfill({ contentType: "text/javascript", body: "" }),
      );
    person.page = await person.tab();
    return person;
  }

  async tab() {
    const page = await this.context.newPage();
    page.on("pageerror", (error) => this.complaints.push(`${page.url()}: ${error}`));
    page.on(
      "dialog",
      (dialog) => (this.complaints.push(`${page.url()}: a dialog: ${dialog.message()}`), dialog.dismiss()),
    );
    page.on("console", (message) => {
      if (!["error", "warning"].includes(message.type())) return;
      // Chromium says so of every page that is not a 2xx; the tests know which ones are not.
      const { url } = message.location();
      if (message.text().startsWith("Failed to load resource") && url.split("#")[0] === page.url().split("#")[0])
        return;
      this.complaints.push(`${page.url()}: ${message.text()}`);
    });
    return page;
  }

  async open(path) {
    return this.page.goto(path);
  }

  // Signs in.
  async enter(token) {
    await this.open("/sign-in");
    await this.fill("Access token", token);
    await this.click("button", "Sign in");
    await this.page.getByRole("button", { name: "Sign out" }).first().waitFor();
  }

  // One action each: what a person does with a hand.
  async click(role, name, options = {}) {
    this.actions += 1;
    await this.page.getByRole(role, { name, exact: true, ...options }).click();
  }

  async fill(label, text) {
    this.actions += 1;
    await this.page.getByLabel(label).fill(text);
  }

  async tick(name) {
    this.actions += 1;
    await this.page.getByRole("checkbox", { name }).check();
  }

  async choose(label, option) {
    this.actions += 1;
    await this.page.getByLabel(label, { exact: true }).selectOption(option);
  }

  // Waits for a text that the page shows.
  async sees(text, within = this.page.locator("body")) {
    await within.getByText(text).first().waitFor();
  }

  // Everything that the page shows, as one text.
  async text(selector = "body") {
    return this.page.locator(selector).innerText();
  }

  // Looks at the page that is open in each size and scheme. What is wrong with it is kept until `findsNothing`.
  async inspect(name = this.page.url(), { axe = true } = {}) {
    const { page } = this;
    const found = new Map();
    const note = (fault, where) => found.set(fault, [...(found.get(fault) ?? []), where]);
    if (axe) await page.evaluate(AXE);
    for (const screen of SCREENS) {
      await page.setViewportSize(screen);
      const wide = await page.evaluate(tooWide);
      if (wide) note(`too wide: ${wide}`, `${screen.width} px`);
      for (const colorScheme of axe ? SCHEMES : []) {
        await page.emulateMedia({ colorScheme });
        const violations = await page.evaluate(violationsOf, RULES);
        for (const violation of violations) note(violation, `${screen.width} px ${colorScheme}`);
      }
    }
    await page.setViewportSize(SCREENS[0]);
    await page.emulateMedia({ colorScheme: null });
    for (const complaint of this.complaints.splice(0)) note(complaint, "any");
    for (const [fault, where] of found) this.faults.push(`${name} (${where.join(", ")}): ${fault}`);
  }

  // Fails if anything was wrong with the pages that were inspected.
  findsNothing() {
    const faults = this.faults.splice(0);
    assert.ok(faults.length === 0, `${this.scripts ? "with" : "without"} scripts:\n${faults.join("\n")}`);
  }

  // Fails if the browser complained.
  async leave() {
    await this.context.close();
    assert.deepEqual([...this.faults, ...this.complaints], []);
  }
}

// Runs in the page: the elements that stick out of a page that can be scrolled sideways.
function tooWide() {
  const { clientWidth, scrollWidth } = document.documentElement;
  if (scrollWidth <= clientWidth) return "";
  const out = [...document.querySelectorAll("body *")].filter(
    (element) => element.getBoundingClientRect().right > clientWidth,
  );
  return `${scrollWidth} px, by ${out
    .map((element) => element.outerHTML.slice(0, 120))
    .slice(-2)
    .join("\n  and ")}`;
}

// Runs in the page: what axe finds, once nothing fades in any more.
async function violationsOf(values) {
  for (const animation of document.getAnimations()) animation.finish();
  const { violations } = await axe.run(document, { runOnly: { type: "tag", values }, resultTypes: ["violations"] });
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)}: ${failureSummary}`),
  );
}

module.exports = { Person, SCREENS, launch };
