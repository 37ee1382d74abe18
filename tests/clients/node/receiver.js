"use strict";

// A receiver of webhooks that checks what it is sent.

const assert = require("node:assert/strict");
const { createPublicKey, verify } = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { Webhook } = require("standardwebhooks");

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

// Verifies with the library that receivers use, which throws where it does not hold. Returns the body's JSON.
function standard({ headers, body }, secret) {
  return new Webhook(secret).verify(body.toString(), headers);
}

// In front of the 32 bytes of a public key of Ed25519, to make it SubjectPublicKeyInfo (RFC 8410).
const SPKI_OF_ED25519 = Buffer.from("302a300506032b6570032100", "hex");

// Whether one of the v1a signatures was made with the private key that belongs to this public one.
function asymmetricHolds({ headers, body }, publicKey) {
  const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);
  const der = Buffer.concat([SPKI_OF_ED25519, Buffer.from(publicKey.replace(/^whpk_/, ""), "base64")]);
  const key = createPublicKey({ key: der, format: "der", type: "spki" });
  const asymmetric = headers["webhook-signature"].split(" ").filter((signature) => signature.startsWith("v1a,"));
  return asymmetric.some((signature) => verify(null, signed, key, Buffer.from(signature.slice(4), "base64")));
}

// The check of X-Chatwoot-Signature that docs/chatwoot.md tells people to make: its one block of JavaScript.
const document = fs.readFileSync(path.join(__dirname, "../../../docs/chatwoot.md"), "utf8");
const [, check] = document.match(/^```js\n(.*?)^```$/ms);
const genuine = new Function("require", `${check}\nreturn genuine;`)(require);

// Whether it holds.
function chatwootHolds({ headers, body }, secret) {
  return genuine(headers, body, secret);
}

module.exports = { AGE_MAX_MS, Receiver, asymmetricHolds, chatwootHolds, checkRefused, checkSigned, genuine, standard };
