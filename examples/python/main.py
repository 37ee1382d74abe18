"""Publishes an event to Tidings over TLS and watches its delivery. ../README.md says how to run it."""
import os
import time
import uuid
import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tidings.v1 import chatwoot_pb2 as cw, delivery_service_pb2 as ds, delivery_service_pb2_grpc, event_pb2
from tidings.v1 import event_service_pb2 as es, event_service_pb2_grpc, subscription_service_pb2 as ss, subscription_service_pb2_grpc

PARENT, NAME, DEADLINE_S = "accounts/1", "accounts/1/subscriptions/example-python", 30

def detail(error, kind):
    """The detail of this kind in an error, or None."""
    status = rpc_status.from_call(error)
    found = [kind.FromString(packed.value) for packed in (status.details if status else []) if packed.Is(kind.DESCRIPTOR)]
    return found[0] if found else None

def publish(events, request, attempts=5):
    """Publishes. Repeats the call, which its event_id makes safe, when the server says how long to wait."""
    for attempt in range(1, attempts + 1):
        try:
            return events.PublishEvent(request, timeout=DEADLINE_S).result
        except grpc.RpcError as error:
            retry = detail(error, error_details_pb2.RetryInfo)
            if retry is None or attempt == attempts:
                raise
            time.sleep(retry.retry_delay.ToTimedelta().total_seconds())

def message(id):
    return event_pb2.Event(message_created={"message": cw.Message(
        id=id, content="Hello", message_type=cw.MESSAGE_TYPE_INCOMING, created_at={"seconds": int(time.time())}, account={"id": 1},
        sender={"contact": {"id": 7, "name": "Ann"}}, conversation={"id": 3, "inbox_id": 1, "account_id": 1, "status": "open"})})

token = grpc.access_token_call_credentials(os.environ["TIDINGS_TOKEN"])
tls = grpc.ssl_channel_credentials(open(os.environ["TIDINGS_CA"], "rb").read())
with grpc.secure_channel(os.environ["TIDINGS_ADDRESS"], grpc.composite_channel_credentials(tls, token)) as channel:
    events = event_service_pb2_grpc.EventServiceStub(channel)
    subscription = {"url": os.environ["WEBHOOK_URL"], "event_types": [event_pb2.EVENT_TYPE_MESSAGE_CREATED]}
    create = ss.CreateSubscriptionRequest(parent=PARENT, subscription_id="example-python", subscription=subscription)
    try:
        subscription_service_pb2_grpc.SubscriptionServiceStub(channel).CreateSubscription(create, timeout=DEADLINE_S)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise
    watch = delivery_service_pb2_grpc.DeliveryServiceStub(channel).WatchDeliveries(ds.WatchDeliveriesRequest(parent=NAME), timeout=DEADLINE_S)
    watch.initial_metadata()  # Waits for the headers: from now on no change is missed.
    print("watch begun")
    request = es.PublishEventRequest(parent=PARENT, event_id=f"python-{uuid.uuid4()}", event=message(42))
    for _ in range(2):
        print("published, duplicate:", str(publish(events, request).duplicate).lower())
    try:
        publish(events, es.PublishEventRequest(parent=PARENT, event=message(0)))
    except grpc.RpcError as error:
        for violation in detail(error, error_details_pb2.BadRequest).field_violations:
            print("refused:", violation.field, violation.description)
    for change in watch:
        if change.delivery.name.endswith("/" + request.event_id) and change.delivery.state == change.delivery.STATE_SUCCEEDED:
            print("delivered")
            break
