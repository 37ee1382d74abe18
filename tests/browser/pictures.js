"use strict";

// Takes the pictures of docs/images: an account after an hour of work, whose receivers have names and certificates.
//
//     tests/browser/run --pictures BINARY
//
// It needs libfaketime (the hour passes in seconds), pngquant (small files) and openssl.

const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const os = require("node:os");
const path = require("node:path");
const { setTimeout: sleep } = require("node:timers/promises");
const { Person, launch } = require("./browser");
const { contactUpdated, conversationCreated, message, statusChanged } = require("./events");
const { Gateway, eventually } = require("./gateway");

const IMAGES = path.join(__dirname, "../../docs/images");
const FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
const MINUTES = 60;
// What a minute lasts.
const MINUTE_MS = 500;
const ACCOUNT = 1;
const ADMIN_TOKEN = "0123456789abcdef0123456789abcdef";
const EVENTS = {
  message: "MESSAGE_CREATED",
  conversation: "CONVERSATION_CREATED",
  status: "CONVERSATION_STATUS_CHANGED",
  contact: "CONTACT_UPDATED",
};
const types = (...names) => names.map((name) => `EVENT_TYPE_${EVENTS[name]}`);

// The webhooks, by the name of their host: each with how it responds to the request with this number.
const WEBHOOKS = [
  {
    id: "crm",
    name: "CRM",
    url: "https://crm.example.com/hooks/chatwoot",
    types: types("message", "conversation", "status", "contact"),
  },
  {
    id: "triage",
    name: "Ticket triage",
    url: "https://n8n.example.net/webhook/9f1c0a52-0a1b-4a61-8d52",
    types: types("message"),
    status: (number) => (number % 13 === 5 ? 502 : 200),
  },
  {
    id: "answers",
    name: "Answering bot",
    url: "https://bot.example.org/chatwoot",
    types: types("message", "conversation"),
    status: (_, minute) => (minute > 38 ? 503 : 200),
  },
  { id: "old", name: "", url: "https://old.example.com/in", types: types("status"), status: () => 410 },
  {
    id: "warehouse",
    name: "Data warehouse",
    url: "https://warehouse.example.com/ingest",
    types: types("conversation", "status", "contact"),
    pauseAt: 47,
  },
];
const BODIES = {
  200: '{"ok":true}',
  410: '{"error":"gone"}',
  502: "Bad Gateway",
  503: '{"error":"no worker is free","queue":1820}',
};

let minute = 0;

function certificates(directory) {
  const run = (...command) =>
    execFileSync("faketime", ["2 days ago", "openssl", ...command], { cwd: directory, stdio: "ignore" });
  fs.writeFileSync(
    path.join(directory, "names"),
    `subjectAltName=${WEBHOOKS.map(({ url }) => `DNS:${new URL(url).hostname}`)}`,
  );
  run(
    "req",
    "-x509",
    "-newkey",
    "rsa:2048",
    "-nodes",
    "-keyout",
    "ca.key",
    "-out",
    "ca.pem",
    "-subj",
    "/CN=Example authority",
    "-days",
    "30",
  );
  run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "csr.pem", "-subj", "/CN=example.com");
  run(
    "x509",
    "-req",
    "-in",
    "csr.pem",
    "-CA",
    "ca.pem",
    "-CAkey",
    "ca.key",
    "-CAcreateserial",
    "-out",
    "cert.pem",
    "-days",
    "30",
    "-extfile",
    "names",
  );
  return {
    key: fs.readFileSync(path.join(directory, "key.pem")),
    cert: fs.readFileSync(path.join(directory, "cert.pem")),
  };
}

