"use strict";

// The real binary, and calls to it as publishers and operators make them.

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { createInterface } = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");
const { call, grpc, tidings } = require("../clients/node/client");

// How long a test waits for anything, on a machine that is slow and loaded.
const PATIENCE_MS = 60_000;
const LOOK_INTERVAL_MS = 50;

// Looks until there is something. Fails if there is nothing in time.
async function eventually(what, look) {
  const late = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > late) throw new Error(`in vain: ${what}`);
    await sleep(LOOK_INTERVAL_MS);
  }
}

// A gateway with a console, on ports and with data of its own.
class Gateway {
  log = [];

  static async start(settings = {}) {
    const gateway = new Gateway();
    gateway.directory = fs.mkdtempSync(path.join(os.tmpdir(), "tidings-browser-"));
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("TIDINGS_"));
    const environment = {
      ...Object.fromEntries(inherited),
      TIDINGS_GRPC_LISTEN: "127.0.0.1:0",
      TIDINGS_HTTP_LISTEN: "127.0.0.1:0",
      TIDINGS_CONSOLE_LISTEN: "127.0.0.1:0",
      TIDINGS_LOG_FORMAT: "json",
      TIDINGS_DATA_DIR: gateway.directory,
      TIDINGS_EGRESS_ALLOW: "127.0.0.0/8",
      ...settings,
    };
    await gateway.#run(environment);
    return gateway;
  }

  async #run(environment) {
    this.environment = environment;
    this.process = spawn(process.env.GATEWAY_BINARY, ["serve"], {
      stdio: ["ignore", "ignore", "pipe"],
      env: environment,
    });
    this.ended = new Promise((resolve) => this.process.once("close", resolve));
    const lines = createInterface({ input: this.process.stderr });
    const listening = new Promise((resolve) =>
      lines.on("line", (line) => {
        this.log.push(line);
        if (line.startsWith("{") && JSON.parse(line)["grpc.listen"]) resolve(JSON.parse(line));
      }),
    );
    const started = await Promise.race([listening, this.ended, sleep(PATIENCE_MS, null, { ref: false })]);
    if (!started?.console) throw new Error(`the gateway did not start:\n${this.log.join("\n")}`);
    this.grpc = started["grpc.listen"];
    this.ops = started["http.listen"];
    this.console = started.console.replace(/\/$/, "");
  }

  // Ends it as a service manager would, and starts it at the same addresses.
  async restart() {
    await this.#stop();
    const addresses = { TIDINGS_GRPC_LISTEN: this.grpc, TIDINGS_CONSOLE_LISTEN: new URL(this.console).host };
    await this.#run({ ...this.environment, ...addresses });
  }

  async #stop() {
    this.process.kill("SIGTERM");
    const code = await this.ended;
    if (code !== 0) throw new Error(`the gateway ended with ${code}:\n${this.log.join("\n")}`);
  }

  // Calls a method of the contract, with the token if callers need one.
  async call(service, method, request, token = this.token) {
    const client = new tidings.v1[service](this.grpc, grpc.credentials.createInsecure());
    const metadata = new grpc.Metadata();
    if (token) metadata.set("authorization", `Bearer ${token}`);
    try {
      return await call(client, method, request, metadata);
    } finally {
      client.close();
    }
  }

  // Subscribes a URL. Returns the subscription with its id and its secret.
  async subscribe(account, url, fields = {}, id = "") {
    const { subscription, signingSecret } = await this.call("SubscriptionService", "createSubscription", {
      parent: `accounts/${account}`,
      subscriptionId: id,
      subscription: { url, eventTypes: ["EVENT_TYPE_MESSAGE_CREATED"], ...fields },
    });
    return { ...subscription, id: subscription.name.split("/").pop(), secret: signingSecret };
  }

  // Asks for tokens from now on, as an administrator with this one. Publishes with another.
  async secure(token) {
    this.token = token;
    const accessToken = { displayName: "Publisher", scopes: ["SCOPE_PUBLISH"] };
    this.publisher = (await this.call("AccessTokenService", "createAccessToken", { accessToken })).token;
  }

  // Publishes an event under an id. Returns how many deliveries it has.
  async publish(account, event, eventId = "") {
    const request = { parent: `accounts/${account}`, eventId, event };
    return (await this.call("EventService", "publishEvent", request, this.publisher)).result.deliveryCount;
  }

  // The states of a subscription's deliveries by the id of their event.
  async states(account, id) {
    const parent = `accounts/${account}/subscriptions/${id}`;
    const { deliveries } = await this.call("DeliveryService", "listDeliveries", { parent, pageSize: 500 });
    return Object.fromEntries(
      deliveries.map(({ name, state }) => [name.split("/").pop(), state.replace("STATE_", "")]),
    );
  }

  // Waits until each of these events has this state.
  async settled(account, id, events, state) {
    await eventually(`${events} of ${id} ${state}`, async () => {
      const states = await this.states(account, id);
      return events.every((event) => states[event] === state);
    });
  }

  // Ends it. Fails if it does not end well.
  async end() {
    await this.#stop();
    fs.rmSync(this.directory, { recursive: true, force: true });
  }
}

module.exports = { Gateway, PATIENCE_MS, eventually };
