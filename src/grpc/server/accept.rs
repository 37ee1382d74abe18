//! Accepts connections, never ending for an error, and opens them: TLS, and who the other end is.

use std::{
    future::{Ready, ready},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::{certificate_subject::subject, tls::Tls};
use crate::{domain::caller::Peer, metrics::CloseReason};

/// How long to wait after an accept that failed, for example since no file descriptor is free. Without it the loop would
/// spin until one is.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What every TLS connection begins with: the type of a handshake's record.
const TLS_HANDSHAKE: u8 = 22;

/// A connection that was accepted and is not open yet.
pub(crate) struct Accepted<F> {
    /// Whose it is, if the transport knows.
    pub(crate) address: Option<IpAddr>,
    /// Comes to the open connection.
    pub(crate) opening: F,
}

/// Why a connection did not open.
#[derive(Debug)]
pub(crate) struct NotOpened {
    /// What it counts as; `None` if the client just went away.
    pub(crate) reason: Option<CloseReason>,
    pub(crate) error: String,
}

/// A connection over TCP, with TLS or without.
pub(crate) type TcpConnection = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// What `listener` accepts. Each is accepted when it is asked for; those that are not wait in the listener's backlog.
pub(crate) fn accepted(
    listener: TcpListener,
    tls: Option<Tls>,
) -> impl Stream<Item = Accepted<impl Future<Output = Result<(TcpConnection, Peer), NotOpened>> + Send>> {
    stream::unfold((listener, tls), async |(listener, tls)| {
        let (stream, address) = accept(&listener).await;
        let opening = open(stream, address, tls.clone());
        Some((Accepted { address: Some(address.ip()), opening }, (listener, tls)))
    })
}

/// Connections that are open from the start.
pub(crate) fn opened<T>(
    accepted: impl Stream<Item = T>,
) -> impl Stream<Item = Accepted<Ready<Result<(T, Peer), NotOpened>>>>
where
    T: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer>,
{
    accepted.map(|stream| {
        let peer = stream.connect_info();
        let address = peer.address.map(|address| address.ip());
        Accepted { address, opening: ready(Ok((stream, peer))) }
    })
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => match stream.set_nodelay(true) {
                Ok(()) => return (stream, address),
                // Gone before it was served.
                Err(error) => tracing::debug!(%error, "a connection broke as it was accepted"),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn open(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Tls>,
) -> Result<(TcpConnection, Peer), NotOpened> {
    let peer = Peer { address: Some(address), certificate: None };
    let Some(tls) = tls else { return Ok((Either::Left(stream), peer)) };
    // Whoever does not speak TLS says so with the first byte, and need not send as many as a record's head has.
    let mut first = [0];
    let sent = stream.peek(&mut first).await?;
    if sent == 1 && first[0] != TLS_HANDSHAKE {
        return Err(NotOpened::because(CloseReason::HandshakeFailed, "it does not begin as TLS does"));
    }
    let stream = tls.acceptor().accept(stream).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => error.into(),
        _ => NotOpened::because(CloseReason::HandshakeFailed, error.to_string()),
    })?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.map(subject).transpose().map_err(|problem| {
        NotOpened::because(CloseReason::HandshakeFailed, format!("the certificate {problem}"))
    })?;
    Ok((Either::Right(Box::new(stream)), Peer { certificate, ..peer }))
}

impl NotOpened {
    pub(crate) fn because(reason: CloseReason, error: impl Into<String>) -> Self {
        Self { reason: Some(reason), error: error.into() }
    }
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> Self {
        Self { reason: None, error: error.to_string() }
    }
}
