"use strict";

// A flow that Chatwoot's webhooks start, as it is built in Express: signed, each once, and of a form that it knows exactly.

const express = require("express");
const { z } = require("zod");
const { genuine } = require("../receiver");
const { webhook } = require("./schema");

const WAIT_MS = 30_000;

class Flow {
  secret = "";
  // The bodies that began it, and what was wrong with those that did not.
  taken = [];
  refused = [];
  // Deliveries by their id, and those that came again: whether their bytes did.
  bodies = new Map();
  again = [];
  // How many answers are to be lost, once the event is taken.
  lose = 0;
  #server;
  #look = () => {};

  async listen() {
    const app = express();
    // The signature is over the bytes, so they are not parsed before.
    const bytes = express.raw({ type: "application/json", limit: "1mb" });
    app.post("/webhook/chatwoot", bytes, (request, response) => {
      response.sendStatus(this.#take(request));
      this.#look();
    });
    await new Promise((resolve) => (this.#server = app.listen(0, "127.0.0.1", resolve)));
    this.url = `http://127.0.0.1:${this.#server.address().port}/webhook/chatwoot`;
    return this;
  }

  // Returns the status to answer with.
  #take({ headers, body }) {
    if (!genuine(headers, body, this.secret)) {
      this.refused.push("not genuine");
      return 401;
    }
    const delivery = headers["x-chatwoot-delivery"];
    const before = this.bodies.get(delivery);
    if (before) {
      this.again.push({ delivery, same: before.equals(body) });
      return 200;
    }
    const read = webhook.safeParse(JSON.parse(body));
    if (!read.success) {
      this.refused.push(z.prettifyError(read.error));
      return 422;
    }
    this.bodies.set(delivery, body);
    this.taken.push(read.data);
    if (this.lose === 0) return 200;
    this.lose -= 1;
    return 500;
  }

  // Waits until so many have been taken, refused and repeated in all; rejects if they do not come in time.
  async until(count) {
    const late = new Promise((_, reject) => {
      this.timeout = setTimeout(() => reject(new Error(`${this.#count()} of ${count} came: ${this.refused}`)), WAIT_MS);
    });
    const come = new Promise((resolve) => {
      this.#look = () => this.#count() >= count && resolve();
      this.#look();
    });
    await Promise.race([come, late]).finally(() => clearTimeout(this.timeout));
  }

  #count() {
    return this.taken.length + this.refused.length + this.again.length;
  }

  async close() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

module.exports = { Flow };
