"""Without a token: opens health and reflection streams on eight connections and keeps them open."""

import threading
import time

from hostile import SECONDS, Healthy, channel

CONNECTIONS, WATCHES, REFLECTIONS = 8, 256, 32
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
over = threading.Event()


def never():
    """No message until the end."""
    over.wait(4 * SECONDS)
    return
    yield


with Healthy():
    calls = []
    for _ in range(CONNECTIONS):
        connection = channel()
        calls += [connection.unary_stream(WATCH)(b"") for _ in range(WATCHES)]
        calls += [connection.stream_stream(REFLECTION)(never()) for _ in range(REFLECTIONS)]
    time.sleep(SECONDS)
    print("held at the end:", sum(call.is_active() for call in calls), "of", len(calls), "calls")
    over.set()
