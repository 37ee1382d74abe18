// Generate the classes of proto/ with protoc and protoc-gen-grpc-java.
import com.google.protobuf.Timestamp;
import io.grpc.*;
import io.grpc.stub.MetadataUtils;
import tidings.v1.*;

public class Publish {
  public static void main(String[] args) {
    ManagedChannel channel = ManagedChannelBuilder.forTarget("{{address}}").usePlaintext().build();
    Metadata metadata = new Metadata();
    metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER),
        "Bearer " + System.getenv("TIDINGS_TOKEN"));
    var events = EventServiceGrpc.newBlockingStub(channel)
        .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata));
    var message = Message.newBuilder().setId(1).setContent("Hi")
        .setMessageType(MessageType.MESSAGE_TYPE_INCOMING)
        .setCreatedAt(Timestamp.newBuilder().setSeconds(System.currentTimeMillis() / 1000))
        .setSender(Sender.newBuilder().setContact(Contact.newBuilder().setId(1).setName("Ann")))
        .setConversation(Conversation.newBuilder().setId(1).setInboxId(1).setStatus("open"))
        .setAccount(Account.newBuilder().setId({{account}}).setName("Shop"));
    var response = events.publishEvent(PublishEventRequest.newBuilder()
        .setParent("accounts/{{account}}")
        .setEventId("message-1-created") // makes the call safe to repeat
        .setEvent(Event.newBuilder().setMessageCreated(MessageCreated.newBuilder().setMessage(message)))
        .build());
    System.out.println(response.getResult());
    channel.shutdownNow();
  }
}
