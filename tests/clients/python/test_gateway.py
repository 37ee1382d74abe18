"""Tidings as grpcio sees it, by the stubs that grpcio-tools generates."""

import hashlib
import hmac
import itertools
import json
import os
import re
import time
import unittest

import grpc
from google.protobuf import duration_pb2, json_format
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from receiver import (
    AGE_MAX_S,
    DOCUMENT,
    Arrival,
    Receiver,
    asymmetric_holds,
    check_refused,
    check_signed,
    chatwoot_holds,
    standard,
)
from tidings.v1 import (
    chatwoot_pb2,
    delivery_pb2,
    delivery_service_pb2,
    delivery_service_pb2_grpc,
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    subscription_pb2,
    subscription_service_pb2,
    subscription_service_pb2_grpc,
)

CALL_TIMEOUT_S = 30
LOOK_INTERVAL_S = 0.02
OTHER_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

Delivery = delivery_pb2.Delivery
accounts = itertools.count(1001)


def message_created(account, number, content="Hi"):
    """A message_created event."""
    message = chatwoot_pb2.Message(
        id=number,
        content=content,
        message_type=chatwoot_pb2.MESSAGE_TYPE_INCOMING,
        account=chatwoot_pb2.Account(id=account, name="Acme"),
        conversation=chatwoot_pb2.Conversation(id=7, inbox_id=3, status="open"),
        sender=chatwoot_pb2.Sender(contact=chatwoot_pb2.Contact(id=5, name="Zoë")),
    )
    message.created_at.FromJsonString("2020-03-03T13:05:57Z")
    message.content_attributes.update({"in_reply_to": 12})
    return event_pb2.Event(message_created=event_pb2.MessageCreated(message=message))


