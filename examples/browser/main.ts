// Publishes an event to Tidings from a web page and watches its delivery, with Connect's client for browsers.
// ../README.md says how to build it; cors_allow_origins of the gateway must name the page's origin.
import { type MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { BadRequestSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { MessageType } from "./gen/tidings/v1/chatwoot_pb.js";
import { Delivery_State } from "./gen/tidings/v1/delivery_pb.js";
import { DeliveryService } from "./gen/tidings/v1/delivery_service_pb.js";
import { EventType, type EventSchema } from "./gen/tidings/v1/event_pb.js";
import { EventService, type PublishEventRequestSchema } from "./gen/tidings/v1/event_service_pb.js";
import { SubscriptionService } from "./gen/tidings/v1/subscription_service_pb.js";

// A page gets its token from its own server, as short-lived and as narrow as it can be; here they come with the address.
const given = new URLSearchParams(location.hash.slice(1));
const [parent, name] = ["accounts/1", "accounts/1/subscriptions/example-browser"];
const token: Interceptor = (next) => (request) => { request.header.set("authorization", `Bearer ${given.get("token")}`); return next(request); };
const transport = createConnectTransport({ baseUrl: `https://${given.get("address")}`, interceptors: [token], defaultTimeoutMs: 30_000 });
const [events, subscriptions, deliveries] = [createClient(EventService, transport), createClient(SubscriptionService, transport), createClient(DeliveryService, transport)];
const say = (...words: unknown[]) => document.querySelector("pre")!.append(words.join(" ") + "\n");

// Publishes. Repeats the call, which its eventId makes safe, when the server says how long to wait.
async function publish(request: MessageInitShape<typeof PublishEventRequestSchema>, attempts = 5) {
  for (let attempt = 1; ; attempt++) {
    try { return (await events.publishEvent(request)).result!; } catch (error) {
      const delay = ConnectError.from(error).findDetails(RetryInfoSchema)[0]?.retryDelay;
      if (!delay || attempt === attempts) throw error;
      await new Promise((resolve) => setTimeout(resolve, Number(delay.seconds) * 1000 + delay.nanos / 1e6));
    }
  }
}
const message = (id: bigint): MessageInitShape<typeof EventSchema> => ({ payload: { case: "messageCreated", value: { message: {
  id, content: "Hello", messageType: MessageType.INCOMING, createdAt: timestampNow(), account: { id: 1n },
  sender: { kind: { case: "contact", value: { id: 7n, name: "Ann" } } }, conversation: { id: 3n, inboxId: 1n, accountId: 1n, status: "open" } } } } });

async function main() {
  await subscriptions.createSubscription({ parent, subscriptionId: "example-browser", subscription: { url: given.get("webhook")!, eventTypes: [EventType.MESSAGE_CREATED] } })
    .catch((error) => { if (ConnectError.from(error).code !== Code.AlreadyExists) throw error; });
  const request = { parent, eventId: `browser-${crypto.randomUUID()}`, event: message(42n) };
  let begun = () => {};
  const headers = new Promise<void>((resolve) => (begun = resolve));
  const delivered = (async () => {
    for await (const { delivery } of deliveries.watchDeliveries({ parent: name }, { onHeader: () => begun() }))
      if (delivery!.name.endsWith(`/${request.eventId}`) && delivery!.state === Delivery_State.SUCCEEDED) return;
  })();
  await Promise.race([headers, delivered]); // From now on no change is missed. A watch that fails ends the wait, too.
  say("watch begun");
  for (let i = 0; i < 2; i++) say("published, duplicate:", (await publish(request)).duplicate);
  await publish({ parent, event: message(0n) }).catch((error) =>
    ConnectError.from(error).findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations).forEach((violation) => say("refused:", violation.field, violation.description)));
  await delivered;
  say("delivered");
}
main().catch((error) => say(error));
