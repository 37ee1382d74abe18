"""A token that may read: 500 lists of large events at the same time on one connection, again and again."""

import time

from hostile import ATTACKER, SECONDS, Caller, Healthy, Scope, channel, events

CALLS = 500

owner = Caller().of(ATTACKER, Scope.SCOPE_PUBLISH)
for _ in range(2):
    owner.publish(ATTACKER, *["z" * 50_000] * 40)
reader = Caller().of(ATTACKER, Scope.SCOPE_READ)
# What is larger is dropped as soon as its length is known: this program's memory is bounded too.
connection = channel(**{"grpc.max_receive_message_length": 65_536})
LIST = events.ListEventsRequest(parent=f"accounts/{ATTACKER}", page_size=1000).SerializeToString()
with Healthy():
    made, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        method = connection.unary_unary("/tidings.v1.EventService/ListEvents")
        calls = [method.future(LIST, metadata=reader.metadata, timeout=60) for _ in range(CALLS)]
        for call in calls:
            call.exception()
        made += CALLS
    print("lists:", made)
