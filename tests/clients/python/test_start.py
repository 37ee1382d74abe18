"""The first code of the console's page /start, as the page prints it: a receiver and a publisher in each language that is here."""

import html
import http.cookiejar
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse
import urllib.request
from pathlib import Path

import grpc
from tidings.v1 import access_token_service_pb2, access_token_service_pb2_grpc
from tidings.v1 import event_pb2, subscription_pb2, subscription_service_pb2, subscription_service_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]
NODE_MODULES = ROOT / "tests/clients/node/node_modules"
ACCOUNT = 7001
TIMEOUT_S = 60
POLL_INTERVAL_S = 0.02
# The port of the receivers on the page.
PORT = "9000"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def browser(console, token):
    """What opens the pages of a console; signed in if there is a token."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    if token:
        form = urllib.parse.urlencode({"token": token}).encode()
        opener.open(urllib.request.Request(console + "sign-in", form, {"Origin": console.rstrip("/")}), timeout=TIMEOUT_S)
    return opener


class StartTest(unittest.TestCase):
    def setUp(self):
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.directory / "proto").symlink_to(ROOT / "proto")
        (self.directory / "node_modules").symlink_to(NODE_MODULES)
        programs = self.directory / "bin"
        programs.mkdir()
        (programs / "node").symlink_to(shutil.which("node"))
        (programs / "tidings").symlink_to(os.environ["GATEWAY_BINARY"])
        grpcurl = programs / "grpcurl"
        grpcurl.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("documents.py")}" grpcurl "$@"\n')
        grpcurl.chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "PATH_OF_PROGRAMS": os.environ["PATH"],
            "BUF": os.environ["BUF"],
            "RECEIVER": "",
            "PYTHONUNBUFFERED": "1",
            "HOME": str(self.directory),
        }

    def snippets(self, console, token, language):
        """The code of a receiver and of a publisher."""
        address = f"{console}start?account={ACCOUNT}&lang={language}"
        page = browser(console, token).open(address, timeout=TIMEOUT_S).read().decode()
        return [
            html.unescape(re.search(f'<pre id="{name}"[^>]*>(.*?)</pre>', page, re.DOTALL)[1]) + "\n"
            for name in ("receive", "publish")
        ]

    def file(self, name, text):
        (self.directory / name).write_text(text)
        return name

    def start(self, command, **environment):
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        # A shell has a child.
        self.addCleanup(os.killpg, process.pid, signal.SIGKILL)
        return process

    def run_to_end(self, command, **environment):
        ended = subprocess.run(
            command, cwd=self.directory, env=self.environment | environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        return ended.stdout

    def check(self, language, suffix, command, genuine):
        """Runs the language's receiver and publisher against both gateways, without tokens and with."""
        for gateway, console, token in (
            (os.environ["GATEWAY"], os.environ["CONSOLE"], None),
            (os.environ["GUARDED_GATEWAY"], os.environ["GUARDED_CONSOLE"], os.environ["ADMIN_TOKEN"]),
        ):
            with self.subTest(language=language, token=bool(token)):
                self.check_at(gateway, console, token, language, suffix, command, genuine)

    def check_at(self, gateway, console, admin, language, suffix, command, genuine):
        receive, publish = self.snippets(console, admin, language)
        # The commands in front of the code.
        for line in re.findall(r"^# (python -m .*)$", publish, re.MULTILINE):
            self.run_to_end(["/bin/sh", "-c", line])
        port = free_port()
        metadata = [("authorization", f"Bearer {admin}")] if admin else []
        with grpc.insecure_channel(gateway) as channel:
            webhook = subscription_pb2.Subscription(
                url=f"http://127.0.0.1:{port}/", event_types=[event_pb2.EVENT_TYPE_MESSAGE_CREATED]
            )
            subscriptions = subscription_service_pb2_grpc.SubscriptionServiceStub(channel)
            created = subscriptions.CreateSubscription(
                subscription_service_pb2.CreateSubscriptionRequest(parent=f"accounts/{ACCOUNT}", subscription=webhook),
                metadata=metadata,
            )
            environment = {"GATEWAY": gateway}
            if admin:
                token = access_token_service_pb2.AccessToken(scopes=["SCOPE_PUBLISH"], accounts=[f"accounts/{ACCOUNT}"])
                tokens = access_token_service_pb2_grpc.AccessTokenServiceStub(channel)
                request = access_token_service_pb2.CreateAccessTokenRequest(access_token=token)
                environment["TIDINGS_TOKEN"] = tokens.CreateAccessToken(request, metadata=metadata).token
            receiver = self.start(
                [*command, self.file(f"receive.{suffix}", receive.replace(PORT, str(port)))],
                TIDINGS_SIGNING_SECRET=created.signing_secret,
            )
            self.wait_for(port, receiver)
            # The same event once for each gateway and language.
            publish = publish.replace("message-1-created", f"message-1-created-{language}")
            self.run_to_end([*command, self.file(f"publish.{suffix}", publish)], **environment)
            self.assertRegex(self.arrival(receiver), genuine)
            subscriptions.DeleteSubscription(
                subscription_service_pb2.DeleteSubscriptionRequest(name=created.subscription.name, force=True),
                metadata=metadata,
            )

    def wait_for(self, port, receiver):
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            self.assertIsNone(receiver.poll(), "the receiver ended")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(POLL_INTERVAL_S)
        self.fail("the receiver does not listen")

    def arrival(self, receiver):
        """What the receiver printed, up to the event."""
        printed = ""
        for line in receiver.stdout:
            printed += line
            if "message_created" in line:
                return printed
        self.fail(f"the receiver printed no event: {printed}")

    def test_shell(self):
        self.check("shell", "sh", ["/bin/sh"], r"(?s)x-chatwoot-signature: \S+ \(valid\)")

    def test_python(self):
        self.check("python", "py", ["python"], "True")

    def test_node(self):
        self.check("node", "mjs", ["node"], "true")


if __name__ == "__main__":
    unittest.main()
