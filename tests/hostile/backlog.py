"""A token that may publish and manage: fills the backlog of 200 paused subscriptions."""

import time

import grpc

from hostile import ATTACKER, SECONDS, Caller, Healthy, Scope, reason, subscriptions

SUBSCRIPTIONS, EVENTS_MAX = 200, 50_000

attacker = Caller().of(ATTACKER, Scope.SCOPE_PUBLISH, Scope.SCOPE_MANAGE)
for number in range(SUBSCRIPTIONS):
    name = attacker.subscribe(ATTACKER, f"http://127.0.0.1:9/{time.time()}/{number}")
    attacker(attacker.subscriptions.PauseSubscription, subscriptions.PauseSubscriptionRequest(name=name))
with Healthy():
    published, last, until = 0, "nothing", time.monotonic() + SECONDS
    while time.monotonic() < until and published < EVENTS_MAX:
        try:
            attacker.publish(ATTACKER, *["x"] * 100)
            published += 100
        except grpc.RpcError as error:
            last = reason(error)
            time.sleep(0.05)
    print("events:", published, "for", SUBSCRIPTIONS, "subscriptions; refused with", last)
