"""A token that may publish and manage: a receiver that answers with 200 after 28 s, five subscriptions, and many events."""

import time

from hostile import ATTACKER, SECONDS, Caller, Healthy, Scope, serve

SUBSCRIPTIONS, EVENTS, LATE_S = 5, 900, 28
seen, held = set(), 0


def respond(path, _body):
    """The first POST to each path is answered at once: so its subscription has succeeded."""
    global held
    if path in seen:
        held += 1
        time.sleep(LATE_S)
    seen.add(path)
    return 200


attacker = Caller().of(ATTACKER, Scope.SCOPE_PUBLISH, Scope.SCOPE_MANAGE)
url = serve(respond)
for number in range(SUBSCRIPTIONS):
    attacker.subscribe(ATTACKER, f"{url}/{number}", max_in_flight=256, timeout={"seconds": 30})
attacker.publish(ATTACKER, "x")
time.sleep(1)
with Healthy():
    attacker.publish(ATTACKER, *["x"] * EVENTS)
    time.sleep(SECONDS)
    print("POSTs that were held:", held)
