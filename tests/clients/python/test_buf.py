"""Tidings as buf sees it, which knows nothing of the contract but what reflection tells."""

import base64
import json
import os
import subprocess
import time
import unittest

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from receiver import Receiver, check_signed

CALL_TIMEOUT_S = 30
LOOK_INTERVAL_S = 0.02
URL = "http://" + os.environ["GATEWAY"]
PARENT = "accounts/3001"


def curl(*arguments):
    """Runs buf curl. Returns its exit code and what it writes."""
    command = [os.environ["BUF"], "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALL_TIMEOUT_S)


class ReflectionTest(unittest.TestCase):
    def call(self, method, request):
        """The answer to a call."""
        ended = curl("--data", json.dumps(request), f"{URL}/tidings.v1.{method}")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return json.loads(ended.stdout)

    def explain(self, detail):
        """The JSON of an error's detail, whose type reflection must tell, as it must for grpcurl."""
        pool = descriptor_pool.DescriptorPool()
        self.load(pool, set(), {"fileContainingSymbol": detail["type"]})
        message = message_factory.GetMessageClass(pool.FindMessageTypeByName(detail["type"]))()
        # It comes without padding.
        message.ParseFromString(base64.b64decode(detail["value"] + "=="))
        return json_format.MessageToDict(message)

    def load(self, pool, loaded, wanted):
        """Adds to the pool what reflection answers, after what that needs."""
        ended = curl("--data", json.dumps(wanted), f"{URL}/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        for encoded in json.loads(ended.stdout)["fileDescriptorResponse"]["fileDescriptorProto"]:
            file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(encoded))
            if file.name not in loaded:
                loaded.add(file.name)
                for name in file.dependency:
                    self.load(pool, loaded, {"fileByFilename": name})
                pool.Add(file)

    def test_services_and_methods_are_listed(self):
        for reflection in ("grpc-v1", "grpc-v1alpha"):
            services = curl("--reflect-protocol", reflection, "--list-services", URL).stdout.split()
            for name in ("Subscription", "Event", "Delivery"):
                self.assertIn(f"tidings.v1.{name}Service", services)
            self.assertIn("grpc.health.v1.Health", services)
        methods = curl("--list-methods", URL).stdout.split()
        self.assertIn("tidings.v1.EventService/StreamPublishEvents", methods)

    def test_an_event_is_published_and_followed_to_its_end(self):
        receiver = Receiver()
        self.addCleanup(receiver.close)
        subscription = {"url": f"http://{receiver.address}/", "event_types": ["EVENT_TYPE_CONVERSATION_CREATED"]}
        created = self.call(
            "SubscriptionService/CreateSubscription",
            {"parent": PARENT, "subscription_id": "crm", "subscription": subscription},
        )
        self.assertEqual(created["subscription"]["name"], f"{PARENT}/subscriptions/crm")

        event = {"conversation_created": {"conversation": {"id": "9007199254740993", "status": "open"}}}
        published = self.call("EventService/PublishEvent", {"parent": PARENT, "event_id": "one", "event": event})
        self.assertEqual(published["result"]["deliveryCount"], 1)
        body = check_signed(self, receiver.next(), created["signingSecret"])
        self.assertEqual((body["event"], body["id"]), ("conversation_created", 9007199254740993))

        name = f"{PARENT}/subscriptions/crm/deliveries/one"
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while True:
            delivery = self.call("DeliveryService/GetDelivery", {"name": name})["delivery"]
            if delivery["state"] == "STATE_SUCCEEDED":
                break
            self.assertLess(time.monotonic(), deadline, delivery)
            time.sleep(LOOK_INTERVAL_S)
        self.assertEqual(delivery["attempts"][0]["httpStatus"], 200)

        updated = {"name": created["subscription"]["name"], "display_name": "CRM"}
        changed = self.call(
            "SubscriptionService/UpdateSubscription", {"subscription": updated, "update_mask": "displayName"}
        )
        self.assertEqual(changed["subscription"]["displayName"], "CRM")

    def test_a_refusal_is_readable(self):
        request = json.dumps({"parent": PARENT, "subscription": {"url": "ftp://example.com"}})
        ended = curl("--data", request, f"{URL}/tidings.v1.SubscriptionService/CreateSubscription")
        self.assertNotEqual(ended.returncode, 0)
        status = json.loads(ended.stderr)
        self.assertEqual(status["code"], "invalid_argument")
        details = {detail["type"]: self.explain(detail) for detail in status["details"]}
        info = details["google.rpc.ErrorInfo"]
        self.assertEqual((info["domain"], info["reason"]), ("tidings", "FIELD_INVALID"))
        fields = {violation["field"] for violation in details["google.rpc.BadRequest"]["fieldViolations"]}
        self.assertEqual(fields, {"subscription.url", "subscription.event_types"})


if __name__ == "__main__":
    unittest.main()
