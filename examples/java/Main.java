// Publishes an event to Tidings over TLS and watches its delivery. ../README.md says how to build and run it.
import com.google.protobuf.util.Durations;
import com.google.rpc.*;
import io.github.tidings_gateway.tidings.v1.*;
import io.grpc.*;
import io.grpc.Status;
import io.grpc.netty.*;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.util.concurrent.*;

public class Main {
  static final String PARENT = "accounts/1", NAME = PARENT + "/subscriptions/example-java";

  /** The detail of this kind in an error, or null. */
  static <T extends com.google.protobuf.Message> T detail(StatusRuntimeException error, Class<T> kind) throws Exception {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    for (com.google.protobuf.Any packed : status == null ? java.util.List.<com.google.protobuf.Any>of() : status.getDetailsList()) if (packed.is(kind)) return packed.unpack(kind);
    return null;
  }
  /** Publishes. Repeats the call, which its event_id makes safe, when the server says how long to wait. */
  static PublishResult publish(EventServiceGrpc.EventServiceBlockingStub events, PublishEventRequest request) throws Exception {
    for (int attempt = 1; ; attempt++) {
      try { return events.withDeadlineAfter(30, TimeUnit.SECONDS).publishEvent(request).getResult(); } catch (StatusRuntimeException error) {
        RetryInfo wait = detail(error, RetryInfo.class);
        if (wait == null || attempt == 5) throw error;
        Thread.sleep(Durations.toMillis(wait.getRetryDelay()));
      }
    }
  }
  public static void main(String[] arguments) throws Exception {
    Metadata token = new Metadata();
    token.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + System.getenv("TIDINGS_TOKEN"));
    ManagedChannel channel = NettyChannelBuilder.forTarget(System.getenv("TIDINGS_ADDRESS")).intercept(MetadataUtils.newAttachHeadersInterceptor(token))
        .sslContext(GrpcSslContexts.forClient().trustManager(new File(System.getenv("TIDINGS_CA"))).build()).build();
    try { SubscriptionServiceGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS).createSubscription(Requests.subscription(PARENT, System.getenv("WEBHOOK_URL"))); } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != Status.Code.ALREADY_EXISTS) throw error;
    }
    Watch watch = new Watch();
    DeliveryServiceGrpc.newStub(channel).withInterceptors(watch).withDeadlineAfter(30, TimeUnit.SECONDS).watchDeliveries(WatchDeliveriesRequest.newBuilder().setParent(NAME).build(), watch);
    watch.awaitBegin(); // From now on no change is missed.
    System.out.println("watch begun");
    var events = EventServiceGrpc.newBlockingStub(channel);
    PublishEventRequest request = Requests.publish(PARENT, 42, "java-" + java.util.UUID.randomUUID());
    for (int i = 0; i < 2; i++) System.out.println("published, duplicate: " + publish(events, request).getDuplicate());
    try { publish(events, Requests.publish(PARENT, 0, "")); } catch (StatusRuntimeException error) {
      for (var violation : detail(error, BadRequest.class).getFieldViolationsList()) System.out.println("refused: " + violation.getField() + " " + violation.getDescription());
    }
    Delivery delivery;
    do delivery = watch.next(); while (!delivery.getName().endsWith("/" + request.getEventId()) || delivery.getState() != Delivery.State.STATE_SUCCEEDED);
    System.out.println("delivered");
    channel.shutdownNow();
  }
}
