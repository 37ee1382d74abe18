//! gRPC without a gateway: the publisher, and a server with the gateway's contract that responds at once.

use std::{net::SocketAddr, pin::Pin};

use futures_util::Stream;
use tidings::proto::v1::{
    self,
    event_service_server::{EventService, EventServiceServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{
    children::{self, Helper, Role},
    load::{Load, Way},
    wire::{EchoAt, PublishOrder, Published},
};

/// Calls per second, and the server's CPU time for 10,000.
pub fn measure(in_flight: usize, count: u64) -> anyhow::Result<(f64, Option<f64>)> {
    let (mut server, mut publisher) = (Helper::start(Role::Echo)?, Helper::start(Role::Publisher)?);
    let EchoAt { address } = server.answer()?;
    let load = Load { way: Way::Unary { in_flight }, events: count, accounts: 1, inboxes: 0 };
    let warm_up = Load { events: count / 20 + 1, ..load };
    let _: Published = publisher.ask(&PublishOrder { address, token: None, load: warm_up })?;
    let before = server.usage()?;
    let published: Published = publisher.ask(&PublishOrder { address, token: None, load })?;
    let cpu_seconds = server.usage()?.cpu_seconds - before.cpu_seconds;
    let seconds = (published.last - published.first) as f64 / 1e6;
    Ok((count as f64 / seconds, Some(cpu_seconds / count as f64 * 10_000.0)))
}

/// Serves until standard input is closed.
pub fn serve() -> anyhow::Result<()> {
    // The gateway's number of threads.
    let runtime = tokio::runtime::Runtime::new()?;
    let address = runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        tokio::spawn(
            Server::builder()
                .tcp_nodelay(true)
                .add_service(EventServiceServer::new(Echo))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        anyhow::Ok(address)
    })?;
    children::say(&EchoAt { address })?;
    // There are no orders: this waits for the end of standard input.
    children::obey(|(): ()| Ok(()))
}

struct Echo;

#[tonic::async_trait]
impl EventService for Echo {
    async fn publish_event(
        &self,
        request: Request<v1::PublishEventRequest>,
    ) -> Result<Response<v1::PublishEventResponse>, Status> {
        // About as long as the gateway's response.
        let event = format!("{}/events/00000000-0000-0000-0000-000000000000", request.get_ref().parent);
        let result = v1::PublishResult { event, delivery_count: Some(1), ..v1::PublishResult::default() };
        Ok(Response::new(v1::PublishEventResponse { result: Some(result) }))
    }

    async fn batch_publish_events(
        &self,
        _: Request<v1::BatchPublishEventsRequest>,
    ) -> Result<Response<v1::BatchPublishEventsResponse>, Status> {
        Err(not_here())
    }

    type StreamPublishEventsStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamPublishEventsResponse, Status>> + Send>>;

    async fn stream_publish_events(
        &self,
        _: Request<Streaming<v1::StreamPublishEventsRequest>>,
    ) -> Result<Response<Self::StreamPublishEventsStream>, Status> {
        Err(not_here())
    }

    async fn get_event(
        &self,
        _: Request<v1::GetEventRequest>,
    ) -> Result<Response<v1::GetEventResponse>, Status> {
        Err(not_here())
    }

    async fn list_events(
        &self,
        _: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        Err(not_here())
    }

    async fn render_event(
        &self,
        _: Request<v1::RenderEventRequest>,
    ) -> Result<Response<v1::RenderEventResponse>, Status> {
        Err(not_here())
    }
}

fn not_here() -> Status {
    Status::unimplemented("this server has only PublishEvent")
}
