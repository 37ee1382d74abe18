import com.google.protobuf.util.Timestamps;
import io.github.tidings_gateway.tidings.v1.*;

/** The requests of the example. */
class Requests {
  static CreateSubscriptionRequest subscription(String parent, String url) {
    Subscription subscription = Subscription.newBuilder().setUrl(url).addEventTypes(EventType.EVENT_TYPE_MESSAGE_CREATED).build();
    return CreateSubscriptionRequest.newBuilder().setParent(parent).setSubscriptionId("example-java").setSubscription(subscription).build();
  }

  static PublishEventRequest publish(String parent, long id, String eventId) {
    Message message = Message.newBuilder().setId(id).setContent("Hello").setMessageType(MessageType.MESSAGE_TYPE_INCOMING)
        .setCreatedAt(Timestamps.fromMillis(System.currentTimeMillis())).setAccount(Account.newBuilder().setId(1))
        .setSender(Sender.newBuilder().setContact(Contact.newBuilder().setId(7).setName("Ann")))
        .setConversation(Conversation.newBuilder().setId(3).setInboxId(1).setAccountId(1).setStatus("open")).build();
    Event event = Event.newBuilder().setMessageCreated(MessageCreated.newBuilder().setMessage(message)).build();
    return PublishEventRequest.newBuilder().setParent(parent).setEventId(eventId).setEvent(event).build();
  }
}