// The receivers of all hosts, and the proxy through which the gateway reaches them.
async function receivers(directory) {
  const counts = {};
  const server = https.createServer(certificates(directory), (request, response) => {
    const webhook = WEBHOOKS.find(({ url }) => new URL(url).host === request.headers.host);
    counts[webhook.id] = (counts[webhook.id] ?? 0) + 1;
    const status = webhook.status?.(counts[webhook.id], minute) ?? 200;
    request.resume().on("end", () => {
      const headers = {
        "content-type": BODIES[status].startsWith("{") ? "application/json" : "text/plain",
        server: "nginx/1.26.3",
      };
      setTimeout(() => response.writeHead(status, headers).end(BODIES[status]), 5 + ((counts[webhook.id] * 7) % 40));
    });
  });
  const proxy = http.createServer().on("connect", (_, socket) => {
    socket.write("HTTP/1.1 200 OK\r\n\r\n");
    server.emit("connection", socket);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return { proxy, close: () => (server.closeAllConnections(), proxy.close()) };
}

// An hour of an account's life. `pass` lets a minute pass.
async function live(gateway, pass) {
  for (const { id, name, url, types } of WEBHOOKS) {
    const retryPolicy =
      id === "answers" ? { maxAttempts: 3, minBackoff: { seconds: 300 }, maxBackoff: { seconds: 600 } } : undefined;
    await gateway.subscribe(
      ACCOUNT,
      url,
      { displayName: name, eventTypes: types, retryPolicy, ordered: id === "crm" },
      id,
    );
  }
  let number = 0;
  for (minute = 0; minute < MINUTES; minute++) {
    pass(MINUTES - minute);
    for (const { id } of WEBHOOKS.filter(({ pauseAt }) => pauseAt === minute))
      await gateway.call("SubscriptionService", "pauseSubscription", {
        name: `accounts/${ACCOUNT}/subscriptions/${id}`,
      });
    const count = Math.round(9 + 6 * Math.sin(minute / 7) + ((minute * 7) % 5));
    const published = [];
    for (let index = 0; index < count; index++, number++) {
      const make =
        number % 4 === 1
          ? conversationCreated
          : number % 9 === 3
            ? statusChanged
            : number % 11 === 7
              ? contactUpdated
              : message;
      published.push(
        gateway.publish(ACCOUNT, make(ACCOUNT, number), `${make === message ? "message" : "change"}-${48211 + number}`),
      );
    }
    await Promise.all(published);
    // Nothing is under way when the clock is set, or it would time out. What failed is sent again in a later minute.
    await sleep(MINUTE_MS);
    await eventually("no attempt is under way", async () =>
      /^tidings_attempts_in_flight 0$/m.test(await (await fetch(`http://${gateway.ops}/metrics`)).text()),
    );
  }
  pass(0);
  return `message-${48211 + number - 1}`;
}

async function main() {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "tidings-pictures-"));
  const clock = path.join(directory, "clock");
  const pass = (minutes) => fs.writeFileSync(clock, `-${minutes * 60}\n`);
  pass(MINUTES);
  const { proxy, close } = await receivers(directory);
  const gateway = await Gateway.start({
    TIDINGS_EGRESS_PROXY: `http://127.0.0.1:${proxy.address().port}`,
    TIDINGS_EGRESS_CA_FILE: path.join(directory, "ca.pem"),
    TIDINGS_ADMIN_TOKEN: ADMIN_TOKEN,
    LD_PRELOAD: FAKETIME,
    FAKETIME_TIMESTAMP_FILE: clock,
    FAKETIME_NO_CACHE: "1",
  });
  const browser = await launch();
  try {
    await gateway.secure(ADMIN_TOKEN);
    await live(gateway, pass);
    fs.mkdirSync(IMAGES, { recursive: true });
    const account = `/accounts/${ACCOUNT}`;
    const wide = { viewport: { width: 1280, height: 800 }, colorScheme: "light" };
    const narrow = { viewport: { width: 390, height: 844 }, colorScheme: "dark" };
    const take = async (name, options, address, prepare = async () => {}) => {
      const person = await Person.sit(browser, gateway, options);
      await person.enter(ADMIN_TOKEN);
      await person.open(`${account}/webhooks`);
      await person.open(address);
      await prepare(person);
      await person.page.evaluate(
        () => (document.activeElement.blur(), document.getAnimations().forEach((animation) => animation.finish())),
      );
      const file = path.join(IMAGES, `${name}.png`);
      await person.page.screenshot({ path: file });
      execFileSync("pngquant", ["--force", "--strip", "--speed", "1", "--ext", ".png", "64", file]);
      console.log(`${name}.png: ${fs.statSync(file).size} bytes`);
      await person.context.close();
    };
    const failed = (
      await gateway.call("DeliveryService", "listDeliveries", {
        parent: `accounts/${ACCOUNT}/subscriptions/answers`,
        states: ["STATE_RETRYING"],
        pageSize: 1,
      })
    ).deliveries[0].name
      .split("/")
      .pop();
    await take("webhooks", wide, `${account}/webhooks`);
    await take("add-webhook", wide, `${account}/webhooks`, async (person) => {
      await person.click("link", "Add new webhook");
      await person.fill("Webhook URL", "https://example.com/webhook");
      await person.tick("Message created");
      await person.tick("Conversation status changed");
    });
    await take("webhook", wide, `${account}/webhooks/answers`);
    await take("test", wide, `${account}/webhooks/crm/test`, async (person) => {
      await person.click("button", "Send a test");
      await person.sees("accepted");
    });
    await take("deliveries", { ...wide, colorScheme: "dark" }, `${account}/deliveries`, (person) =>
      person.page.locator("#live.on").waitFor(),
    );
    await take("delivery", wide, `${account}/deliveries/answers/${failed}`);
    await take("status", { ...wide, colorScheme: "dark" }, "/status");
    await take("webhooks-phone", narrow, `${account}/webhooks`);
  } finally {
    await browser.close();
    await gateway.end();
    close();
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

main();
