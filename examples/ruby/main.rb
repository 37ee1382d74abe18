# Publishes an event to Tidings over TLS and watches its delivery. ../README.md says how to run it.
require "grpc"
require "google/rpc/error_details_pb"
require "google/rpc/status_pb"
require "securerandom"
require "tidings/v1/delivery_service_services_pb"
require "tidings/v1/event_service_services_pb"
require "tidings/v1/subscription_service_services_pb"
include Tidings::V1

PARENT = "accounts/1"
NAME = "#{PARENT}/subscriptions/example-ruby"
TOKEN = GRPC::Core::CallCredentials.new(proc { { authorization: "Bearer #{ENV.fetch("TIDINGS_TOKEN")}" } })
CREDENTIALS = GRPC::Core::ChannelCredentials.new(File.read(ENV.fetch("TIDINGS_CA"))).compose(TOKEN)
EVENTS, SUBSCRIPTIONS, DELIVERIES = [EventService, SubscriptionService, DeliveryService].map do |service|
  service::Stub.new(ENV.fetch("TIDINGS_ADDRESS"), CREDENTIALS, timeout: 30)
end

# The detail of this kind in an error, or nil.
def detail(error, kind)
  packed = error.metadata["grpc-status-details-bin"]
  found = packed && Google::Rpc::Status.decode(packed).details.find { |any| any.type_url.end_with?("/#{kind.descriptor.name}") }
  found && kind.decode(found.value)
end

# Publishes. Repeats the call, which its event_id makes safe, when the server says how long to wait.
def publish(request, attempts: 5)
  EVENTS.publish_event(request).result
rescue GRPC::BadStatus => error
  wait = detail(error, Google::Rpc::RetryInfo)
  raise if wait.nil? || (attempts -= 1).zero?
  sleep(wait.retry_delay.seconds + wait.retry_delay.nanos / 1e9)
  retry
end

def message(id)
  Event.new(message_created: MessageCreated.new(message: Message.new(
    id: id, content: "Hello", message_type: :MESSAGE_TYPE_INCOMING, created_at: Time.now, account: Account.new(id: 1),
    sender: Sender.new(contact: Contact.new(id: 7, name: "Ann")), conversation: Conversation.new(id: 3, inbox_id: 1, account_id: 1, status: "open"))))
end

subscription = Subscription.new(url: ENV.fetch("WEBHOOK_URL"), event_types: [:EVENT_TYPE_MESSAGE_CREATED])
begin
  SUBSCRIPTIONS.create_subscription(CreateSubscriptionRequest.new(parent: PARENT, subscription_id: "example-ruby", subscription: subscription))
rescue GRPC::AlreadyExists
end
request = PublishEventRequest.new(parent: PARENT, event_id: "ruby-#{SecureRandom.uuid}", event: message(42))
delivery = "#{NAME}/deliveries/#{request.event_id}"
changes = DELIVERIES.watch_deliveries(WatchDeliveriesRequest.new(parent: NAME))
# Ruby's library shows the headers, with which a watch begins, only with the first message. So look at the delivery as well.
watch = Thread.new { changes.find { |change| change.delivery.name == delivery && change.delivery.state == :STATE_SUCCEEDED } }
2.times { puts "published, duplicate: #{publish(request).duplicate}" }
begin
  publish(PublishEventRequest.new(parent: PARENT, event: message(0)))
rescue GRPC::InvalidArgument => error
  detail(error, Google::Rpc::BadRequest).field_violations.each { |violation| puts "refused: #{violation.field} #{violation.description}" }
end
until watch.join(1) || DELIVERIES.get_delivery(GetDeliveryRequest.new(name: delivery)).delivery.state == :STATE_SUCCEEDED; end
puts "delivered"
