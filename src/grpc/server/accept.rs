//! Completes the handshake of an accepted connection: TLS, and the client's identity.

use std::{io, net::SocketAddr};

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::{certificate_subject::subject, tls::Tls};
use crate::{domain::caller::Peer, metrics::CloseReason};

/// The first byte of every TLS connection: the type of a handshake record.
const TLS_HANDSHAKE: u8 = 22;

/// The error of a connection that was closed before it served a call.
#[derive(Debug)]
pub(super) struct AcceptError {
    /// Its metric label; `None` if the client just went away.
    pub(super) reason: Option<CloseReason>,
    pub(super) error: String,
}

/// A connection over TCP, with TLS or without.
pub(super) type TcpConnection = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Completes the TLS handshake, if there is TLS, and reads the client's certificate.
///
/// # Errors
///
/// The client does not speak TLS, fails the handshake, or its certificate has no usable subject.
pub(super) async fn handshake(
    stream: TcpStream,
    address: Option<SocketAddr>,
    tls: Option<Tls>,
) -> Result<(TcpConnection, Peer), AcceptError> {
    let peer = Peer { address, certificate: None };
    let Some(tls) = tls else { return Ok((Either::Left(stream), peer)) };
    // A client that does not speak TLS shows it in its first byte, and may never send a whole record header.
    let mut first = [0];
    let sent = stream.peek(&mut first).await?;
    if sent == 1 && first[0] != TLS_HANDSHAKE {
        return Err(AcceptError::new(CloseReason::HandshakeFailed, "it does not begin with a TLS handshake"));
    }
    let stream = tls.acceptor().accept(stream).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => error.into(),
        _ => AcceptError::new(CloseReason::HandshakeFailed, error.to_string()),
    })?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.map(subject).transpose().map_err(|problem| {
        AcceptError::new(CloseReason::HandshakeFailed, format!("the certificate {problem}"))
    })?;
    Ok((Either::Right(Box::new(stream)), Peer { certificate, ..peer }))
}

/// A connection that needs no handshake, such as one of a simulated network.
pub(super) fn already_open<T: Connected<ConnectInfo = Peer>>(stream: T) -> Result<(T, Peer), AcceptError> {
    let peer = stream.connect_info();
    Ok((stream, peer))
}

impl AcceptError {
    pub(super) fn new(reason: CloseReason, error: impl Into<String>) -> Self {
        Self { reason: Some(reason), error: error.into() }
    }
}

impl From<io::Error> for AcceptError {
    fn from(error: io::Error) -> Self {
        Self { reason: None, error: error.to_string() }
    }
}