class GatewayTest(unittest.TestCase):
    """Each test has an account and a receiver of its own."""

    compression = None

    def setUp(self):
        channel = grpc.insecure_channel(os.environ["GATEWAY"], compression=self.compression)
        self.addCleanup(channel.close)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.subscriptions = subscription_service_pb2_grpc.SubscriptionServiceStub(channel)
        self.events = event_service_pb2_grpc.EventServiceStub(channel)
        self.deliveries = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.account = next(accounts)
        self.parent = f"accounts/{self.account}"

    def subscribe(self, **fields):
        """Subscribes the receiver to messages. Returns the subscription and its secret."""
        subscription = subscription_pb2.Subscription(
            url=f"http://{self.receiver.address}/hook", event_types=[event_pb2.EVENT_TYPE_MESSAGE_CREATED], **fields
        )
        request = subscription_service_pb2.CreateSubscriptionRequest(parent=self.parent, subscription=subscription)
        created = self.subscriptions.CreateSubscription(request, timeout=CALL_TIMEOUT_S)
        return created.subscription, created.signing_secret

    def rotate(self, subscription, overlap_s):
        """Rotates the secret. Returns the new one."""
        overlap = duration_pb2.Duration(seconds=overlap_s)
        request = subscription_service_pb2.RotateSigningSecretRequest(name=subscription.name, overlap=overlap)
        return self.subscriptions.RotateSigningSecret(request, timeout=CALL_TIMEOUT_S).signing_secret

    def request(self, number, **fields):
        event = message_created(self.account, number)
        return event_service_pb2.PublishEventRequest(parent=self.parent, event=event, **fields)

    def publish(self, request):
        return self.events.PublishEvent(request, timeout=CALL_TIMEOUT_S).result

    def deliveries_when_succeeded(self, count):
        """Lists the account's deliveries until so many have succeeded, and no other is there."""
        request = delivery_service_pb2.ListDeliveriesRequest(parent=f"{self.parent}/subscriptions/-")
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while True:
            deliveries = self.deliveries.ListDeliveries(request, timeout=CALL_TIMEOUT_S).deliveries
            if [delivery.state for delivery in deliveries] == [Delivery.STATE_SUCCEEDED] * count:
                return deliveries
            self.assertLess(time.monotonic(), deadline, deliveries)
            time.sleep(LOOK_INTERVAL_S)

    def refusal(self, call, request):
        """The code of a call that is refused, and its details by the name of their type."""
        with self.assertRaises(grpc.RpcError) as caught:
            call(request, timeout=CALL_TIMEOUT_S)
        known = (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.ResourceInfo)
        details = {}
        for packed in rpc_status.from_call(caught.exception).details:
            for kind in known:
                if packed.Is(kind.DESCRIPTOR):
                    details[kind.DESCRIPTOR.name] = detail = kind()
                    packed.Unpack(detail)
        self.assertEqual(details["ErrorInfo"].domain, "tidings")
        return caught.exception.code(), details

    def test_it_serves(self):
        answer = self.health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

    def test_an_event_arrives_signed_and_once_however_often_it_is_published(self):
        subscription, secret = self.subscribe()
        request = self.request(1, event_id="a-message")
        first = self.publish(request)
        self.assertEqual(first.event, f"{self.parent}/events/a-message")
        self.assertEqual((first.duplicate, first.delivery_count), (False, 1))
        again = self.publish(request)
        self.assertEqual((again.event, again.create_time, again.duplicate), (first.event, first.create_time, True))

        body = check_signed(self, self.receiver.next(), secret)
        self.assertEqual(list(body)[:5], ["event", "id", "content", "message_type", "created_at"])
        self.assertEqual((body["event"], body["id"], body["content"]), ("message_created", 1, "Hi"))
        self.assertEqual((body["message_type"], body["created_at"]), (0, 1583240757))
        self.assertEqual(body["content_attributes"], {"in_reply_to": 12})
        self.assertEqual((body["sender"]["type"], body["sender"]["name"]), ("contact", "Zoë"))
        self.assertIsNone(body["source_id"])

        (delivery,) = self.deliveries_when_succeeded(1)
        self.assertEqual(delivery.name, f"{subscription.name}/deliveries/a-message")
        self.assertEqual((delivery.attempt_count, delivery.attempts[0].http_status), (1, 200))
        self.assertTrue(self.receiver.arrivals.empty())

    def test_a_secret_of_ones_own_comes_back_as_the_library_takes_it(self):
        own = "a secret of their own"
        request = subscription_service_pb2.CreateSubscriptionRequest(
            parent=self.parent,
            subscription=subscription_pb2.Subscription(
                url=f"http://{self.receiver.address}/hook", event_types=[event_pb2.EVENT_TYPE_MESSAGE_CREATED]
            ),
            signing_secret=own,
        )
        shown = self.subscriptions.CreateSubscription(request, timeout=CALL_TIMEOUT_S).signing_secret
        self.publish(self.request(1))
        arrival = self.receiver.next()
        self.assertEqual(standard(arrival, shown)["id"], 1)
        self.assertTrue(chatwoot_holds(arrival, own))

    def test_what_is_not_genuine_is_refused(self):
        _, secret = self.subscribe()
        self.publish(self.request(1))
        arrival = self.receiver.next()
        check_signed(self, arrival, secret)

        changed = arrival._replace(body=arrival.body.replace(b'"Hi"', b'"Ho"'))
        self.assertNotEqual(changed.body, arrival.body)
        check_refused(self, changed, secret, "No matching signature")
        check_refused(self, arrival, OTHER_SECRET, "No matching signature")
        check_refused(self, arrival, secret, "too old", ahead_s=AGE_MAX_S + 1)

    def test_the_signature_is_over_timestamp_and_body_as_they_came(self):
        _, secret = self.subscribe(payload_format=subscription_pb2.Subscription.PAYLOAD_FORMAT_CHATWOOT)
        self.publish(self.request(1))
        arrival = self.receiver.next()
        check_signed(self, arrival, secret)

        # The same JSON in other bytes.
        self.assertFalse(chatwoot_holds(arrival._replace(body=json.dumps(json.loads(arrival.body)).encode()), secret))
        signature = "sha256=" + hmac.new(secret.encode(), arrival.body, hashlib.sha256).hexdigest()
        timestamp = arrival.headers["x-chatwoot-timestamp"]
        headers = {"X-Chatwoot-Timestamp": timestamp, "X-Chatwoot-Signature": signature}
        self.assertFalse(chatwoot_holds(arrival._replace(headers=headers), secret))
        self.assertFalse(chatwoot_holds(arrival._replace(headers={}), secret))

    def test_the_values_in_the_document_hold(self):
        values = r"secret `(.*?)`, timestamp `(\d+)`, body `(.*?)` give\s`(.*?)`"
        secret, timestamp, body, signature = re.search(values, DOCUMENT).groups()
        headers = {"X-Chatwoot-Timestamp": timestamp, "X-Chatwoot-Signature": signature}
        ahead_s = int(timestamp) - time.time()
        self.assertTrue(chatwoot_holds(Arrival("/", headers, body.encode()), secret, ahead_s))

    def test_both_secrets_hold_during_a_rotation_and_the_new_one_alone_after_it(self):
        subscription, first = self.subscribe()
        second = self.rotate(subscription, overlap_s=3600)
        self.publish(self.request(1))
        arrival = self.receiver.next()
        self.assertEqual(check_signed(self, arrival, second), standard(arrival, first))

        third = self.rotate(subscription, overlap_s=0)
        self.publish(self.request(2))
        arrival = self.receiver.next()
        self.assertEqual(check_signed(self, arrival, third)["id"], 2)
        for secret in (first, second):
            check_refused(self, arrival, secret, "No matching signature")

    def public_key(self, subscription):
        request = subscription_service_pb2.GetSubscriptionRequest(name=subscription.name)
        return self.subscriptions.GetSubscription(request, timeout=CALL_TIMEOUT_S).subscription.public_key

    def test_with_ed25519_the_public_key_verifies_and_during_a_rotation_both_do(self):
        subscription, secret = self.subscribe(signature_scheme=subscription_pb2.Subscription.SIGNATURE_SCHEME_ED25519)
        first = self.public_key(subscription)
        self.assertEqual(subscription.public_key, first)
        self.publish(self.request(1))
        arrival = self.receiver.next()
        self.assertRegex(arrival.headers["webhook-signature"], "^v1a,[A-Za-z0-9+/]{86}==$")
        self.assertTrue(asymmetric_holds(arrival, first))
        self.assertTrue(chatwoot_holds(arrival, secret))
        changed = arrival._replace(body=arrival.body.replace(b'"Hi"', b'"Ho"'))
        self.assertFalse(asymmetric_holds(changed, first))

        self.rotate(subscription, overlap_s=3600)
        second = self.public_key(subscription)
        self.publish(self.request(2))
        arrival = self.receiver.next()
        self.assertEqual([asymmetric_holds(arrival, key) for key in (first, second)], [True, True])
        self.rotate(subscription, overlap_s=0)
        third = self.public_key(subscription)
        self.publish(self.request(3))
        arrival = self.receiver.next()
        self.assertEqual([asymmetric_holds(arrival, key) for key in (first, second, third)], [False, False, True])

    def test_a_batch_arrives_whole(self):
        _, secret = self.subscribe()
        requests = [self.request(number, event_id=f"of-batch-{number}") for number in (1, 2, 3)]
        batch = event_service_pb2.BatchPublishEventsRequest(parent=self.parent, requests=requests)
        results = self.events.BatchPublishEvents(batch, timeout=CALL_TIMEOUT_S).results
        names = [f"{self.parent}/events/of-batch-{number}" for number in (1, 2, 3)]
        self.assertEqual([result.event for result in results], names)
        bodies = [check_signed(self, self.receiver.next(), secret) for _ in results]
        self.assertEqual({body["id"] for body in bodies}, {1, 2, 3})
        self.deliveries_when_succeeded(3)

    def test_one_bad_event_of_a_stream_fails_alone(self):
        _, secret = self.subscribe()
        requests = [self.request(1), event_service_pb2.PublishEventRequest(parent=self.parent), self.request(3)]
        messages = (
            event_service_pb2.StreamPublishEventsRequest(sequence=10 + index, request=request)
            for index, request in enumerate(requests)
        )
        answers = list(self.events.StreamPublishEvents(messages, timeout=CALL_TIMEOUT_S))
        outcomes = [(answer.sequence, answer.WhichOneof("outcome")) for answer in answers]
        self.assertEqual(outcomes, [(10, "result"), (11, "error"), (12, "result")])
        error = answers[1].error
        self.assertEqual((error.code, error.reason), (grpc.StatusCode.INVALID_ARGUMENT.value[0], "FIELD_REQUIRED"))
        self.assertEqual([violation.field for violation in error.field_violations], ["event"])
        bodies = [check_signed(self, self.receiver.next(), secret) for _ in range(2)]
        self.assertEqual({body["id"] for body in bodies}, {1, 3})
        self.deliveries_when_succeeded(2)

    def test_every_field_at_fault_is_named_at_once(self):
        subscription = subscription_pb2.Subscription(url="ftp://example.com", display_name="x" * 64)
        request = subscription_service_pb2.CreateSubscriptionRequest(parent=self.parent, subscription=subscription)
        code, details = self.refusal(self.subscriptions.CreateSubscription, request)
        self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(details["ErrorInfo"].reason, "FIELD_INVALID")
        fields = {violation.field for violation in details["BadRequest"].field_violations}
        names = ("url", "display_name", "event_types")
        self.assertEqual(fields, {f"subscription.{name}" for name in names})

    def test_what_is_not_there_is_named(self):
        name = f"{self.parent}/subscriptions/nobody"
        request = subscription_service_pb2.GetSubscriptionRequest(name=name)
        code, details = self.refusal(self.subscriptions.GetSubscription, request)
        self.assertEqual(code, grpc.StatusCode.NOT_FOUND)
        self.assertEqual(details["ErrorInfo"].reason, "SUBSCRIPTION_NOT_FOUND")
        resource = details["ResourceInfo"]
        self.assertEqual((resource.resource_type, resource.resource_name), ("tidings.v1.Subscription", name))

    def test_an_id_is_not_taken_for_another_event(self):
        self.publish(self.request(1, event_id="taken"))
        code, details = self.refusal(self.events.PublishEvent, self.request(2, event_id="taken"))
        self.assertEqual(code, grpc.StatusCode.ALREADY_EXISTS)
        self.assertEqual(details["ErrorInfo"].reason, "EVENT_EXISTS")

    def test_a_watch_has_begun_when_its_headers_are_there_before_any_change(self):
        subscription, _ = self.subscribe()
        request = delivery_service_pb2.WatchDeliveriesRequest(parent=subscription.name)
        changes = self.deliveries.WatchDeliveries(request, timeout=CALL_TIMEOUT_S)
        self.addCleanup(changes.cancel)
        changes.initial_metadata()
        self.assertTrue(changes.is_active())
        self.publish(self.request(1, event_id="watched"))
        self.assertEqual(next(changes).delivery.name, f"{subscription.name}/deliveries/watched")

    def test_json_shows_a_count_of_0(self):
        shown = json_format.MessageToDict(self.publish(self.request(1)))
        self.assertEqual(shown.get("deliveryCount"), 0)
        self.assertNotIn("duplicate", shown)

    def test_pages_end(self):
        self.subscribe()
        for number in range(1, 6):
            self.publish(self.request(number, event_id=f"e{number}"))
        request = event_service_pb2.ListEventsRequest(parent=self.parent, page_size=2)
        pages = []
        while not pages or request.page_token:
            page = self.events.ListEvents(request, timeout=CALL_TIMEOUT_S)
            pages.append([event.name.rsplit("/", 1)[-1] for event in page.events])
            request.page_token = page.next_page_token
        self.assertEqual(pages, [["e5", "e4"], ["e3", "e2"], ["e1"]])


class CompressedTest(GatewayTest):
    """The same with gzip."""

    compression = grpc.Compression.Gzip


if __name__ == "__main__":
    unittest.main()
