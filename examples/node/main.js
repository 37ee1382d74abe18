// Publishes an event to Tidings over TLS and watches its delivery. The stubs are made at run time out of proto/.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import googleProtos from "google-proto-files";

const protos = ["tidings/v1/event_service", "tidings/v1/subscription_service", "tidings/v1/delivery_service", "google/rpc/error_details", "google/rpc/status"];
const includeDirs = [fileURLToPath(new URL("../../proto", import.meta.url)), googleProtos.getProtoPath("..")];
const definition = loader.loadSync(protos.map((name) => `${name}.proto`), { includeDirs, keepCase: false, longs: String, enums: String, defaults: true, oneofs: true });
const { tidings: { v1 } } = grpc.loadPackageDefinition(definition);
const [parent, name, DEADLINE_MS] = ["accounts/1", "accounts/1/subscriptions/example-node", 30_000];

const token = grpc.credentials.createFromMetadataGenerator((_, done) => {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${process.env.TIDINGS_TOKEN}`);
  done(null, metadata);
});
const credentials = grpc.credentials.combineChannelCredentials(grpc.credentials.createSsl(readFileSync(process.env.TIDINGS_CA)), token);
const [events, subscriptions, deliveries] = ["EventService", "SubscriptionService", "DeliveryService"].map((service) => new v1[service](process.env.TIDINGS_ADDRESS, credentials));
const options = () => ({ deadline: Date.now() + DEADLINE_MS });
const call = (client, method, request) =>
  new Promise((resolve, reject) => client[method](request, options(), (error, response) => (error ? reject(error) : resolve(response))));

// The detail of this type in an error; undefined without one.
function detail(error, type) {
  const packed = error.metadata?.get("grpc-status-details-bin")[0];
  const details = packed ? definition["google.rpc.Status"].deserialize(packed).details : [];
  const found = details.find((any) => (any.typeUrl ?? any.type_url).endsWith(`/${type}`));
  return found && definition[type].deserialize(found.value);
}
// Publishes. Repeats the call, which its event_id makes safe, when the server says how long to wait.
async function publish(request, attempts = 5) {
  for (let attempt = 1; ; attempt++) {
    try { return (await call(events, "publishEvent", request)).result; } catch (error) {
      const delay = detail(error, "google.rpc.RetryInfo")?.retryDelay;
      if (!delay || attempt === attempts) throw error;
      await sleep(Number(delay.seconds) * 1000 + delay.nanos / 1e6);
    }
  }
}
const message = (id) => ({ messageCreated: { message: { id, content: "Hello", messageType: "MESSAGE_TYPE_INCOMING", createdAt: { seconds: Math.floor(Date.now() / 1000) }, account: { id: 1 }, sender: { contact: { id: 7, name: "Ann" } }, conversation: { id: 3, inboxId: 1, accountId: 1, status: "open" } } } });

const subscription = { url: process.env.WEBHOOK_URL, eventTypes: ["EVENT_TYPE_MESSAGE_CREATED"] };
await call(subscriptions, "createSubscription", { parent, subscriptionId: "example-node", subscription }).catch((error) => { if (error.code !== grpc.status.ALREADY_EXISTS) throw error; });
const watch = deliveries.watchDeliveries({ parent: name }, options());
await new Promise((resolve, reject) => watch.once("metadata", resolve).once("error", reject)); // From now on no change is missed.
console.log("watch begun");
const request = { parent, eventId: `node-${randomUUID()}`, event: message(42) };
for (let i = 0; i < 2; i++) console.log("published, duplicate:", (await publish(request)).duplicate);
await publish({ parent, event: message(0) }).catch((error) => detail(error, "google.rpc.BadRequest").fieldViolations.forEach((violation) => console.log("refused:", violation.field, violation.description)));
for await (const { delivery } of watch) if (delivery.name.endsWith(`/${request.eventId}`) && delivery.state === "STATE_SUCCEEDED") break;
watch.cancel(); // Else the process lives until the call's deadline.
console.log("delivered");
