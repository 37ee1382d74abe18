"use strict";

// Opens the page of examples/browser in Chromium, and prints what it shows when it is over.
// It needs the packages of tests/browser.

const { chromium } = require("../browser/node_modules/playwright-core");

const TIMEOUT_MS = 60_000;

async function main() {
  const { PAGE, TIDINGS_ADDRESS, TIDINGS_TOKEN, WEBHOOK_URL } = process.env;
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  try {
    // The certificate is of no authority that Chromium knows.
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const page = await context.newPage();
    const given = new URLSearchParams({ address: TIDINGS_ADDRESS, token: TIDINGS_TOKEN, webhook: WEBHOOK_URL });
    await page.goto(`${PAGE}/index.html#${given}`);
    await page.waitForFunction(() => /delivered|Error/.test(document.querySelector("pre").textContent), null, { timeout: TIMEOUT_MS });
    process.stdout.write(await page.textContent("pre"));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
