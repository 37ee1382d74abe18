//! `grpc.health.v1`: whether calls are served.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use crate::grpc::wire::status::GrpcError;

/// Whether calls are served, the same for every service. Starts as not serving. Clones are the same health.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<bool>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Health {
    /// Calls are served from now on.
    pub fn set_serving(&self) {
        self.0.send_replace(true);
    }

    /// Calls are served no more, or not yet.
    pub fn set_not_serving(&self) {
        self.0.send_replace(false);
    }

    /// Whether calls are served.
    pub fn is_serving(&self) -> bool {
        *self.0.borrow()
    }
}

/// Answers for the services that it is told of, and for `""`, the server.
pub(crate) struct HealthService {
    pub(crate) health: Health,
    pub(crate) services: Vec<&'static str>,
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !self.knows(service) {
            // As the protocol has it; there is no resource name to tell.
            return Err(Status::new(Code::NotFound, "no such service"));
        }
        Ok(Response::new(answer(self.health.is_serving())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let changes = WatchStream::new(self.health.0.subscribe())
            .map(move |serving| Ok(if known { answer(serving) } else { unknown }));
        // Ends with the server, after a last word: a watch that stays open would hold up the drain.
        let last = if known { answer(false) } else { unknown };
        let farewell = stream::iter([Ok(last), Err(GrpcError::shutting_down().into())]);
        Ok(Response::new(Box::pin(
            changes.take_until(self.shutdown.clone().cancelled_owned()).chain(farewell),
        )))
    }
}

impl HealthService {
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn answer(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}
