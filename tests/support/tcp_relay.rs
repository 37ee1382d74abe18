//! A connection to a gateway that breaks when a test says so.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A relay in front of a gateway, to be cut at any moment.
pub struct TcpRelay {
    pub address: SocketAddr,
    relaying: JoinSet<()>,
}

impl TcpRelay {
    /// Passes one connection on to `gateway`, and nothing back unless `responds`.
    pub async fn to(gateway: SocketAddr, responds: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut relaying = JoinSet::new();
        relaying.spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let gateway = TcpStream::connect(gateway).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_gateway, mut to_gateway)) =
                (client.into_split(), gateway.into_split());
            let back = async {
                // However that ends, the connection is over.
                drop(match responds {
                    true => copy(&mut from_gateway, &mut to_client).await,
                    false => copy(&mut from_gateway, &mut tokio::io::sink()).await,
                });
                drop(to_client.shutdown().await);
            };
            let (there, ()) = tokio::join!(copy(&mut from_client, &mut to_gateway), back);
            drop(there);
        });
        Self { address, relaying }
    }

    pub async fn cut(mut self) {
        self.relaying.shutdown().await;
    }
}
