"""A receiver of webhooks that checks what it is sent."""

import base64
import hashlib
import hmac
import json
import queue
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARRIVAL_TIMEOUT_S = 30
POLL_INTERVAL_S = 0.01

Arrival = namedtuple("Arrival", ["path", "headers", "body"])


class Receiver:
    """Listens on a port of its own and answers 200 to every POST."""

    def __init__(self):
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
                self.send_header("content-length", "0")
                self.end_headers()

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
    headers, body = arrival.headers, arrival.body
    for name in ("webhook-id", "webhook-timestamp"):
        test.assertTrue(headers[name], name)
    test.assertEqual(headers["webhook-id"], headers["x-chatwoot-delivery"])
    test.assertEqual(headers["webhook-timestamp"], headers["x-chatwoot-timestamp"])
    test.assertEqual(headers["content-type"], "application/json")

    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    standard = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    test.assertEqual(headers["webhook-signature"], f"v1,{standard}")

    signed = f"{headers['x-chatwoot-timestamp']}.".encode() + body
    chatwoot = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    test.assertEqual(headers["x-chatwoot-signature"], f"sha256={chatwoot}")
    return json.loads(body)
