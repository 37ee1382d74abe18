//! Authorities, certificates, and clients that show them or trust them.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// The versions of TLS to which a client can be limited.
pub static TLS_1_2: [&SupportedProtocolVersion; 1] = [&TLS12];
pub static TLS_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
static BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// An authority that nobody knows.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate of an authority, and its key.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key: KeyPair,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub enum Valid {
    Now,
    Until2020,
    From2100,
}

impl Authority {
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::default();
        // Of one name they would be one authority, with a signature that is wrong.
        let name = format!("authority {}", MADE.fetch_add(1, Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A certificate of a server of this name.
    pub fn server(&self, name: &str) -> Certificate {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        self.signed(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate of a client.
    pub fn client(&self, name: &str, valid: Valid) -> Certificate {
        self.signed(named(name, valid), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate of this name which is not for clients.
    pub fn not_for_clients(&self, name: &str) -> Certificate {
        self.signed(named(name, Valid::Now), ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn signed(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Certificate {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.0).unwrap();
        Certificate { der: signed.der().clone(), pem: signed.pem(), key }
    }

    /// A client that trusts this authority, and shows nothing.
    pub fn trusting(&self) -> TlsClient {
        TlsClient { roots: self.roots(), versions: &BOTH, shows: None, protocols: vec![b"h2".to_vec()] }
    }

    /// A server of this name, whose clients must show a certificate of `clients`, if there is that authority.
    pub fn server_config(&self, name: &str, protocols: &[&str], clients: Option<&Self>) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(clients.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let Certificate { der, key, .. } = self.server(name);
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = builder.with_single_cert(vec![der], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        roots
    }
}

fn named(name: &str, valid: Valid) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    match valid {
        Valid::Now => {}
        Valid::Until2020 => params.not_after = date_time_ymd(2020, 1, 1),
        Valid::From2100 => params.not_before = date_time_ymd(2100, 1, 1),
    }
    params
}

impl Certificate {
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Writes `cert.pem` and `key.pem` as a rotation does: each whole, by a rename.
    pub fn write(&self, directory: &Path) {
        replace(&directory.join("key.pem"), &self.key_pem());
        replace(&directory.join("cert.pem"), &self.pem);
    }
}

/// Replaces a file.
pub fn replace(file: &Path, text: &str) {
    let new = PathBuf::from(format!("{}.new", file.display()));
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// How a client speaks TLS.
#[derive(Clone)]
pub struct TlsClient {
    roots: RootCertStore,
    versions: &'static [&'static SupportedProtocolVersion],
    shows: Option<(CertificateDer<'static>, Vec<u8>)>,
    protocols: Vec<Vec<u8>>,
}

impl TlsClient {
    /// The same, in this version only.
    pub fn speaking(mut self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self
    }

    /// The same with a certificate.
    pub fn showing(mut self, certificate: &Certificate) -> Self {
        self.shows = Some((certificate.der.clone(), certificate.key.serialize_der()));
        self
    }

    /// The same with these protocols offered.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    fn config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match self.shows.clone() {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                builder.with_client_auth_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.into())).unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config
    }

    /// A connection, once TLS has begun.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(self.config())).connect(name, stream).await
    }

    /// A gRPC client.
    pub async fn channel(&self, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let client = self.clone();
        let connector = service_fn(move |_| {
            let client = client.clone();
            async move { client.connect(address).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await
    }

    /// The certificate that a new connection is shown.
    pub async fn shown(&self, address: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(address).await.expect("TLS begins");
        stream.get_ref().1.peer_certificates().expect("a server shows one")[0].clone()
    }
}
