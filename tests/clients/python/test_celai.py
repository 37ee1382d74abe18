"""A bot that takes Chatwoot's webhooks, celai-chatwoot, takes those of the gateway: with its own router, over HTTP.

It answers every message of a contact at Chatwoot's API, which a receiver stands for here.
"""

import itertools
import json
import os
import queue
import socket
import threading
import unittest

import grpc
import uvicorn
from cel.assistants.base_assistant import BaseAssistant
from cel.assistants.common import EventResponse
from cel.gateway.message_gateway import MessageGateway
from celai_chatwoot.connector import WootConnector
from celai_chatwoot.connector.model.woot_attachment import WootAttachment, WootLocationAttachment
from celai_chatwoot.connector.model.woot_message import WootMessage
from loguru import logger

from receiver import ARRIVAL_TIMEOUT_S, Receiver
from tidings.v1 import (
    chatwoot_pb2,
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    subscription_pb2,
    subscription_service_pb2,
    subscription_service_pb2_grpc,
)

CALL_TIMEOUT_S = 30
ACCESS_KEY = "the bot's own key"
CHATWOOT = subscription_pb2.Subscription.PAYLOAD_FORMAT_CHATWOOT
DOCUMENTED = subscription_pb2.Subscription.PAYLOAD_FORMAT_DOCUMENTED
PICTURE = "https://chat.example.com/blobs/cat.png"

accounts = itertools.count(4001)


class Parrot(BaseAssistant):
    """Keeps the messages that reach it, and says them again."""

    def __init__(self):
        super().__init__(name="Parrot")
        self.messages = queue.Queue()
        self.event("message")(self.on_message)

    async def on_message(self, lead, message):
        self.messages.put(message)
        if message.text:
            await lead.connector.send_text_message(lead, f"You said: {message.text}")
        return EventResponse(disable_ai_response=True)

    async def new_message(self, message, local_state=None):
        raise AssertionError("no language model is asked")

    blend = process_client_command = append_message_to_history = new_message


class Bot:
    """The bot as its users run it, on a port of its own, but for telling a Chatwoot where it is."""

    def __init__(self, chatwoot, account):
        self.assistant = Parrot()
        self.connector = WootConnector(
            bot_name="Parrot",
            account_id=str(account),
            access_key=ACCESS_KEY,
            chatwoot_url=f"http://{chatwoot}",
            inbox_id="3",
        )
        gateway = MessageGateway(assistant=self.assistant, webhook_url="https://bot.example.com")
        gateway.register_connector(self.connector)
        listener = socket.create_server(("127.0.0.1", 0))
        path = f"/chatwoot/webhook/{self.connector.security_token}"
        self.url = "http://{}:{}{}".format(*listener.getsockname(), path)
        # What it cannot take it answers with 200 as well: only its log tells.
        self.log = queue.Queue()
        self.errors = []
        self.sink = logger.add(self._write, format="{message}")
        # Its start would make itself known to a Chatwoot.
        self.server = uvicorn.Server(uvicorn.Config(gateway.app, lifespan="off", log_config=None))
        self.thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self.thread.start()

    def _write(self, line):
        self.log.put((line.record["level"].name, line.record["message"]))

    def logged(self, beginning):
        """Reads the log up to a line that begins so; raises queue.Empty if none comes in time."""
        message = ""
        while not message.startswith(beginning):
            level, message = self.log.get(timeout=ARRIVAL_TIMEOUT_S)
            if level in ("ERROR", "CRITICAL"):
                self.errors.append(message)

    def message(self):
        """The next message that reached the assistant; raises queue.Empty if none comes in time."""
        return self.assistant.messages.get(timeout=ARRIVAL_TIMEOUT_S)

    def close(self):
        self.server.should_exit = True
        self.thread.join()
        logger.remove(self.sink)


