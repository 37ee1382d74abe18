//! Receivers behind TLS, over HTTP/1.1 and HTTP/2, and the authorities that vouch for them and for their clients.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

/// Where requests are read and then reset.
pub const RESET: &str = "/reset";

/// Issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Issued {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// The same in PEM.
    pub pem: String,
    /// Its key.
    pub key: KeyPair,
}

impl Authority {
    /// One that nobody knows.
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Of one name they would be one authority, with a signature that is wrong.
        let name = format!("authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A certificate for a name, with a key of its own.
    pub fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { der: certificate.der().clone(), pem: certificate.pem(), key }
    }
}

/// A request as hyper understood it, and what TLS told.
pub struct Understood {
    /// The number of its connection, from 0.
    pub connection: usize,
    /// The name that was asked for.
    pub server_name: Option<String>,
    /// What the client showed.
    pub client: Option<CertificateDer<'static>>,
    pub version: Version,
    pub authority: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// How a receiver is set up.
pub struct Setup<'a> {
    /// What it speaks.
    pub protocols: &'a [&'a str],
    /// How long its answers are.
    pub length: usize,
    /// What its certificate is for.
    pub name: &'a str,
    /// Whose certificates its clients must show.
    pub clients: Option<&'a Authority>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { protocols: &["h2", "http/1.1"], length: 2, name: "localhost", clients: None }
    }
}

/// Listens on loopback with a certificate of an authority of its own.
pub struct TlsReceiver {
    pub address: SocketAddr,
    pub authority: Authority,
    pub understood: Arc<Mutex<Vec<Understood>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// What TLS tells about a connection.
#[derive(Clone)]
struct Told {
    connection: usize,
    server_name: Option<String>,
    client: Option<CertificateDer<'static>>,
}

impl TlsReceiver {
    /// For localhost and any client: speaks `protocols` and answers with `length` bytes.
    pub async fn start(protocols: &[&str], length: usize) -> Self {
        Self::with(Setup { protocols, length, ..Setup::default() }).await
    }

    pub async fn with(setup: Setup<'_>) -> Self {
        let authority = Authority::new();
        let acceptor = TlsAcceptor::from(Arc::new(config(&authority, &setup)));
        let length = setup.length;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut receiver = Self {
            address: listener.local_addr().unwrap(),
            authority,
            understood: Arc::default(),
            connections: Arc::default(),
            _tasks: JoinSet::new(),
        };
        let (understood, connections) = (Arc::clone(&receiver.understood), Arc::clone(&receiver.connections));
        receiver._tasks.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = connections.fetch_add(1, Ordering::Relaxed);
                let (acceptor, understood) = (acceptor.clone(), Arc::clone(&understood));
                serving.spawn(async move {
                    let stream = match acceptor.accept(stream).into_fallible().await {
                        Ok(stream) => stream,
                        // A client that does not trust the certificate ends here, and one that is not trusted: it is
                        // told why, and would not read that if what it has sent were thrown back at it.
                        Err((_, mut refused)) => {
                            drop(tokio::io::copy(&mut refused, &mut tokio::io::sink()).await);
                            return;
                        }
                    };
                    let tls = stream.get_ref().1;
                    let told = Told {
                        connection,
                        server_name: tls.server_name().map(str::to_owned),
                        client: tls.peer_certificates().map(|chain| chain[0].clone().into_owned()),
                    };
                    let service = hyper::service::service_fn(move |request| {
                        understand(request, told.clone(), Arc::clone(&understood), length)
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    // Ends with an error when the client goes away in the middle.
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        self.url_at("localhost")
    }

    /// A URL with another host, which somebody must resolve.
    pub fn url_at(&self, host: &str) -> String {
        format!("https://{host}:{}/hook", self.address.port())
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn config(authority: &Authority, setup: &Setup<'_>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match setup.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let Issued { der, key, .. } = authority.issue(setup.name);
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = builder.with_single_cert(vec![der], key).unwrap();
    config.alpn_protocols = setup.protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

async fn understand(
    request: Request<Incoming>,
    told: Told,
    understood: Arc<Mutex<Vec<Understood>>>,
    length: usize,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let is_reset = head.uri.path() == RESET;
    let Told { connection, server_name, client } = told;
    understood.lock().unwrap().push(Understood {
        connection,
        server_name,
        client,
        version: head.version,
        authority: head.uri.authority().map(ToString::to_string),
        headers: head.headers,
        body,
    });
    if is_reset {
        return Err(io::Error::other("the stream is reset instead of an answer"));
    }
    Ok(Response::new(Full::new(Bytes::from(vec![b'x'; length]))))
}
