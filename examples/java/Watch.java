import io.github.tidings_gateway.tidings.v1.*;
import io.grpc.*;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.*;

/** A watch: the interceptor sees the response headers, which no stub shows; the observer keeps the changes until they are asked for. */
class Watch implements ClientInterceptor, StreamObserver<WatchDeliveriesResponse> {
  private final CountDownLatch headers = new CountDownLatch(1);
  private final BlockingQueue<Callable<Delivery>> changes = new LinkedBlockingQueue<>();

  /** Waits for the response headers, or for the call's end. */
  void awaitBegin() throws InterruptedException { headers.await(); }

  /** Waits for the next change. */
  Delivery next() throws Exception { return changes.take().call(); }

  @Override public void onNext(WatchDeliveriesResponse change) { changes.add(change::getDelivery); }
  @Override public void onError(Throwable error) { changes.add(() -> { throw new ExecutionException(error); }); }
  @Override public void onCompleted() { onError(new IllegalStateException("the watch ended")); }

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
