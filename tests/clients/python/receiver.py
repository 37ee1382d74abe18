"""A receiver of webhooks that checks what it is sent."""

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

from standardwebhooks import WebhookVerificationError

ARRIVAL_TIMEOUT_S = 30
POLL_INTERVAL_S = 0.01
# How old a POST may be in the check of the document, as it may be in the library's.
AGE_MAX_S = 300

DOCUMENTS = Path(__file__).resolve().parents[3] / "docs"
DOCUMENT = (DOCUMENTS / "chatwoot.md").read_text()

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
    """Verifies with the library, as the document says, for a receiver whose clock is ahead. Raises an error for a wrong signature.
    Returns the body's JSON."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=ahead_s)

    with mock.patch("standardwebhooks.webhooks.datetime", Ahead):
        return WITH_LIBRARY["verify"](dict(arrival.headers), arrival.body, secret)


def asymmetric_holds(arrival, public_key):
    """Whether the document's check of v1a signatures holds."""
    return WITH_PUBLIC_KEY["verify"](arrival.headers, arrival.body, public_key)


def definitions(document):
    """What each of the document's blocks of Python defines."""
    blocks = re.findall(r"^```python\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    for block in blocks:
        defined = {}
        exec(block, defined)
        yield defined


WITH_LIBRARY, WITH_PUBLIC_KEY = definitions((DOCUMENTS / "receiving.md").read_text())


def chatwoot_holds(arrival, secret, ahead_s=0):
    """Whether the document's check of X-Chatwoot-Signature holds, for a receiver whose clock is so far ahead."""
    (check,) = definitions(DOCUMENT)
    check["time"] = SimpleNamespace(time=lambda: time.time() + ahead_s)
    return check["genuine"](arrival.headers, arrival.body, secret)
