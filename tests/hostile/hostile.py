"""What the attackers share: a gateway on this machine, tokens of two accounts, and a healthy account that is measured.

The gateway is at TIDINGS_ADDRESS (127.0.0.1:50051) and has TIDINGS_ADMIN_TOKEN. Nothing here leaves the machine.
"""

import collections
import ipaddress
import json
import os
import statistics
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tidings.v1 import access_token_service_pb2 as tokens, access_token_service_pb2_grpc as tokens_grpc
from tidings.v1 import audit_service_pb2_grpc, event_service_pb2 as events, event_service_pb2_grpc
from tidings.v1 import chatwoot_pb2, event_pb2, subscription_pb2, subscription_service_pb2 as subscriptions
from tidings.v1 import subscription_service_pb2_grpc

ADDRESS = os.environ.get("TIDINGS_ADDRESS", "127.0.0.1:50051")
ATTACKER, HEALTHY = 1, 2
SECONDS = int(os.environ.get("SECONDS", "15"))
RATE = 20
Scope = tokens.AccessToken.Scope


def channel(**options):
    """A connection of its own to the gateway, which must be on this machine."""
    if not ipaddress.ip_address(ADDRESS.rsplit(":", 1)[0].strip("[]")).is_loopback:
        raise SystemExit(f"{ADDRESS} is not this machine: the attackers are for gateways of your own")
    options = {"grpc.use_local_subchannel_pool": 1, "grpc.enable_retries": 0} | options
    return grpc.insecure_channel(ADDRESS, options=list(options.items()))


class Caller:
    """The services of the contract, called with a token."""

    def __init__(self, token=os.environ.get("TIDINGS_ADMIN_TOKEN"), via=None):
        self.channel, self.metadata = via or channel(), [("authorization", f"Bearer {token}")] if token else []
        self.events = event_service_pb2_grpc.EventServiceStub(self.channel)
        self.subscriptions = subscription_service_pb2_grpc.SubscriptionServiceStub(self.channel)
        self.tokens = tokens_grpc.AccessTokenServiceStub(self.channel)
        self.audit = audit_service_pb2_grpc.AuditServiceStub(self.channel)

    def __call__(self, method, request):
        return method(request, metadata=self.metadata, timeout=60)

    def of(self, account, *scopes):
        """A caller with a new token for one account."""
        token = tokens.AccessToken(scopes=scopes, accounts=[f"accounts/{account}"])
        created = self(self.tokens.CreateAccessToken, tokens.CreateAccessTokenRequest(access_token=token))
        return Caller(created.token)

    def subscribe(self, account, url, **settings):
        """A new subscription's name."""
        settings = {"event_types": [event_pb2.EVENT_TYPE_MESSAGE_CREATED], "url": url} | settings
        request = subscriptions.CreateSubscriptionRequest(parent=f"accounts/{account}", subscription=settings)
        return self(self.subscriptions.CreateSubscription, request).subscription.name

    def publish(self, account, *contents):
        """Publishes messages in one batch."""
        requests = [events.PublishEventRequest(event=message(account, content)) for content in contents]
        request = events.BatchPublishEventsRequest(parent=f"accounts/{account}", requests=requests)
        return self(self.events.BatchPublishEvents, request)


def message(account, content):
    """A message_created event."""
    sent = chatwoot_pb2.Message(id=1, content=content, message_type=chatwoot_pb2.MESSAGE_TYPE_INCOMING)
    sent.account.id, sent.conversation.id, sent.conversation.inbox_id = account, 1, 1
    sent.account.name, sent.conversation.status = "Acme", "open"
    sent.created_at.FromJsonString("2020-03-03T13:05:57Z")
    return event_pb2.Event(message_created=event_pb2.MessageCreated(message=sent))


def reason(error):
    """The reason of a refusal, such as OVERLOADED."""
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    found = [detail for detail in status.details if detail.Unpack(info)] if status else []
    return info.reason if found else error.code().name


def serve(respond):
    """The URL of a receiver whose `respond(path, body)` may take its time before it returns a status."""

    class Handler(BaseHTTPRequestHandler):
        # In HTTP/1.0, so that each POST takes a connection and a look-up.
        def do_POST(self):
            self.send_response(respond(self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://localhost:{server.server_port}"


class Healthy:
    """An account that publishes 20 events a second to itself. At the end it tells how that went."""

    def __enter__(self):
        self.caller = Caller().of(HEALTHY, Scope.SCOPE_PUBLISH, Scope.SCOPE_MANAGE)
        self.took, self.refused, self.ended = {}, collections.Counter(), threading.Event()
        self.caller.subscribe(HEALTHY, serve(self.arrived) + f"/{time.time()}")
        first = repr(time.monotonic())
        self.took[first] = None
        self.caller.publish(HEALTHY, first)
        while self.took[first] is None:
            time.sleep(0.01)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def arrived(self, _path, body):
        content = json.loads(body).get("content", "")
        if content in self.took:
            self.took[content] = time.monotonic() - float(content)
        return 200

    def run(self):
        while not self.ended.wait(1 / RATE):
            content = repr(time.monotonic())
            self.took[content] = None
            try:
                self.caller.publish(HEALTHY, content)
            except grpc.RpcError as error:
                self.refused[reason(error)] += 1
                del self.took[content]

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        time.sleep(1)
        arrived = sorted(took for took in self.took.values() if took is not None)
        median, worst = (statistics.median(arrived), arrived[-1]) if arrived else (float("nan"),) * 2
        print(f"healthy: {len(arrived)} of {len(self.took)} events arrived, after {median:.3f} s in the median,")
        print(f"  {worst:.3f} s at most; refused calls: {dict(self.refused) or 'none'}")
