"""A receiver of webhooks that checks what it is sent."""

import base64
import queue
import re
import threading
import time
from collections import namedtuple
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

ARRIVAL_TIMEOUT_S = 30
POLL_INTERVAL_S = 0.01
# How old a POST may be in the check of the document, as it may be in the library's.
AGE_MAX_S = 300

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs/chatwoot.md").read_text()

Arrival = namedtuple("Arrival", ["path", "headers", "body"])


class Receiver:
    """Listens on a port of its own and answers 200 to every POST, with this JSON if there is some."""

    def __init__(self, answer=b""):
        self.answer = answer
        self.arrivals = queue.Queue()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(POLL_INTERVAL_S,), daemon=True)
        self.thread.start()
        self.address = "{}:{}".format(*self.server.server_address)

    def _handler(receiver):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.arrivals.put(Arrival(self.path, self.headers, body))
                self.send_response(200)
                if receiver.answer:
                    self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(receiver.answer)))
                self.end_headers()
                self.wfile.write(receiver.answer)

            def log_message(self, *_):
                pass

        return Handler

    def next(self):
        """The next POST; raises queue.Empty if none comes in time."""
        return self.arrivals.get(timeout=ARRIVAL_TIMEOUT_S)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def check_signed(test, arrival, secret):
    """Fails the test unless both signatures are made with the secret. Returns the body's JSON."""
    headers = arrival.headers
    for name in ("webhook-id", "webhook-timestamp"):
        test.assertTrue(headers[name], name)
    test.assertEqual(headers["webhook-id"], headers["x-chatwoot-delivery"])
    test.assertEqual(headers["webhook-timestamp"], headers["x-chatwoot-timestamp"])
    test.assertEqual(headers["content-type"], "application/json")
    test.assertTrue(chatwoot_holds(arrival, secret))
    return standard(arrival, secret)


def check_refused(test, arrival, secret, why, ahead_s=0):
    """Fails the test unless both checks refuse what arrived, for a receiver whose clock is so far ahead."""
    with test.assertRaisesRegex(WebhookVerificationError, why):
        standard(arrival, secret, ahead_s)
    test.assertFalse(chatwoot_holds(arrival, secret, ahead_s))


def standard(arrival, secret, ahead_s=0):
    """Verifies with the library that receivers use, which raises an error where it does not hold. Returns the body's JSON."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=ahead_s)

    with mock.patch("standardwebhooks.webhooks.datetime", Ahead):
        return Webhook(secret).verify(arrival.body, dict(arrival.headers))


def asymmetric_holds(arrival, public_key):
    """Whether one of the v1a signatures was made with the private key that belongs to this public one."""
    headers = arrival.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + arrival.body
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key.removeprefix("whpk_"), validate=True))
    for signature in headers["webhook-signature"].split(" "):
        version, _, encoded = signature.partition(",")
        if version != "v1a":
            continue
        try:
            key.verify(base64.b64decode(encoded, validate=True), signed)
            return True
        except InvalidSignature:
            pass
    return False


def document_check():
    """What the document's one block of Python defines: the check of X-Chatwoot-Signature that it tells people to make."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    defined = {}
    exec(block, defined)
    return defined


def chatwoot_holds(arrival, secret, ahead_s=0):
    """Whether the document's check holds, for a receiver whose clock is so far ahead."""
    check = document_check()
    check["time"] = SimpleNamespace(time=lambda: time.time() + ahead_s)
    return check["genuine"](arrival.headers, arrival.body, secret)
