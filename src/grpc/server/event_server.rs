//! `EventService` as it is served: as generated, but for the messages of StreamPublishEvents. One that cannot be read
//! reaches the handler as such, and the stream continues.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::{
    body::Body,
    codec::CompressionEncoding::{Gzip, Zstd},
    server::{Grpc, NamedService},
};
use tower::{Service, service_fn};

use crate::{
    grpc::{services::events::Events, wire::stream_codec::PublishStreamCodec},
    proto::v1::event_service_server::EventServiceServer,
};

/// The path of the method that is served here.
const STREAM_PATH: &str = "/tidings.v1.EventService/StreamPublishEvents";

/// The server of `EventService`.
#[derive(Clone)]
pub(super) struct EventServer {
    generated: EventServiceServer<Events>,
    events: Arc<Events>,
    message_bytes_max: usize,
}

impl EventServer {
    /// With messages of up to `message_bytes_max` bytes.
    pub(super) fn new(events: Events, message_bytes_max: usize) -> Self {
        let events = Arc::new(events);
        let generated = EventServiceServer::from_arc(Arc::clone(&events))
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .max_decoding_message_size(message_bytes_max);
        Self { generated, events, message_bytes_max }
    }
}

impl NamedService for EventServer {
    const NAME: &'static str = EventServiceServer::<Events>::NAME;
}

impl Service<Request<Body>> for EventServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        <EventServiceServer<Events> as Service<Request<Body>>>::Future,
        Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != STREAM_PATH {
            return Either::Left(self.generated.call(request));
        }
        let (events, bytes_max) = (Arc::clone(&self.events), self.message_bytes_max);
        Either::Right(Box::pin(async move {
            let mut grpc = Grpc::new(PublishStreamCodec)
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
                .max_decoding_message_size(bytes_max);
            let method = service_fn(move |request| {
                let events = Arc::clone(&events);
                async move { events.publish_stream(request) }
            });
            Ok(grpc.streaming(method, request).await)
        }))
    }
}
