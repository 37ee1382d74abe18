//! A connection to a gateway that breaks when a test says so.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
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
        Self::passing_back(gateway, if responds { u64::MAX } else { 0 }, true).await
    }

    /// Passes one connection on to `gateway`, and this many bytes back; then it stalls.
    pub async fn stalling_after(bytes: u64, gateway: SocketAddr) -> Self {
        Self::passing_back(gateway, bytes, false).await
    }

    /// What is not passed back is read if `drains`, and left to wait otherwise.
    async fn passing_back(gateway: SocketAddr, bytes: u64, drains: bool) -> Self {
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
                drop(copy(&mut (&mut from_gateway).take(bytes), &mut to_client).await);
                match drains {
                    true => drop(copy(&mut from_gateway, &mut tokio::io::sink()).await),
                    false => std::future::pending().await,
                }
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