class CelaiTest(unittest.TestCase):
    """Each test has an account, a bot and a Chatwoot of its own."""

    @classmethod
    def setUpClass(cls):
        logger.remove()

    def setUp(self):
        channel = grpc.insecure_channel(os.environ["GATEWAY"])
        self.addCleanup(channel.close)
        self.subscriptions = subscription_service_pb2_grpc.SubscriptionServiceStub(channel)
        self.events = event_service_pb2_grpc.EventServiceStub(channel)
        self.account = next(accounts)
        self.parent = f"accounts/{self.account}"
        self.chatwoot = Receiver(answer=b"{}")
        self.addCleanup(self.chatwoot.close)
        self.bot = Bot(self.chatwoot.address, self.account)
        self.addCleanup(self.bot.close)

    def subscribe(self, payload_format=CHATWOOT):
        subscription = subscription_pb2.Subscription(
            url=self.bot.url,
            event_types=[event_pb2.EVENT_TYPE_MESSAGE_CREATED, event_pb2.EVENT_TYPE_MESSAGE_UPDATED],
            payload_format=payload_format,
        )
        request = subscription_service_pb2.CreateSubscriptionRequest(parent=self.parent, subscription=subscription)
        self.subscriptions.CreateSubscription(request, timeout=CALL_TIMEOUT_S)

    def publish(self, event):
        request = event_service_pb2.PublishEventRequest(parent=self.parent, event=event)
        self.assertEqual(self.events.PublishEvent(request, timeout=CALL_TIMEOUT_S).result.delivery_count, 1)

    def incoming(self, **fields):
        """A message of a contact, as a service has it: what the conversation repeats of it is left out."""
        contact = chatwoot_pb2.Contact(
            id=5,
            name="Zoë",
            avatar="https://chat.example.com/zoe.png",
            email="zoe@example.com",
            phone_number="+4915170000000",
            identifier="customer-5",
        )
        contact.additional_attributes.update({"city": "Köln"})
        message = chatwoot_pb2.Message(
            id=11,
            message_type=chatwoot_pb2.MESSAGE_TYPE_INCOMING,
            account=chatwoot_pb2.Account(id=self.account, name="Acme"),
            inbox=chatwoot_pb2.Inbox(id=3, name="Website"),
            conversation=chatwoot_pb2.Conversation(
                id=7, inbox_id=3, status="open", meta=chatwoot_pb2.ConversationMeta(sender=contact)
            ),
            sender=chatwoot_pb2.Sender(contact=contact),
            **fields,
        )
        message.created_at.FromJsonString("2024-09-06T23:16:34.107Z")
        return message

    def created(self, message):
        return event_pb2.Event(message_created=event_pb2.MessageCreated(message=message))

    def test_it_reads_a_message_and_answers_in_its_conversation(self):
        self.subscribe()
        self.publish(self.created(self.incoming(content="Hi", source_id="wamid.1")))

        message = self.bot.message()
        self.assertIsInstance(message, WootMessage)
        # Both are of the one element of conversation.messages.
        self.assertEqual((message.text, message.date), ("Hi", 1725664594))
        self.assertIsNone(message.attachments)
        lead = message.lead
        self.assertEqual((lead.account_id, lead.inbox_id, lead.conversation_id), (str(self.account), "3", "7"))
        self.assertEqual(lead.message_type, "incoming")
        self.assertEqual(lead.get_session_id(), f"{self.bot.connector.name()}:{self.account}:3:7")
        metadata = {name: lead.metadata[name] for name in ("inbox_id", "event", "message_type", "private", "date")}
        self.assertEqual(
            metadata,
            {
                "inbox_id": 3,
                "event": "message_created",
                "message_type": "incoming",
                "private": False,
                "date": "2024-09-06T23:16:34.107Z",
            },
        )
        peer = lead.conversation_from
        self.assertEqual(
            peer.to_dict(),
            {
                "name": "Zoë",
                "metadata": {"city": "Köln"},
                "id": "5",
                "phone": "+4915170000000",
                "avatarUrl": "https://chat.example.com/zoe.png",
                "email": "zoe@example.com",
            },
        )

        answer = self.chatwoot.next()
        self.assertEqual(answer.path, f"/api/v1/accounts/{self.account}/conversations/7/messages")
        self.assertEqual(answer.headers["api_access_token"], ACCESS_KEY)
        said = json.loads(answer.body)
        self.assertEqual((said["content"], said["message_type"]), ("You said: Hi", "outgoing"))
        self.bot.logged("Event response has disabled AI response")
        self.assertEqual(self.bot.errors, [])

    def test_it_reads_attachments(self):
        message = self.incoming()
        common = {"message_id": 11, "account_id": self.account}
        message.attachments.add(
            id=1, file_type="image", data_url=PICTURE, thumb_url=f"{PICTURE}?small", file_size=7989, **common
        )
        message.attachments.add(id=2, file_type="audio", data_url="https://chat.example.com/blobs/hi.ogg", **common)
        message.attachments.add(id=3, file_type="file", data_url="https://chat.example.com/blobs/a.pdf", **common)
        place = message.attachments.add(id=4, file_type="location", **common)
        place.extra.update({"coordinates_lat": 50.94, "coordinates_long": 6.96, "fallback_title": None})
        self.subscribe()
        self.publish(self.created(message))

        message = self.bot.message()
        self.assertIsNone(message.text)
        image, audio, file, place = message.attachments
        self.assertIsInstance(image, WootAttachment)
        self.assertEqual((image.type, image.file_url, image.mimeType), ("image", PICTURE, "image/png"))
        self.assertEqual(image.thumb_url, f"{PICTURE}?small")
        self.assertEqual((image.metadata["id"], image.metadata["file_size"]), (1, 7989))
        self.assertEqual((audio.type, audio.title, audio.mimeType), ("audio", "hi.ogg", "audio/ogg"))
        self.assertEqual((file.type, file.title, file.mimeType), ("document", "a.pdf", "application/pdf"))
        self.assertIsInstance(place, WootLocationAttachment)
        self.assertEqual((place.latitude, place.longitude), (50.94, 6.96))
        self.bot.logged("Event response has disabled AI response")
        self.assertEqual(self.bot.errors, [])

    def test_it_passes_its_own_answers_by(self):
        self.subscribe()
        message = self.incoming(content="You said: Hi")
        message.message_type = chatwoot_pb2.MESSAGE_TYPE_OUTGOING
        message.sender.agent_bot.CopyFrom(chatwoot_pb2.AgentBot(id=1, name="Parrot"))
        self.publish(self.created(message))
        self.bot.logged("Ignoring outgoing message")
        self.assertTrue(self.bot.assistant.messages.empty())
        self.assertEqual(self.bot.errors, [])

    def test_it_reads_a_template_without_a_sender_and_an_update(self):
        self.subscribe()
        template = self.incoming(content="Give the team a way to reach you.")
        template.message_type = chatwoot_pb2.MESSAGE_TYPE_TEMPLATE
        template.ClearField("sender")
        self.publish(self.created(template))
        lead = self.bot.message().lead
        self.assertEqual((lead.message_type, lead.conversation_from.name), ("template", None))

        self.publish(event_pb2.Event(message_updated=event_pb2.MessageUpdated(message=self.incoming(content="Hi!"))))
        message = self.bot.message()
        self.assertEqual((message.text, message.lead.metadata["event"]), ("Hi!", "message_updated"))
        self.bot.logged("Event response has disabled AI response")
        self.assertEqual(self.bot.errors, [])

    def test_the_documented_form_is_not_for_it(self):
        self.subscribe(DOCUMENTED)
        self.publish(self.created(self.incoming(content="Hi")))
        self.bot.logged("Error processing chatwoot incoming request to webhook")
        self.assertEqual(len(self.bot.errors), 1)
        self.assertTrue(self.bot.assistant.messages.empty())


if __name__ == "__main__":
    unittest.main()
