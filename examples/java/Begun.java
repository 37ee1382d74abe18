import io.grpc.*;
import java.util.concurrent.*;

/** Waits for the response headers of a call, which the blocking stub does not show, or for its end. */
class Begun implements ClientInterceptor {
  private final CountDownLatch headers = new CountDownLatch(1);

  void await() throws InterruptedException { headers.await(); }

  @Override
  public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
    return new ForwardingClientCall.SimpleForwardingClientCall<Q, R>(next.newCall(method, options)) {
      @Override
      public void start(Listener<R> listener, Metadata metadata) {
        super.start(new ForwardingClientCallListener.SimpleForwardingClientCallListener<R>(listener) {
          @Override public void onHeaders(Metadata received) { headers.countDown(); super.onHeaders(received); }
          @Override public void onClose(Status status, Metadata trailers) { headers.countDown(); super.onClose(status, trailers); }
        }, metadata);
      }
    };
  }
}
