"use strict";

// A receiver of webhooks that answers as a test says, and remembers what it was sent, byte for byte.

const http = require("node:http");
const { eventually } = require("./gateway");

class Receiver {
  // What arrived: method, path, headers (names and values by turns, as sent), body.
  arrivals = [];
  // The response, or a function that makes it of what arrived.
  response = { status: 200, headers: { "content-type": "application/json" }, body: '{"ok":true}' };
  #server = http.createServer((request, response) => this.#take(request, response));

  static async listen(port = 0) {
    const receiver = new Receiver();
    await new Promise((resolve) => receiver.#server.listen(port, "127.0.0.1", resolve));
    receiver.address = `127.0.0.1:${receiver.#server.address().port}`;
    return receiver;
  }

  url(path = "/hook") {
    return `http://${this.address}${path}`;
  }

  // Those that arrived at a path.
  at(path) {
    return this.arrivals.filter((arrival) => arrival.path === path);
  }

  // Waits for this many at a path.
  async received(path, count) {
    await eventually(`${count} arrivals at ${path}`, () => this.at(path).length >= count);
    return this.at(path);
  }

  #take(request, response) {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const { method, url: path, rawHeaders, headers } = request;
      const arrival = { method, path, rawHeaders, headers, body: Buffer.concat(chunks) };
      this.arrivals.push(arrival);
      const answer = typeof this.response === "function" ? this.response(arrival) : this.response;
      // Bytes that no library of servers would send are written to the socket itself.
      if (answer.raw) request.socket.end(answer.raw);
      else response.writeHead(answer.status, answer.headers ?? {}).end(answer.body ?? "");
    });
  }

  async close() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

module.exports = { Receiver };
