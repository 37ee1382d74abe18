# gem install grpc grpc-tools
# grpc_tools_ruby_protoc -I proto --ruby_out=. --grpc_out=. proto/tidings/v1/*.proto
$LOAD_PATH.unshift "."
require "grpc"
require "tidings/v1/event_service_services_pb"

include Tidings::V1
events = EventService::Stub.new("{{address}}", :this_channel_is_insecure)
message = Message.new(
  id: 1, content: "Hi", message_type: :MESSAGE_TYPE_INCOMING, created_at: Time.now,
  sender: Sender.new(contact: Contact.new(id: 1, name: "Ann")),
  conversation: Conversation.new(id: 1, inbox_id: 1, status: "open"),
  account: Account.new(id: {{account}}, name: "Shop")
)
request = PublishEventRequest.new(
  parent: "accounts/{{account}}",
  event_id: "message-1-created", # makes the call safe to repeat
  event: Event.new(message_created: MessageCreated.new(message: message))
)
puts events.publish_event(request, metadata: { "authorization" => "Bearer #{ENV["TIDINGS_TOKEN"]}" }).result
