"""A token that may publish and manage: one event to 600 names whose name server never responds.

The gateway must resolve names at 127.53.53.53 (README.md), where this program listens and stays silent. It takes the right to
bind port 53.
"""

import socket
import time

from hostile import ATTACKER, SECONDS, Caller, Healthy, Scope

NAMES = 600

silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.53.53.53", 53))
attacker = Caller().of(ATTACKER, Scope.SCOPE_PUBLISH, Scope.SCOPE_MANAGE)
for number in range(NAMES):
    attacker.subscribe(ATTACKER, f"http://n{number}-{time.time_ns()}.silent.test/")
with Healthy():
    attacker.publish(ATTACKER, "x")
    time.sleep(SECONDS)
silent.setblocking(False)
queries = 0
try:
    while silent.recv(512):
        queries += 1
except BlockingIOError:
    print("queries that wait for a response:", queries)
