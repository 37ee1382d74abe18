"""A token that manages one account: fills the audit records with calls that change nothing, or are refused."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from hostile import ATTACKER, HEALTHY, Caller, Scope, subscriptions
from tidings.v1 import audit_service_pb2 as audit

CALLS = 5_000

healthy = Caller().of(HEALTHY, Scope.SCOPE_MANAGE)
healthy.subscribe(HEALTHY, f"http://127.0.0.1:9/{time.time()}")
manager, reader = Caller().of(ATTACKER, Scope.SCOPE_MANAGE), Caller().of(ATTACKER, Scope.SCOPE_READ)
name = manager.subscribe(ATTACKER, f"http://127.0.0.1:9/{time.time()}")


def records(caller, account):
    """The newest records of an account."""
    request = audit.ListAuditRecordsRequest(parent=f"accounts/{account}", page_size=1000)
    return caller(caller.audit.ListAuditRecords, request).audit_records


def pause(number):
    """In turn: nothing to change, refused for the scope, refused for the account."""
    caller, of = [(manager, name), (reader, name), (manager, f"accounts/{HEALTHY}/subscriptions/x")][number % 3]
    try:
        caller(caller.subscriptions.PauseSubscription, subscriptions.PauseSubscriptionRequest(name=of))
    except grpc.RpcError:
        pass


before = {record.number for record in records(healthy, HEALTHY)}
begin = time.monotonic()
with ThreadPoolExecutor(16) as threads:
    list(threads.map(pause, range(CALLS)))
print(f"calls: {CALLS} in {time.monotonic() - begin:.0f} s")
time.sleep(6)  # Repeats of refusals for the scope are written every 5 s.
own = records(manager, ATTACKER)
print("records of the attacker's account:", len(own), "for", sum(record.count for record in own), "calls")
after = records(healthy, HEALTHY)
print("records of the healthy account that are gone:", len(before - {record.number for record in after}))
print("callers that it sees:", sorted({record.principal for record in after}))
