//! A channel to a gateway whose calls carry an access token, if there is one.

use std::net::SocketAddr;

use anyhow::Context;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// The channel.
pub type Authorized = InterceptedService<Channel, Token>;

/// The metadata `authorization`, if calls need it.
#[derive(Clone, Debug)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A channel on a connection of its own.
pub async fn connect(address: SocketAddr, token: Option<&str>) -> anyhow::Result<Authorized> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    let channel = endpoint.connect().await.context("cannot connect to the gateway")?;
    let token = token.map(|token| format!("Bearer {token}").parse()).transpose()?;
    Ok(InterceptedService::new(channel, Token(token)))
}
