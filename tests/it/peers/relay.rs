//! A connection to the gateway that breaks when a test says so.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tonic::transport::Endpoint;

use crate::{
    client::Client,
    watched::{Channel, Secrets},
};

/// A relay in front of a gateway, to be cut at any moment.
pub struct Relay {
    address: SocketAddr,
    relaying: JoinSet<()>,
}

impl Relay {
    /// Passes one connection on to `gateway`, and nothing back unless `answers`.
    pub async fn to(gateway: SocketAddr, answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut relaying = JoinSet::new();
        relaying.spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let gateway = TcpStream::connect(gateway).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_gateway, mut to_gateway)) =
                (client.into_split(), gateway.into_split());
            let back = async {
                let mut nowhere = tokio::io::sink();
                let passed = if answers {
                    copy(&mut from_gateway, &mut to_client).await
                } else {
                    copy(&mut from_gateway, &mut nowhere).await
                };
                // However that ended, the connection is over.
                drop(passed);
                drop(to_client.shutdown().await);
            };
            let (there, ()) = tokio::join!(copy(&mut from_client, &mut to_gateway), back);
            drop(there);
        });
        Self { address, relaying }
    }

    pub async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        Client::new(Channel::new(endpoint.connect().await.unwrap(), Secrets::default()))
    }

    pub async fn cut(mut self) {
        self.relaying.shutdown().await;
    }
}
