// Publishes an event to Tidings over TLS and watches its delivery, with Connect's client in Node.js.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { BadRequestSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { MessageType } from "./gen/tidings/v1/chatwoot_pb.js";
import { Delivery_State } from "./gen/tidings/v1/delivery_pb.js";
import { DeliveryService } from "./gen/tidings/v1/delivery_service_pb.js";
import { EventType, type EventSchema } from "./gen/tidings/v1/event_pb.js";
import { EventService, type PublishEventRequestSchema } from "./gen/tidings/v1/event_service_pb.js";
import { SubscriptionService } from "./gen/tidings/v1/subscription_service_pb.js";

const { TIDINGS_ADDRESS, TIDINGS_CA, TIDINGS_TOKEN, WEBHOOK_URL } = process.env as Record<string, string>;
const [parent, name] = ["accounts/1", "accounts/1/subscriptions/example-typescript"];
const token: Interceptor = (next) => (request) => { request.header.set("authorization", `Bearer ${TIDINGS_TOKEN}`); return next(request); };
const transport = createGrpcTransport({ baseUrl: `https://${TIDINGS_ADDRESS}`, interceptors: [token], defaultTimeoutMs: 30_000, nodeOptions: { ca: readFileSync(TIDINGS_CA) } });
const [events, subscriptions, deliveries] = [createClient(EventService, transport), createClient(SubscriptionService, transport), createClient(DeliveryService, transport)];

// Publishes. Repeats the call, which its eventId makes safe, when the server says how long to wait.
async function publish(request: MessageInitShape<typeof PublishEventRequestSchema>, attempts = 5) {
  for (let attempt = 1; ; attempt++) {
    try { return (await events.publishEvent(request)).result!; } catch (error) {
      const delay = ConnectError.from(error).findDetails(RetryInfoSchema)[0]?.retryDelay;
      if (!delay || attempt === attempts) throw error;
      await sleep(Number(delay.seconds) * 1000 + delay.nanos / 1e6);
    }
  }
}
const message = (id: bigint): MessageInitShape<typeof EventSchema> => ({ payload: { case: "messageCreated", value: { message: {
  id, content: "Hello", messageType: MessageType.INCOMING, createdAt: timestampNow(), account: { id: 1n },
  sender: { kind: { case: "contact", value: { id: 7n, name: "Ann" } } }, conversation: { id: 3n, inboxId: 1n, accountId: 1n, status: "open" } } } } });

await subscriptions.createSubscription({ parent, subscriptionId: "example-typescript", subscription: { url: WEBHOOK_URL, eventTypes: [EventType.MESSAGE_CREATED] } })
  .catch((error) => { if (ConnectError.from(error).code !== Code.AlreadyExists) throw error; });
const request = { parent, eventId: `typescript-${randomUUID()}`, event: message(42n) };
let begun = () => {};
const headers = new Promise<void>((resolve) => (begun = resolve));
const delivered = (async () => {
  for await (const { delivery } of deliveries.watchDeliveries({ parent: name }, { onHeader: () => begun() }))
    if (delivery!.name.endsWith(`/${request.eventId}`) && delivery!.state === Delivery_State.SUCCEEDED) return;
})();
await Promise.race([headers, delivered]); // From now on no change is missed. A watch that fails ends the wait, too.
console.log("watch begun");
for (let i = 0; i < 2; i++) console.log("published, duplicate:", (await publish(request)).duplicate);
await publish({ parent, event: message(0n) }).catch((error) =>
  ConnectError.from(error).findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations).forEach((violation) => console.log("refused:", violation.field, violation.description)));
await delivered;
console.log("delivered");
process.exit(); // Connect keeps its HTTP/2 connection open for a while.
