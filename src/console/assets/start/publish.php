<?php
// pecl install grpc; composer require grpc/grpc google/protobuf
// protoc -I proto --php_out=. --grpc_out=. --plugin=protoc-gen-grpc=grpc_php_plugin proto/tidings/v1/*.proto
require "vendor/autoload.php";

use Tidings\V1\{Account, Contact, Conversation, Event, EventServiceClient, Message};
use Tidings\V1\{MessageCreated, MessageType, PublishEventRequest, Sender};

$events = new EventServiceClient("{{address}}", ["credentials" => Grpc\ChannelCredentials::createInsecure()]);
$message = (new Message)->setId(1)->setContent("Hi")
    ->setMessageType(MessageType::MESSAGE_TYPE_INCOMING)
    ->setCreatedAt((new Google\Protobuf\Timestamp)->setSeconds(time()))
    ->setSender((new Sender)->setContact((new Contact)->setId(1)->setName("Ann")))
    ->setConversation((new Conversation)->setId(1)->setInboxId(1)->setStatus("open"))
    ->setAccount((new Account)->setId({{account}})->setName("Shop"));
$request = (new PublishEventRequest)
    ->setParent("accounts/{{account}}")
    ->setEventId("message-1-created") // makes the call safe to repeat
    ->setEvent((new Event)->setMessageCreated((new MessageCreated)->setMessage($message)));
$metadata = ["authorization" => ["Bearer " . getenv("TIDINGS_TOKEN")]];
[$response, $status] = $events->PublishEvent($request, $metadata)->wait();
echo $status->code === Grpc\STATUS_OK ? $response->getResult()->getEvent() : $status->details, "\n";
