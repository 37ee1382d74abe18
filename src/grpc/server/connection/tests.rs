//! The peer that a call sees, over real sockets.

use std::{fs, net::SocketAddr, path::Path};

use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2 as client;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tower::service_fn;

use super::*;
use crate::{
    domain::time::UnixMicros,
    grpc::server::{
        accept::handshake,
        tls::{TlsFiles, TlsListener},
    },
    listen::incoming,
};

/// Serves on a free port, and responds to every call with its peer.
async fn server(tls: Option<Tls>) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = service_fn(async |request: Request<MeteredBody<Incoming>>| {
        let peer = request.extensions().get::<Peer>().cloned();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(format!("{peer:?}")))))
    });
    let metrics = Metrics::new(UnixMicros(0));
    let server = ConnectionServer::new(ConnectionSettings::default(), 16 * 1024, http2(), calls, metrics);
    let shutdown = CancellationToken::new();
    let handshake = move |stream, address| handshake(stream, address, tls.clone());
    tokio::spawn(server.serve(incoming(listener, || {}), handshake, Duration::ZERO, shutdown.clone()));
    (address, shutdown)
}

/// The response to a call on this connection.
async fn response<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: T) -> String {
    let (mut calls, connection) =
        client::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://localhost/").body(Empty::<Bytes>::new()).unwrap();
    let body = calls.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_call_sees_the_address_and_the_certificate_of_its_client() {
    let (address, shutdown) = server(None).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let peer = Peer { address: Some(stream.local_addr().unwrap()), certificate: None };
    assert_eq!(response(stream).await, format!("{:?}", Some(peer)));
    shutdown.cancel();

    let directory = tempfile::tempdir().unwrap();
    let (tls, config) = mutual(directory.path());
    let (address, shutdown) = server(Some(tls)).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let peer = Peer {
        address: Some(stream.local_addr().unwrap()),
        certificate: Some("CN=publisher,O=Acme".to_owned()),
    };
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(response(stream).await, format!("{:?}", Some(peer)));
    shutdown.cancel();
}

/// TLS with certificates of one authority for both ends, and a client with one.
fn mutual(directory: &Path) -> (Tls, ClientConfig) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let (key, client_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "publisher");
    params.distinguished_name.push(DnType::OrganizationName, "Acme");
    let client_certificate = params.signed_by(&client_key, &authority).unwrap();

    let put = |name: &str, text: String| {
        fs::write(directory.join(name), text).unwrap();
        directory.join(name)
    };
    let files = TlsFiles {
        certificate: put("cert.pem", certificate.pem()),
        key: put("key.pem", key.serialize_pem()),
        client_ca: Some(put("clients.pem", authority.pem())),
    };
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![client_certificate.der().clone()],
            PrivateKeyDer::Pkcs8(client_key.serialize_der().into()),
        )
        .unwrap();
    (Tls::load(TlsListener::Grpc, files, Metrics::new(UnixMicros(0))).unwrap(), config)
}
