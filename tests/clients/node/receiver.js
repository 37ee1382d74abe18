"use strict";

// A receiver of webhooks that checks what it is sent.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");

const ARRIVAL_TIMEOUT_MS = 30_000;
// How old a POST may be in the document's check, as it may be in the library's.
const AGE_MAX_MS = 300_000;

// Listens on a port of its own and answers 200 to every POST.
class Receiver {
  arrivals = [];
  #waiting = [];
  #server = http.createServer((request, response) => this.#take(request, response));

  async listen() {
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.address = `127.0.0.1:${this.#server.address().port}`;
    return this;
  }

  #take(request, response) {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const arrival = { headers: request.headers, body: Buffer.concat(chunks) };
      const waiting = this.#waiting.shift();
      if (waiting) waiting(arrival);
      else this.arrivals.push(arrival);
      response.end();
    });
  }

  // The next POST; rejects if none comes in time.
  next() {
    if (this.arrivals.length > 0) return Promise.resolve(this.arrivals.shift());
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("nothing arrived in time")), ARRIVAL_TIMEOUT_MS);
      this.#waiting.push((arrival) => {
        clearTimeout(late);
        resolve(arrival);
      });
    });
  }

  async close() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

// Fails unless both signatures are made with the secret. Returns the body's JSON.
function checkSigned(arrival, secret) {
  const { headers } = arrival;
  assert.equal(headers["x-chatwoot-delivery"], headers["webhook-id"]);
  assert.equal(headers["x-chatwoot-timestamp"], headers["webhook-timestamp"]);
  assert.ok(chatwootHolds(arrival, secret));
  return standard(arrival, secret);
}

// Fails unless both checks refuse what arrived.
function checkRefused(arrival, secret, why) {
  assert.throws(() => standard(arrival, secret), why);
  assert.ok(!chatwootHolds(arrival, secret));
}

// The functions that the documents tell people to use: each block of JavaScript in a document defines one.
function definitions(document, name) {
  const text = fs.readFileSync(path.join(__dirname, "../../../docs", document), "utf8");
  const blocks = [...text.matchAll(/^```js\n(.*?)^```$/gms)];
  return blocks.map(([, block]) => new Function("require", `${block}\nreturn ${name};`)(require));
}

const [verifyWithLibrary, verifyWithPublicKey] = definitions("receiving.md", "verify");
const [genuine] = definitions("chatwoot.md", "genuine");

// Verifies with the library that receivers use, which throws where it does not hold. Returns the body's JSON.
function standard({ headers, body }, secret) {
  return verifyWithLibrary(headers, body, secret);
}

// Whether one of the v1a signatures was made with the private key that belongs to this public one.
function asymmetricHolds({ headers, body }, publicKey) {
  return verifyWithPublicKey(headers, body, publicKey);
}

// Whether X-Chatwoot-Signature holds.
function chatwootHolds({ headers, body }, secret) {
  return genuine(headers, body, secret);
}

module.exports = { AGE_MAX_MS, Receiver, asymmetricHolds, chatwootHolds, checkRefused, checkSigned, genuine, standard };
