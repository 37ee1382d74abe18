"use strict";

// Tidings by the stubs that @grpc/proto-loader makes of proto/.

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const CALL_TIMEOUT_MS = 30_000;

const { tidings } = grpc.loadPackageDefinition(
  protoLoader.loadSync(
    ["subscription_service", "event_service", "delivery_service", "access_token_service"].map((name) => `tidings/v1/${name}.proto`),
    { includeDirs: [path.join(__dirname, "../../../proto")], longs: String, enums: String, defaults: true, oneofs: true },
  ),
);

// Calls a method that gives one answer.
function call(client, method, request, metadata = new grpc.Metadata()) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + CALL_TIMEOUT_MS;
    client[method](request, metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

module.exports = { CALL_TIMEOUT_MS, call, grpc, tidings };
