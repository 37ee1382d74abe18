//! Calls with bodies that no gRPC library would send, over a connection that a library looks after.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

type Sent = Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>;

/// A connection for calls.
#[derive(Clone)]
pub struct Calls(SendRequest<Sent>);

/// The sender of a body that does not end by itself.
pub type Parts = mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;

impl Calls {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// As [`Calls::connect`], from one of this machine's addresses.
    pub async fn connect_from(from: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        Self::over(socket.connect(address).await.unwrap()).await
    }

    async fn over(stream: TcpStream) -> Self {
        let (calls, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(calls)
    }

    /// Calls with a whole body. Returns the gRPC status of the response, if it has one.
    pub async fn call(&self, path: &str, encoding: &str, body: Vec<u8>) -> Option<u32> {
        let body: Sent = Box::pin(Full::new(Bytes::from(body)));
        let response = self.0.clone().send_request(request(path, encoding, body)).await.ok()?;
        status(response).await
    }

    /// Calls with a body that is sent part by part.
    pub fn open(
        &self,
        path: &str,
    ) -> (Parts, impl Future<Output = hyper::Result<Response<Incoming>>> + use<>) {
        let (parts, frames) = mpsc::unbounded_channel();
        let body: Sent = Box::pin(StreamBody::new(UnboundedReceiverStream::new(frames)));
        (parts, self.0.clone().send_request(request(path, "identity", body)))
    }
}

/// The gRPC status of a response.
pub async fn status(response: Response<Incoming>) -> Option<u32> {
    let of = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    if let Some(status) = of(response.headers()) {
        return Some(status);
    }
    of(response.into_body().collect().await.ok()?.trailers()?)
}

fn request(path: &str, encoding: &str, body: Sent) -> Request<Sent> {
    Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", encoding)
        .body(body)
        .unwrap()
}
