"""A Chatwoot before the gateway and a bot behind it, set up as docs/chatwoot.md says."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import unittest
import urllib.request
import uuid
from pathlib import Path

import grpc
from celai_chatwoot.connector.model.woot_message import WootMessage
from loguru import logger

from receiver import DOCUMENT, Receiver
from test_celai import CALL_TIMEOUT_S, CHATWOOT, Bot
from tidings.v1 import event_pb2, subscription_pb2, subscription_service_pb2, subscription_service_pb2_grpc

sys.path.append(str(Path(__file__).resolve().parents[1]))
from run import Gateway

CAPTURED = Path(__file__).resolve().parents[2] / "chatwoot/captured"


def set_up(directory):
    """Runs the document's lines that start the gateway, but for starting it. Returns its arguments and its one source."""
    (block,) = (block for block in DOCUMENT.split("```sh\n") if "--ingest-listen" in block)
    script = block.partition("```")[0]
    tidings = Path(directory) / "tidings"
    tidings.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >arguments\n')
    tidings.chmod(0o755)
    environment = os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}
    subprocess.run(["/bin/bash", "-euc", script], cwd=directory, env=environment, check=True, capture_output=True)
    (source,) = tomllib.loads((Path(directory) / "sources.toml").read_text())["source"]
    return (Path(directory) / "arguments").read_text().split(), source


class BehindTest(unittest.TestCase):
    def setUp(self):
        logger.remove()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        (command, *arguments), source = set_up(directory.name)
        self.assertEqual(command, "serve")
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        self.assertEqual(list(options), ["--ingest-listen", "--ingest-sources-file", "--egress-allow"])
        self.account = source["account"]
        self.gateway = Gateway(
            os.environ["GATEWAY_BINARY"],
            ["--data-dir", str(Path(directory.name) / "data"), "--egress-allow", options["--egress-allow"]],
            TIDINGS_INGEST_LISTEN="127.0.0.1:0",
            TIDINGS_INGEST_SOURCES_FILE=str(Path(directory.name) / options["--ingest-sources-file"]),
        )
        self.addCleanup(lambda: self.assertEqual(self.gateway.end(), 0))
        (listening,) = (line for line in self.gateway.log if "ingest.listen" in line)
        self.url = f"http://{json.loads(listening)['ingest.listen']}/chatwoot/{source['path']}"

        self.chatwoot = Receiver(answer=b"{}")
        self.addCleanup(self.chatwoot.close)
        self.bot = Bot(self.chatwoot.address, self.account)
        self.addCleanup(self.bot.close)

    def subscribe(self):
        subscription = subscription_pb2.Subscription(
            url=self.bot.url,
            event_types=[event_pb2.EVENT_TYPE_MESSAGE_CREATED, event_pb2.EVENT_TYPE_MESSAGE_UPDATED],
            payload_format=CHATWOOT,
        )
        parent = f"accounts/{self.account}"
        request = subscription_service_pb2.CreateSubscriptionRequest(parent=parent, subscription=subscription)
        with grpc.insecure_channel(self.gateway.address) as channel:
            stub = subscription_service_pb2_grpc.SubscriptionServiceStub(channel)
            stub.CreateSubscription(request, timeout=CALL_TIMEOUT_S)

    def send(self, body, delivery):
        """POSTs as Chatwoot does. Returns the answer."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "X-Chatwoot-Delivery": delivery}
        request = urllib.request.Request(self.url, body, headers)
        with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S) as answer:
            self.assertEqual(answer.status, 200)
            return json.load(answer)

    def test_a_bot_behind_the_gateway_answers_in_chatwoot(self):
        self.subscribe()
        body = (CAPTURED / "message_created-2.json").read_bytes()
        sent, delivery = json.loads(body), str(uuid.uuid4())
        self.assertFalse(self.send(body, delivery)["duplicate"])
        # As some versions of Chatwoot do when they get no answer.
        self.assertTrue(self.send(body, delivery)["duplicate"])

        message = self.bot.message()
        self.assertEqual((message.text, message.lead.metadata["date"]), (sent["content"], sent["created_at"]))
        answer = self.chatwoot.next()
        conversation = sent["conversation"]["id"]
        self.assertEqual(answer.path, f"/api/v1/accounts/{self.account}/conversations/{conversation}/messages")
        self.bot.logged("Event response has disabled AI response")
        self.assertEqual(self.bot.errors, [])
        self.assertTrue(self.bot.assistant.messages.empty())

    def test_a_bot_reads_of_captured_messages_what_it_would_read_without_the_gateway(self):
        self.subscribe()
        compared = []
        for file in sorted(CAPTURED.glob("message_*.json")):
            sent = json.loads(file.read_bytes())
            # It passes by what agents write, and cannot read a conversation that was cut short.
            if sent["message_type"] == "outgoing" or "messages" not in sent["conversation"]:
                continue
            set_account(sent, self.account)
            self.assertFalse(self.send(json.dumps(sent).encode(), str(uuid.uuid4()))["duplicate"])
            read = self.bot.message()
            self.bot.logged("Event response has disabled AI response")
            direct = asyncio.run(WootMessage.load_from_message(sent, connector=self.bot.connector))
            self.assertEqual(facts(read), facts(direct), file.name)
            compared.append(file.stem)
        self.assertEqual(len(compared), 7, compared)
        self.assertEqual(self.bot.errors, [])


def set_account(value, account):
    """Has everything in a body be of one account."""
    if isinstance(value, list):
        for element in value:
            set_account(element, account)
    elif isinstance(value, dict):
        if "account" in value:
            value["account"]["id"] = account
        if "account_id" in value:
            value["account_id"] = account
        for member in value.values():
            set_account(member, account)


def facts(message):
    """What the bot knows of a message. What is empty and what is not there are the same to it."""
    lead = message.lead.to_dict() | message.lead.metadata
    del lead["metadata"], lead["raw"]
    peer = {name: value or None for name, value in lead.pop("conversation_from").items()}
    files = [(file.type, file.file_url, file.thumb_url) for file in message.attachments or []]
    return message.text, message.date, lead, peer, files


if __name__ == "__main__":
    unittest.main()
