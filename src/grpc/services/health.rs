//! `grpc.health.v1`.

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

/// The health of all services together: serving or not. Starts as not serving. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<bool>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Health {
    /// Reports serving from now on.
    pub fn set_serving(&self) {
        self.0.send_replace(true);
    }

    /// Reports not serving from now on.
    pub fn set_not_serving(&self) {
        self.0.send_replace(false);
    }

    /// Whether it reports serving.
    pub fn is_serving(&self) -> bool {
        *self.0.borrow()
    }
}

/// Handler of health checks of `services`, and of `""`, the server.
pub(in crate::grpc) struct HealthService {
    pub(in crate::grpc) health: Health,
    pub(in crate::grpc) services: Vec<&'static str>,
    pub(in crate::grpc) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !self.knows(service) {
            // As the protocol demands. There is no resource to name.
            return Err(Status::new(Code::NotFound, "no such service"));
        }
        Ok(Response::new(response(self.health.is_serving())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let changes = WatchStream::new(self.health.0.subscribe())
            .map(move |serving| Ok(if known { response(serving) } else { unknown }));
        // Ends at the shutdown with a last status: a watch that stays open would delay the drain.
        let last = if known { response(false) } else { unknown };
        let end = stream::iter([Ok(last), Err(GrpcError::shutting_down().into())]);
        Ok(Response::new(Box::pin(changes.take_until(self.shutdown.clone().cancelled_owned()).chain(end))))
    }
}

impl HealthService {
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn response(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}
